defmodule Reactor.Port do
  @moduledoc """
  Python, or any program, in a process of its own: supervised, called, and started anew when it dies.

  A crash of C code takes the process that it happens in. Behind a port that is not the VM. A script names what may be
  called:

  ```python
  from erlang.port import Protocol

  class Calculator(Protocol):
      def handler_twice(self, x):
          return 2 * x

  if __name__ == "__main__":
      Calculator().run()
  ```

      {:ok, port} = Reactor.Port.start_link(script: "calculator.py")
      {:ok, 42} = Reactor.Port.call(port, :twice, [21])

  or, supervised:

      children = [{Reactor.Port, name: MyApp.Calculator, script: "calculator.py", size: 2}]

  The guide `docs/port.md` has the rest: what is converted into what, the protocols byte by byte, how it ends.

  ## Options

  | option | value | default | meaning |
  |---|---|---|---|
  | `:script` | path | | a Python script; `erlang.port` can be imported there, without anything being installed |
  | `:command` | path or name | | any program, in place of a script |
  | `:args` | list of texts | `[]` | its arguments |
  | `:env` | list or map of texts | `[]` | is added to its environment; `false` takes a name out |
  | `:cd` | directory | the VM's | where it runs |
  | `:python` | path or name | `"python3"` | what runs the script |
  | `:paths` | list of directories | `[]` | where the script's imports are looked for first |
  | `:name` | atom, `{:global, term}`, `{:via, module, term}` | none | a name to call it by |
  | `:protocol` | `:envelope`, `:plain`, `:bert` | `:envelope` | what the frames say: see the guide |
  | `:packet` | `2` or `4` | `4` | bytes of the length in front of each frame |
  | `:max_frame` | bytes | 64 MiB | the longest frame, both ways; 65,535 at most with `packet: 2` |
  | `:size` | 1 to 1024 | `1` | how many children there are |
  | `:max_waiting` | positive integer | `1024` | how many requests each child may have; what is beyond is refused |
  | `:timeout` | ms or `:infinity` | `5000` | of a call that gives none |
  | `:start_timeout` | ms | `30000` | for a script to get to `run()` (only `:envelope` tells) |
  | `:backoff` | `{first, longest}` in ms | `{50, 10000}` | the pause before a restart; it doubles as long as children die within a second |
  | `:shutdown` | ms | `2000` | for a child to end by itself, before SIGTERM, and SIGKILL a second later |
  | `:hang` | ms or `:infinity` | `:infinity` | a child with a call that has taken so long is killed |
  | `:rlimit` | `[as: bytes, cpu: seconds]` | `[]` | limits of the operating system, set before the script runs |
  | `:functions` | map or keyword list | `[]` | what the script may call here: names and functions |
  | `:expose` | names and modules | nothing | what the script may call here by BERT-RPC, as in `Reactor.BertRpc` |
  | `:callbacks` | `false`, `true`, addresses | `false` | where its casts may call back to, as in `Reactor.BertRpc` |
  | `:max_stream` | bytes | 64 MiB | the longest stream of BERT-RPC, both ways |

  `:rlimit` needs a `:script`, `:functions` the protocol `:envelope`, and the last three `:bert`.

  ## Errors

    * `{:error, :noproc}` - there is no such port
    * `{:error, :timeout}` - there was no answer in time. What had begun goes on, and its answer is dropped
    * `{:error, :overloaded}` - the child has `:max_waiting` requests already
    * `{:error, {:exit, status}}` - the child died meanwhile, or cannot be started. 128 and the number of a signal is
      the status of one that a signal killed
    * `{:error, :closed}` - the port was stopped meanwhile; or the child died, and it was a write that failed which told
      so first: its exit status cannot be had then
    * `{:error, :hang}`, `{:error, :bad_frame}` - the child was killed: by `:hang`, or since it sent what is no frame.
      `{:error, :overloaded}` is also of one that was killed since it asked for ever more without waiting for answers
    * `{:error, {:too_large, %{size: bytes, max: bytes}}}` - the call, or its answer, does not fit into a frame. Of a
      stream that is longer than `:max_stream` the size is not there
    * `{:error, {:undefined, function}}` - the script has no handler of that name
    * `{:error, {:bad_arguments, text}}` - the handler does not take these arguments
    * `{:error, {:undecodable, text}}` - what was sent, or what came back, cannot be decoded
    * `{:error, {:unencodable, text}}` - what the handler returned has no counterpart outside Python
    * `{:error, {:bad_function, term}}` - that is no name of a function in this protocol
    * `{:error, %Reactor.Python.Error{}}` - the handler raised

  With `protocol: :bert` it is `{:error, %Reactor.BertRpc.Error{}}` for what raised and for all that BERT-RPC has no
  other name for.
  """

  use DynamicSupervisor

  alias Reactor.BertRpc
  alias Reactor.Port.{Bert, Child, Options, Pool, Registry}
  alias Reactor.Telemetry

  @type t :: pid | GenServer.name()

  @typedoc "A function's name; with `protocol: :bert` also with its module."
  @type function_name :: atom | String.t() | {module :: atom, function :: atom}

  @doc """
  Starts the children, linked to the caller or to a supervisor, and returns when all of them are ready: their scripts have
  got to `run()`. With another protocol than `:envelope`, and so with a program that is not ours, when they are started.

  As with any supervisor, an error other than `%Reactor.ConfigError{}` also reaches the caller as an exit signal.
  Errors: `%Reactor.ConfigError{}`; `{:enoent, path}`, and what else the operating system says, of a program that cannot
  be started; `{:exit, status}` of one that ended, and `:start_timeout` of one that was not ready in time;
  `{:output, reason}` if the socket for what it prints cannot be made; `{:already_started, pid}`; `:closed` if it was stopped
  meanwhile; `:not_started` if the application `:reactor` does not run.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, term}
  def start_link(options) do
    with {:ok, pool} <- begin(options), do: await_ready(pool)
  end

  defp running do
    if Registry.running?(), do: :ok, else: {:error, :not_started}
  end

  # Starts the children, side by side, without waiting for them.
  defp begin(options) do
    with {:ok, options} <- Options.new(options),
         :ok <- running(),
         {:ok, pool} <- DynamicSupervisor.start_link(__MODULE__, nil, named(options.name)) do
      board = Pool.board(options.size)

      for index <- 1..options.size do
        {:ok, _child} =
          DynamicSupervisor.start_child(pool, {Child, {pool, index, board, options}})
      end

      {:ok, pool}
    end
  end

  defp named(nil), do: []
  defp named(name), do: [name: name]

  # The process that starts a port waits for its children: imports may take long.
  defp await_ready(pool) do
    with {:error, reason} <- ready(pool) do
      Supervisor.stop(pool, :shutdown)
      {:error, reason}
    end
  catch
    # It was stopped meanwhile.
    :exit, _reason -> {:error, :closed}
  end

  defp ready(pool) do
    Enum.find_value(Pool.all(pool), {:ok, pool}, fn {child, _known} ->
      with :ok <- Child.ready(child), do: nil
    end)
  end

  @doc """
  A port as a supervisor's child, `{Reactor.Port, options}`. Its id is the `:name`, if there is one.
  """
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    name = if Keyword.keyword?(options), do: options[:name]

    %{
      id: name || __MODULE__,
      # A supervisor logs this with each report: a function keeps what is in :env out of it.
      start: {__MODULE__, :start_hidden, [fn -> options end]},
      type: :supervisor
    }
  end

  @doc """
  Starts a port as `start_link/1` does, supervised by this application and not linked to the caller. It is not started
  again if its own supervision gives up.

      iex> {:ok, port} = Reactor.Port.start(script: "examples/calculator.py")
      iex> Reactor.Port.call(port, :sum, [1, 2])
      {:ok, 3}
      iex> Reactor.Port.stop(port)
      :ok

      iex> {:error, error} = Reactor.Port.start(script: "examples/calculator.py", packet: 3)
      iex> Exception.message(error)
      "option :packet must be 2 or 4, got: 3"
  """
  @spec start(keyword) :: {:ok, pid} | {:error, term}
  def start(options) do
    with {:ok, pool} <- start_alone(options), do: await_ready(pool)
  end

  # Servers are started by the same supervisor, and must not wait for a script.
  defp start_alone(options) do
    DynamicSupervisor.start_child(Reactor.ServerSupervisor, %{
      id: __MODULE__,
      start: {__MODULE__, :begin_hidden, [fn -> options end]},
      restart: :temporary,
      type: :supervisor
    })
  catch
    :exit, {:noproc, _call} -> {:error, :not_started}
  end

  @doc false
  @spec start_hidden(fun) :: {:ok, pid} | {:error, term}
  def start_hidden(options), do: start_link(options.())

  @doc false
  @spec begin_hidden(fun) :: {:ok, pid} | {:error, term}
  def begin_hidden(options), do: begin(options.())

  @doc """
  Calls a function of the script with these arguments, and waits for what it returns.

  The call goes to the child that has least to do. `:timeout` is in ms, or `:infinity`. With `protocol: :bert` there are also
  `:stream` and `:validation`, see `request/4`.

      iex> {:ok, port} = Reactor.Port.start(script: "examples/calculator.py")
      iex> Reactor.Port.call(port, :twice, [21], timeout: 1_000)
      {:ok, 42}
      iex> Reactor.Port.call(port, :thrice, [21])
      {:error, {:undefined, :thrice}}
      iex> Reactor.Port.stop(port)
      :ok
  """
  @spec call(t, function_name, list, keyword) :: {:ok, term} | {:error, term}
  def call(port, function, args \\ [], options \\ []) when is_list(args),
    do: measured(:call, port, function, args, options)

  @doc """
  Calls a function by BERT-RPC, and returns all that is said of its result, see `Reactor.BertRpc.Reply`.

  Options, beside `:timeout`, as for `Reactor.BertRpc.request/5`:

    * `:stream` - an enumerable of binaries, which the function gets as one argument more. It is taken as a whole before
      it is sent.
    * `:validation` - the token of a value that is kept. If that is valid, the reply says so, and has no value.

  Errors are those of `call/4`. Raises `ArgumentError` if the protocol is not `:bert`.
  """
  @spec request(t, function_name, list, keyword) :: {:ok, BertRpc.Reply.t()} | {:error, term}
  def request(port, function, args \\ [], options \\ []) when is_list(args),
    do: measured(:request, port, function, args, options)

  @doc """
  Calls a function of the script, and waits for a place in the queue of a child, not for an answer.

  An error of the function is logged by the script. `:timeout` is as for `call/4`. With `protocol: :bert` there are also `:stream`,
  see `request/4`, and `callback: {"host:port", module, function, args}`: who is sent a cast of BERT-RPC over TCP with these
  arguments and the result, if the script has a `call_back`.

      iex> Reactor.Port.cast(:no_such_port, :hello, ["world"])
      {:error, :noproc}
  """
  @spec cast(t, function_name, list, keyword) :: :ok | {:error, term}
  def cast(port, function, args \\ [], options \\ []) when is_list(args) do
    with {:ok, child} <- least(port), do: ask(child, :cast, function, args, options)
  end

  defp measured(kind, port, function, args, options) do
    with {:ok, {_pid, {_index, _board, known}} = child} <- least(port) do
      if Telemetry.enabled?() do
        started = System.monotonic_time()
        result = ask(child, kind, function, args, options)
        measured(known, function, started, result)
        result
      else
        ask(child, kind, function, args, options)
      end
    end
  end

  defp ask({_pid, {_index, _board, known}} = child, kind, function, args, options) do
    {_label, wire, limits, timeout} = known
    {timeout, options} = options(options, timeout, kind, wire)

    with {:ok, body} <- wire.request(sent_as(kind), function, args, options, limits),
         {:ok, answer} <- Pool.request(child, sent_as(kind), body, timeout) do
      if kind == :request,
        do: Bert.reply(answer, function, limits),
        else: wire.result(answer, function, limits)
    end
  end

  defp sent_as(:cast), do: :cast
  defp sent_as(_call_or_request), do: :call

  defp least(port) do
    case GenServer.whereis(port) do
      pid when is_pid(pid) -> with(:error <- Pool.least(pid), do: {:error, :noproc})
      _none -> {:error, :noproc}
    end
  end

  # What nearly all calls have comes first.
  defp options([], timeout, kind, _wire) when kind != :request, do: {timeout, []}

  defp options([timeout: timeout], _default, kind, _wire)
       when kind != :request and
              (timeout == :infinity or (is_integer(timeout) and timeout in 0..4_294_967_295)),
       do: {timeout, []}

  defp options(options, default, kind, Bert) do
    known = if kind == :cast, do: [:callback], else: [:validation]
    options = BertRpc.Request.options!(options, [:timeout, :stream | known])
    Keyword.pop(options, :timeout, default)
  end

  defp options(_options, _default, :request, _wire) do
    raise ArgumentError, "Reactor.Port.request/4 is for protocol: :bert, use Reactor.Port.call/4"
  end

  defp options(options, _default, _kind, _wire) do
    raise ArgumentError,
          "the options of a call are [] or [timeout: ms or :infinity], not #{inspect(options)}; " <>
            "with protocol: :bert also :stream, :validation and, of a cast, :callback"
  end

  defp measured({label, _, _, _}, function, started, result) do
    now = System.monotonic_time()

    outcome =
      case result do
        {:ok, _} -> :ok
        {:error, %{__exception__: true}} -> :exception
        {:error, reason} when is_tuple(reason) -> elem(reason, 0)
        {:error, reason} -> reason
      end

    measurements = %{duration: now - started, monotonic_time: now}
    metadata = %{pool: label, function: function, result: outcome}
    Telemetry.execute([:reactor, :port, :call], measurements, metadata)
  end

  @doc """
  Ends the children in order, side by side, and the port with them. Calls that have no answer yet get `{:error, :closed}`.

  A child's input ends, so it comes out of `run()`; one that has not ended within its `:shutdown` gets SIGTERM, then
  SIGKILL. `:ok` also if there is no such port. A supervisor of your own would start its child again: use
  `Supervisor.terminate_child/2` there.

      iex> Reactor.Port.stop(:no_such_port)
      :ok
  """
  @spec stop(t) :: :ok
  def stop(port) do
    Supervisor.stop(port, :normal)
  catch
    :exit, _reason -> :ok
  end

  @doc """
  What there is: `:children`, each with its `:index`, `:os_pid`, `:status` (`:starting`, `:up`, `:dying`, `:down` or
  `:failing`), `:outstanding` requests and `:restarts`; and the `:protocol`, `:packet`, `:size` and `:max_waiting`.

      iex> {:ok, port} = Reactor.Port.start(script: "examples/calculator.py")
      iex> %{size: 1, children: [%{status: :up, restarts: 0}]} = Reactor.Port.info(port)
      iex> Reactor.Port.stop(port)
      :ok
  """
  @spec info(t) :: map | {:error, :noproc}
  def info(port) do
    with pid when is_pid(pid) <- GenServer.whereis(port),
         [_ | _] = entries <- Pool.all(pid) do
      {[options | _], children} =
        entries |> Enum.map(fn {child, _} -> Child.info(child) end) |> Enum.unzip()

      options
      |> Map.take([:protocol, :packet, :size, :max_waiting])
      |> Map.put(:children, Enum.sort_by(children, & &1.index))
    else
      _none -> {:error, :noproc}
    end
  catch
    :exit, _reason -> {:error, :noproc}
  end

  # Children end side by side under a supervisor of this kind alone.
  @impl true
  def init(nil), do: DynamicSupervisor.init(strategy: :one_for_one)
end
