defmodule Reactor.Python do
  @moduledoc """
  Python contexts: threads with an event loop and a protocol factory of their own, which also run code.

  A Python listener has contexts by itself, see `Reactor.Listener`. This module is for contexts without a
  listener. They serve connections that are handed over to them, and run code:

      iex> {:ok, context} = Reactor.Python.start_context(setup: "from math import sqrt")
      iex> Reactor.Python.exec(context, "x = 16")
      :ok
      iex> Reactor.Python.eval(context, "sqrt(x) + n", %{n: 1})
      {:ok, 5.0}
      iex> Reactor.Python.call(context, :json, :dumps, [[1, nil]])
      {:ok, "[1, null]"}
      iex> Reactor.Python.stop_context(context)
      :ok

  In a tree of your own a context is a child, which should have a name, since its process is another one
  after a restart:

      children = [{Reactor.Python, name: MyApp.Python, python: "my_protocols:MyProtocol"}]

  ## Options

  | option | value | default | meaning |
  |---|---|---|---|
  | `:name` | atom, `{:global, term}`, `{:via, module, term}` | none | a name for the context's process |
  | `:python` | `"module:factory"` or `"module"` | none | makes the protocols of connections that are handed over; without it, what `setup` or `exec/2` gave to `set_protocol_factory` does |
  | `:setup` \\* | Python code, or a list of pieces of it | none | is run once, on the context's thread, before `:python` is imported |
  | `:paths` \\* | list of directories | `[]` | where Python looks first; then in the current directory |
  | `:venv` \\* | directory | none | a virtual environment: see below |
  | `:requirements` \\* | list of texts, as `["numpy>=1.20"]` | `[]` | packages without which the context does not start |
  | `:isolation` \\* | `:shared`, `:subinterpreter`, `:process` | `:shared` | the interpreter that all share, one with a GIL of its own, or an operating system's process: see below |
  | `:rlimit` \\* | keyword: `:as` (bytes), `:cpu` (seconds), `:nofile` | `[]` | what the kernel lets such a process have at most |
  | `:experimental` \\* | boolean | `false` | allow an isolation that this version of Python has not made safe yet |
  | `:callback_timeout` \\* | ms or `:infinity` | `60_000` | how long a callback of a protocol may run |
  | `:stuck_timeout` \\* | ms or `:infinity` | `60_000` | how long a callback or a call may go on after it was interrupted, before the context is given up: see below |
  | `:max_connections` | positive integer or `:infinity` | `:infinity` | how many connections that were handed over are open at most |
  | `:drain_timeout` | ms, up to 4294967295 | `3000` | how long a context that ends lets its connections finish |

  \\* and these are options of a Python listener too, for each of its contexts. Besides, `:first_byte_timeout`,
  `:idle_timeout`, `:stall_timeout`, `:max_lifetime`, `:min_rate`, `:high_watermark` and `:low_watermark` are as in
  `Reactor.Socket.Options`, for connections that are handed over.

  ## Environments

  The first context of the VM decides in which environment Python runs: its `:venv`, or else the one that the
  environment variable `VIRTUAL_ENV` names, or else the Python that Reactor was built for. An environment has to be of the
  same version of Python; a `:venv` that is not is refused, and a `VIRTUAL_ENV` is left alone with a warning. Later contexts add
  the packages of their `:venv` to those of the interpreter that they are in. If it has one of them in another version
  already (`pip`, `setuptools` and `wheel` apart), the context does not start.

  `:requirements` are looked for in what is installed; for this `packaging` or `pip` has to be.

  ## Interpreters

  With `isolation: :subinterpreter` a context has an interpreter with a GIL of its own, and computes beside the others. Modules in
  C that do not say that they can be in several fail to be imported there, with `ImportError`. A fault in Python, or in such a
  module, is one in the VM: `sys.getallocatedblocks()` of Python 3.14, for one, crashes when another interpreter gives memory
  back meanwhile. Where no fault may take the VM along there is `:process`.

  ## Processes

  With `isolation: :process` a context has a process of the operating system for itself. What ends that, be it a fault in an
  extension module, `kill -9`, or its `:rlimit`, ends the context's connections and calls, and nothing else: the
  context is started again, and callers get `{:error, :closed}`. Protocols, `exec/3`, `eval/4`, `call/5`, hand-overs,
  limits, logging and events are the same as elsewhere. What differs:

    * each has a virtual environment, and modules, of its own
    * a call, in or out, costs a trip to another process, some tens of microseconds, and takes at most 256 MiB each way
    * `:rlimit` takes `as: bytes` (address space; Python raises `MemoryError` when it meets it), `cpu: seconds` (the process is ended
      when it has used so much) and `nofile: count` (open files, connections included)
    * a socket for datagrams cannot go there, nor a connection on which TLS has begun already: a listener with `protocol: :udp`, or
      with `:secure` and `route/1`, does not start, and `handoff/3` says `:tls`
    * a number that is handed over is one of the VM's: what Python opens has numbers of its own there
    * its objects cannot be held outside of it (`return: :object`)
    * TLS sessions are resumed only by the process that began them
    * the PROXY header of a connection is in `client_info` alone, not in `Reactor.connections/1`

  When the VM ends, however it does, so do the processes.

  ## What is converted

  | Elixir | Python | and back |
  |---|---|---|
  | `nil`, `true`, `false` | `None`, `True`, `False` | likewise |
  | another atom | `erlang.terms.Atom`, which is a `str` | likewise, if that atom exists |
  | integer, float | `int`, `float` | likewise |
  | binary | `str` if it is UTF-8, else `bytes` | a binary; `bytearray` and `memoryview` too |
  | list, tuple, map | `list`, `tuple`, `dict` | likewise |
  | `MapSet` | `set` | likewise |
  | `Date`, `Time`, `NaiveDateTime`, `DateTime` | `date`, `time`, `datetime` without and with a time zone | likewise |
  | another struct | `dict` | a struct, if its key is `Atom("__struct__")` |
  | pid, port, reference, function | `Pid`, `Port`, `Reference`, `Fun` of `erlang.terms`, which can be kept and given back | likewise |
  | - | a dataclass | a map whose keys are text |

  Anything else is an error that names its type, and where it is: `value["rows"][3]: an instance of decimal.Decimal has
  no counterpart outside Python`. So is what is nested more than 64 deep, has more than 10,000,000 values, or would
  lose something, as a map with the keys `1` and `1.0`, which are one key in Python. The guide
  [Terms in Python](python_terms.md) has all of it.

  Two options of `eval/4` and `call/5`, and the same without waiting, choose:

    * `:binaries` - what the binaries among variables and arguments become: `:auto`, which is the default, is the rule
      above; with `:text` each is `str`, or an error; with `:bytes` each is `bytes`. `bytes/1` is for a single one
    * `:return` - with `:object` the answer is not converted: it is a `Reactor.Python.Object`, to be given to Python
      again. The default is `:value`

  ## Names

  Code that is executed has a module for its names. Each calling process has one of its own in each context: it begins as a
  copy of what the context's own has, which is what `:setup` has set, when the process first executes or evaluates something there,
  and is forgotten when the process ends. A copy is a name for the same thing: lists and modules are not copied, and a function that
  setup has defined finds the names of setup.

  With `namespace: :shared` code has the context's own names, which all processes see that ask for them. A protocol factory
  that is set is the context's, whoever sets it.

  A function that Python calls (see `register_function/2`) has the names of the process that called Python. A `Task` has
  its own. 16,384 processes may have names in a context at once; one more gets `{:error, :overloaded}`.

  ## Coroutines

  What `call/5` and `eval/4` come to may be a coroutine, or anything else that can be awaited. It is awaited on the context's
  thread, by an asyncio loop of the context's, while the context does other things: so many run at once. One whose caller
  gives up, or dies, is cancelled. When the context ends they have its `:drain_timeout`, and are cancelled then. The guide
  [asyncio](python_asyncio.md) has more.

  ## Contexts that do not come back

  What takes too long is interrupted. But Python hears of that only when it runs Python: `time.sleep`, a blocking `recv` and
  long work in a C library come first. Meanwhile the context serves nobody else, and a warning is logged. When that has lasted
  for `:stuck_timeout` the context is given up: its process ends with `{:stuck, callback}`, and whoever supervises it starts another
  one, with its listeners. The thread that is stuck ends, and closes its connections, when Python comes back.

  In `:shared` this helps only as long as what is stuck leaves the GIL to others, as sleeping and waiting do. Code in C
  that keeps the GIL keeps all contexts of the interpreter from running, the new one too.

  ## Errors

  Functions that take a context return

    * `{:error, :noproc}` - no context of this VM is that; a process that is none is not asked
    * `{:error, :closed}` - it ends, or has died meanwhile
    * `{:error, :timeout}` - there was no answer in time, and none will come. What runs is interrupted
    * `{:error, :cancelled}` - it was given up before, by `cancel/1` or because it was awaited long enough
    * `{:error, :overloaded}` - 1,024 calls wait for it already, coroutines that go on included
    * `{:error, %Reactor.Python.Error{}}` - a Python exception

  All code of a context, callbacks of its protocols and calls alike, runs on its one thread, one at a time: a call that
  takes long makes its connections wait. While Python waits for Elixir, with `erlang.call`, calls that descend from that
  are run in between.

  [Calling Python](python_calls.md) is a guide to all this: which timeouts leave a context busy, how Python calls back, and what
  waits for what.
  """

  alias Reactor.ConfigError

  alias Reactor.Python.{
    Bytes,
    Call,
    Context,
    Contexts,
    Conversion,
    Doctor,
    Functions,
    Handoff,
    Items,
    Options
  }

  @type context :: pid | GenServer.name()

  @type failure ::
          :noproc | :closed | :timeout | :overloaded | :cancelled | Reactor.Python.Error.t()

  @call_timeout 5_000

  @doc """
  Starts a context, supervised by this application and not linked to the caller.

  It returns when the setup code has run and the factory's module is imported, which takes as long as
  it takes. A context that dies is started again, with the same options: its process is another one
  then, so give it a name to find it again. What `exec/2` set is gone then, what `:setup` sets is there.
  One that dies more than 3 times within 5 seconds, or fails as often to start, is given up, and an error is logged.

  Errors:

    * `%Reactor.ConfigError{}` - an option that does not exist, or has a wrong value
    * `%Reactor.Python.Error{}` - the setup code raised, the factory cannot be imported, a requirement is not met, an environment
      or an isolation cannot be had; its message says which. Where setup code is no Python, its line has a number there, but no text,
      which could be a secret
    * `{:already_started, pid}` - the name is taken
    * `{:context_died, message}` - its thread ended while it started
    * `:closed` - it was stopped while it started
    * `:not_started` - the application `:reactor` does not run

      iex> {:error, error} = Reactor.Python.start_context(requirements: ["no-such-package>=2"])
      iex> error.type
      "ImportError"
  """
  @spec start_context(keyword) :: {:ok, pid} | {:error, term}
  def start_context(options \\ []) do
    with {:ok, options} <- Options.new(options), do: Contexts.start(options)
  end

  @doc """
  Starts a context that is linked to the caller, or to a supervisor: see `start_context/1`.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, term}
  def start_link(options \\ []) do
    with {:ok, options} <- Options.new(options), do: Context.start_link(options)
  end

  @doc """
  A context as a supervisor's child, `{Reactor.Python, options}`. Its id is the `:name`, if there is one.
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    name = if Keyword.keyword?(options), do: options[:name]

    %{
      id: name || __MODULE__,
      # A supervisor logs this with each report: a function keeps setup code out of it.
      start: {__MODULE__, :start_child, [fn -> options end]},
      # It ends by itself when its :drain_timeout is over.
      shutdown: :infinity
    }
  end

  @doc false
  @spec start_child(fun) :: {:ok, pid} | {:error, term}
  def start_child(options) when is_function(options, 0), do: start_link(options.())

  @doc """
  Lets the connections of a context finish, for its `:drain_timeout`, and ends it. Only the caller waits.

  One that is just being started does not start. If Python hangs in that, its thread ends when it comes back; the
  caller is answered after the `:drain_timeout` and 2 seconds at most.

  A supervisor of your own would start its child again: use `Supervisor.terminate_child/2` there. A context of
  a server is not ended alone: the error is `{:error, :of_a_server}`.
  """
  @spec stop_context(context) :: :ok | {:error, :of_a_server | failure}
  def stop_context(context) do
    case Context.keeper(context) do
      {:ok, nil} -> Context.stop(context)
      {:ok, keeper} -> Contexts.stop(keeper)
      {:error, reason} -> {:error, reason}
    end
  end

  @doc """
  Tells about a context, be it of a server or not.

    * `:name`, `:python`, `:isolation`, `:paths`, `:venv`, `:requirements` - as it was started
    * `:state` - `:running` or `:stopping`
    * `:interpreter` - `:version`, `:executable` and `:libpython`
    * `:os_pid` - with `isolation: :process`, the number of its process
    * `:connections` - how many of those that were handed over are open, and `:handed_over` - how many there ever
      were; `:waiting` - how many of the open ones the context has not taken up yet
    * `:calls_waiting` - how many of `exec/3`, `eval/4`, `call/5` and their asynchronous forms have not been answered
  """
  @spec info(context) :: {:ok, map} | {:error, failure}
  def info(context), do: Context.info(context)

  @doc """
  Executes Python statements in a context. Names that they set are there for later code of the calling process in this
  context. An indentation that all lines have is removed before.

  Options:

    * `:timeout` - in ms, or `:infinity`; by default 5000. What runs then is interrupted: see above
    * `:callers` - pids of processes on whose behalf the caller does this, besides those that a `Task` has in `$callers`.
      A GenServer that calls the context whose Python waits for it gives the pid that it answers:
      else both wait until the time is over
    * `:namespace` - `:own`, the names of the calling process, or `:shared`, those of the context; by default `:own`
  """
  @spec exec(context, String.t(), keyword) :: :ok | {:error, failure}
  def exec(context, code, options \\ []) do
    timeout = timeout!(options, [:timeout, :callers, :namespace])
    namespace = namespace!(options)
    callers = callers!(options)
    run = Context.run(context, namespace, :run, [code!(code)], callers, %Conversion{}, timeout)
    done(run)
  end

  @doc """
  The value of a Python expression, in which `variables` may be used besides what the context knows.

  The names of variables are atoms or text. Options: those of `exec/3`, and `:binaries` and `:return` (see "What is
  converted" above).

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> Reactor.Python.eval(context, "type(x).__name__", %{x: "text"}, binaries: :bytes)
      {:ok, "bytes"}
      iex> {:ok, file} = Reactor.Python.eval(context, "open('mix.exs')", %{}, return: :object)
      iex> Reactor.Python.eval(context, "file.readline()", %{file: file})
      {:ok, "defmodule Reactor.MixProject do\\n"}
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec eval(context, String.t(), map, keyword) :: {:ok, term} | {:error, failure}
  def eval(context, expression, variables \\ %{}, options \\ []) when is_map(variables) do
    timeout = timeout!(options, [:timeout, :callers, :namespace | Conversion.options()])
    {callers, conversion} = {callers!(options), Conversion.new!(options)}
    asked = [code!(expression), variables]
    Context.run(context, namespace!(options), :evaluate, asked, callers, conversion, timeout)
  end

  @doc """
  Calls a function of a Python module, which is imported if need be, and returns what it returns. If that can be
  awaited, as a coroutine, it is awaited, and others go on meanwhile.

  The function may be dotted, as in `"Path.cwd"`; the module `"__main__"` is where `exec/3` executes. Where
  a parameter is annotated as `str`, an IP address as `:inet` has it becomes text.

  Options: those of `exec/3`, of which `:namespace` is about `"__main__"` alone; `:kwargs`, a map of arguments by name;
  `:binaries` and `:return` (see "What is converted" above).

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> Reactor.Python.call(context, :builtins, :sorted, [[1, 3, 2]], kwargs: %{reverse: true})
      {:ok, [3, 2, 1]}
      iex> {:error, error} = Reactor.Python.call(context, :math, :sqrt, [-1])
      iex> error.type
      "ValueError"
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec call(context, atom | String.t(), atom | String.t(), list, keyword) ::
          {:ok, term} | {:error, failure}
  def call(context, module, function, arguments \\ [], options \\ []) when is_list(arguments) do
    timeout = timeout!(options, [:timeout, :callers, :kwargs, :namespace | Conversion.options()])
    {callers, conversion} = {callers!(options), Conversion.new!(options)}
    asked = call!(module, function, arguments, options)
    namespace = namespace_of(asked, options)
    Context.run(context, namespace, :call, asked, callers, conversion, timeout)
  end

  @doc """
  Like `exec/3`, without waiting: `await/2` gives what that does. Options: `:callers` and `:namespace`.
  """
  @spec exec_async(context, String.t(), keyword) :: {:ok, Call.t()} | {:error, failure}
  def exec_async(context, code, options \\ []) do
    known!(options, [:callers, :namespace])
    namespace = namespace!(options)
    asked = [code!(code)]
    Context.start_call(context, namespace, :run, asked, callers!(options), %Conversion{})
  end

  @doc """
  Like `eval/4`, without waiting: `await/2` gives what that does. Options: those of `eval/4` but `:timeout`.
  """
  @spec eval_async(context, String.t(), map, keyword) :: {:ok, Call.t()} | {:error, failure}
  def eval_async(context, expression, variables \\ %{}, options \\ []) when is_map(variables) do
    known!(options, [:callers, :namespace | Conversion.options()])
    {callers, conversion} = {callers!(options), Conversion.new!(options)}
    asked = [code!(expression), variables]
    Context.start_call(context, namespace!(options), :evaluate, asked, callers, conversion)
  end

  @doc """
  Like `call/5`, without waiting: `await/2` gives what that does. Options: those of `call/5` but `:timeout`.

  The call is the calling process's, and ends with it. No message is sent before somebody awaits the call, so its answer
  may as well be left alone.

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> {:ok, call} = Reactor.Python.call_async(context, :math, :sqrt, [16])
      iex> Reactor.Python.await(call)
      {:ok, 4.0}
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec call_async(context, atom | String.t(), atom | String.t(), list, keyword) ::
          {:ok, Call.t()} | {:error, failure}
  def call_async(context, module, function, arguments \\ [], options \\ [])
      when is_list(arguments) do
    known!(options, [:callers, :kwargs, :namespace | Conversion.options()])
    {callers, conversion} = {callers!(options), Conversion.new!(options)}
    asked = call!(module, function, arguments, options)
    namespace = namespace_of(asked, options)
    Context.start_call(context, namespace, :call, asked, callers, conversion)
  end

  @doc """
  Waits for what a call comes to that was started with `call_async/5`, `eval_async/4` or `exec_async/3`.

  After `timeout` ms the call is given up, and interrupted if it runs: the answer is `{:error, :timeout}`. Of one that was
  given up before it is `{:error, :cancelled}`. Raises `ArgumentError` in another process than the call's owner, and for
  a call that was awaited before.
  """
  @spec await(Call.t(), timeout) :: :ok | {:ok, term} | {:error, failure}
  def await(call, timeout \\ @call_timeout)

  def await(%Call{operation: operation} = call, timeout) do
    # Before the call is awaited, which it can be once.
    awaited = Call.await(call, timeout!([timeout: timeout], [:timeout]))
    if operation == :run, do: done(awaited), else: awaited
  end

  @doc """
  Gives a call up that was started with `call_async/5` and the like, and has it interrupted if it runs. Any process may do that; it
  may be over already.
  """
  @spec cancel(Call.t()) :: :ok
  def cancel(%Call{} = call), do: Call.cancel(call)

  defp done({:ok, nil}), do: :ok
  defp done({:error, reason}), do: {:error, reason}

  @doc """
  The items of what a Python function returns, as a `Stream`: of a generator, an asynchronous one too, or of
  anything else that can be iterated over.

  Nothing is called before the stream is enumerated; each time it is, the function is called anew. Items are asked for
  as they are wanted, up to `:demand` at a time, so a generator is never ahead by more than that. When the stream is
  halted, or its process ends, the generator is closed. What is asked for belongs to the process that enumerates.

  Options, besides those of `call/5` other than `:callers` and `:return`:

    * `:demand` - how many items are asked for at once at most, by default 100. An answer that has an item does not wait longer
      than 10 ms for more, and a generator that is not asynchronous is asked for single items first, then for
      more and more while they come quickly
    * `:timeout` - how long the next item may take, in ms; by default 5000

  While it is enumerated it raises a `Reactor.Python.Error`: what Python raised, after the items before it; or one whose
  type is `"timeout"`, `"noproc"`, `"closed"` or `"overloaded"`.

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> context |> Reactor.Python.stream(:itertools, :count, [5]) |> Enum.take(3)
      [5, 6, 7]
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec stream(context, atom | String.t(), atom | String.t(), list, keyword) :: Enumerable.t()
  def stream(context, module, function, arguments \\ [], options \\ [])
      when is_list(arguments) do
    known = [:timeout, :kwargs, :namespace, :demand, :binaries]
    {timeout, conversion} = {timeout!(options, known), Conversion.new!(options)}
    asked = call!(module, function, arguments, options)
    namespace = namespace_of(asked, options)
    Items.stream(context, "call", asked, namespace, conversion, demand!(options), timeout)
  end

  @doc """
  The items of the value of a Python expression, as a `Stream`: see `stream/5`, and `eval/4` for the rest.

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> context |> Reactor.Python.stream_eval("(n * n for n in range(3))") |> Enum.to_list()
      [0, 1, 4]
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec stream_eval(context, String.t(), map, keyword) :: Enumerable.t()
  def stream_eval(context, expression, variables \\ %{}, options \\ [])
      when is_map(variables) do
    known = [:timeout, :namespace, :demand, :binaries]
    {timeout, conversion} = {timeout!(options, known), Conversion.new!(options)}
    {asked, namespace} = {[code!(expression), variables], namespace!(options)}
    Items.stream(context, "evaluate", asked, namespace, conversion, demand!(options), timeout)
  end

  defp demand!(options) do
    case Keyword.get(options, :demand, 100) do
      demand when demand in 1..10_000 -> demand
      demand -> wrong!(:demand, demand, "an integer from 1 to 10000")
    end
  end

  # Other modules are everybody's.
  defp namespace_of(["__main__" | _], options), do: namespace!(options)
  defp namespace_of(_asked, options), do: with(_known <- namespace!(options), do: :any)

  defp namespace!(options) do
    case Keyword.get(options, :namespace, :own) do
      namespace when namespace in [:own, :shared] -> namespace
      namespace -> wrong!(:namespace, namespace, ":own or :shared")
    end
  end

  @doc """
  Lets Python call a function by name: `erlang.call("price_of", "tea")`, or `from erlang import price_of`.

  It is called in a process of its own for each call, linked to nobody, with as many arguments as Python gives. In that process
  `$callers` are those on whose behalf Python runs, as in a `Task`. It is known to all contexts of the VM, also those
  that are started later, and replaces another of that name, until it is unregistered.

  An error is `{:error, :not_started}`: the application `:reactor` does not run. Raises `ArgumentError` for a name that is
  neither an atom nor text, and for what is no function.

      iex> Reactor.Python.register_function("price_of", fn "tea" -> 3 end)
      :ok
      iex> {:ok, context} = Reactor.Python.start_context(setup: "from erlang import price_of")
      iex> Reactor.Python.eval(context, "price_of('tea') * 2")
      {:ok, 6}
      iex> Reactor.Python.stop_context(context)
      iex> Reactor.Python.unregister_function("price_of")
      :ok
  """
  @spec register_function(atom | String.t(), fun | {module, atom}) ::
          :ok | {:error, :not_started}
  def register_function(name, function) do
    function? =
      is_function(function) or
        match?({m, f} when is_atom(m) and is_atom(f), function)

    if not function?, do: wrong!(:function, function, "a function, or {module, function}")
    Functions.register(text!(:name, name), function)
  end

  @doc "Python does not find that function any more. There need not be one."
  @spec unregister_function(atom | String.t()) :: :ok
  def unregister_function(name), do: Functions.unregister(text!(:name, name))

  @doc """
  A binary that is to be `bytes` in Python, also if it is UTF-8, wherever it is in what is given.

      iex> {:ok, context} = Reactor.Python.start_context()
      iex> Reactor.Python.eval(context, "[type(each).__name__ for each in x]", %{x: ["a", Reactor.Python.bytes("a")]})
      {:ok, ["str", "bytes"]}
      iex> Reactor.Python.stop_context(context)
      :ok
  """
  @spec bytes(binary) :: Bytes.t()
  def bytes(binary) when is_binary(binary), do: %Bytes{binary: binary}

  @doc """
  Gives a descriptor, or a socket of the caller's, to a protocol of the context, which has it from then on.
  On an error it stays the caller's, as it was.

  The protocol is made by the factory that was set in the context last, by `set_protocol_factory` or by
  name. `info` becomes its `client_info`, over what is known without it: `addr`, `port` and `type`
  (`"tcp"`, `"udp"`, `"unix"`, `"pipe"`, `"tty"` or `"device"`).

  What can be handed over: a number; a socket of `:gen_tcp`, `:gen_udp` or `:socket`; and
  a `Reactor.Connection` of the native transport, with its TLS. A number that belongs to
  a socket of Erlang's is that socket. Of these the context gets a duplicate, and Erlang's own is closed
  without a shutdown; what is read must be passive, and not cut into packets. Any other number is taken
  over as it is, and must not be used by anybody any more.

  The socket itself costs less than its number. Whose a number is has to be looked up: among the caller's own ports first, and
  if it is none of these, among all ports and sockets of the VM.

  Behind it may be a connected stream socket, a socket for datagrams (each read is one, and each write;
  one that is not connected answers whoever sent the last), a Unix socket, a pipe, or a terminal. From now on
  it does not block, which concerns everybody who has the same open file.

  A connection of a server's stays among those of its server, with its limits, and is drained with it. All else is
  the context's, and is not among those of a listener that the context serves.

  Errors:

    * `:ebadf` - it is not open
    * `{:not_pollable, what}` - it is a `:regular` file, a `:directory`, a `:device` without events, or
      something `:anonymous` of the system's, as epoll
    * `:listening` - accept its connections, and hand those over
    * `:standard_io` - 0, 1 and 2 stay the VM's; `dup_fd/1` makes one that can be handed over
    * `:in_use` - one of Reactor's loops has it
    * `:not_owner` - it is the socket of another process
    * `:tls` - `:ssl` has the keys to what comes through it
    * `:einval` - it is in active mode, or cuts its stream into packets; or somebody waits for it
    * `:send_pending` - the port has not given all that was sent to the kernel yet
    * `:enotconn` - it has no peer, or none any more
    * `:no_factory` - nothing was set in the context that makes protocols
    * `:overloaded` - 1,024 wait for the context to take them up, and have for a second, or two callers
      wait for room already
    * `:max_connections` - the context has as many as it may have
    * `:closed` - the connection, or the context, has ended
    * `:noproc` - there is no such context

  Raises `ArgumentError` for what is no descriptor, and for an `info` that Python cannot be given.
  """
  @spec handoff(context, Handoff.descriptor(), map) :: :ok | {:error, Handoff.reason()}
  def handoff(context, descriptor, info \\ %{}), do: Handoff.handoff(context, descriptor, info)

  @doc """
  A duplicate of a descriptor, which belongs to the caller: to be handed over, or to be closed by whoever gets
  it. The original stays what it is, and each of them is closed on its own.

  Errors are `:ebadf`, `:not_owner`, `:closed`, `:tls`, and those of the system, as `:emfile`. Raises `ArgumentError`
  for what is no descriptor.
  """
  @spec dup_fd(Handoff.descriptor()) :: {:ok, non_neg_integer} | {:error, Handoff.reason()}
  def dup_fd(descriptor), do: Handoff.dup_fd(descriptor)

  @doc "What Python there is here, and what works in it: see `Reactor.Python.Doctor.report/1`."
  @spec doctor() :: {:ok, Doctor.report()} | {:error, Reactor.Python.Error.t()}
  def doctor, do: Doctor.report()

  defp call!(module, function, arguments, options) do
    kwargs = Keyword.get(options, :kwargs, %{})

    if not is_map(kwargs), do: wrong!(:kwargs, kwargs, "a map")
    [text!(:module, module), text!(:function, function), arguments, kwargs]
  end

  defp callers!(options) do
    callers = Keyword.get(options, :callers, [])
    # Of another node nobody waits for this one.
    pids? = is_list(callers) and Enum.all?(callers, &(is_pid(&1) and node(&1) == node()))
    if pids?, do: callers, else: wrong!(:callers, callers, "a list of pids of this node")
  end

  defp known!(options, known) do
    if not Keyword.keyword?(options), do: wrong!(:options, options, "a keyword list")

    for {name, _value} <- options, name not in known do
      raise ArgumentError, Exception.message(ConfigError.unknown(name, known))
    end

    :ok
  end

  defp timeout!(options, known) do
    known!(options, known)

    case Keyword.get(options, :timeout, @call_timeout) do
      :infinity ->
        :infinity

      timeout when timeout in 0..4_294_967_295 ->
        timeout

      timeout ->
        wrong!(:timeout, timeout, "a number of milliseconds up to 4294967295, or :infinity")
    end
  end

  defp code!(code) do
    if is_binary(code) and String.valid?(code),
      do: code,
      else: raise(ArgumentError, "code must be UTF-8 text")
  end

  defp text!(_what, name) when is_atom(name) and name not in [nil, true, false],
    do: Atom.to_string(name)

  defp text!(what, name) do
    if is_binary(name) and String.valid?(name),
      do: name,
      else: wrong!(what, name, "an atom or text")
  end

  @spec wrong!(atom, term, String.t()) :: no_return
  defp wrong!(what, value, expected) do
    raise ArgumentError, "#{what} must be #{expected}, got: #{inspect(value, limit: 10)}"
  end
end
