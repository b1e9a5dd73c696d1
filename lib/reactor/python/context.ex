defmodule Reactor.Python.Context do
  @moduledoc false

  # The process of one Python context: the context's thread lives as long as this process. For a
  # Python listener it starts when the protocol's module is imported and accepting has begun, so that
  # whoever starts a server learns of a failure. For one that routes it only takes what it is given. One
  # that belongs to no listener starts when its setup code has run and its module is imported.

  use GenServer

  require Logger

  alias Reactor.{Native, Python, Server}
  alias Reactor.Python.{Call, Conversion, Options, Owners, Pause, Pool}

  @registry Reactor.Python.Registry

  # For the thread to end after its connections have, in ms.
  @grace 1_000

  # Whoever waits for this and a little more can still say so in ms, which go up to 2^32.
  @longest 4_294_960_000

  # How long a process may take to say what has gone through its connections, in ms.
  @survey_timeout 1_000

  # Has one that starts not start.
  @give_up :"$reactor_give_up"

  @typedoc "What names a context: its process, or that process's name."
  @type server :: GenServer.server()

  @typedoc "Whose names code has: see `run/6`."
  @type namespace :: :own | :shared | :any

  @type failure :: :noproc | Call.failure()

  @doc "The application's child that knows the native side of each context, by its process."
  @spec registry() :: Supervisor.child_spec()
  def registry, do: Registry.child_spec(keys: :unique, name: @registry)

  @spec start_link({Server.board(), pos_integer} | Options.t()) :: GenServer.on_start()
  def start_link(%Options{} = options), do: start_free(options, nil)

  def start_link({board, index} = init) do
    case Python.Supervisor.pause(board, index) do
      0 -> GenServer.start_link(__MODULE__, init)
      pause -> Pause.start_link(board, index, pause)
    end
  end

  @doc "For `Reactor.Python.Contexts`, whose `keeper` starts it anew when it dies."
  @spec start_kept(fun, pid) :: GenServer.on_start()
  def start_kept(options, keeper), do: start_free(options.(), keeper)

  defp start_free(options, keeper) do
    named = if options.name, do: [name: options.name], else: []

    if running?(),
      do: GenServer.start_link(__MODULE__, {:free, options, keeper}, named),
      else: {:error, :not_started}
  end

  @doc "True while the application runs, without which there are no contexts."
  @spec running?() :: boolean
  def running?, do: Process.whereis(@registry) != nil

  @doc "The native side of a context that is ready, without a call to its process."
  @spec native(server) :: {:ok, Native.context()} | {:error, :noproc}
  def native(context) do
    with {:ok, _pid, known} <- ready_one(context, nil), do: {:ok, known.native}
  end

  # What the registry has of a context, from the beginning of its start. No other process is asked anything:
  # it would not know what, and die.
  defp known(context) do
    case registered(context) do
      {:ok, _pid, %{pool: _}} -> {:error, :noproc}
      known_or_none -> known_or_none
    end
  end

  # Likewise, of a context or a pool.
  defp registered(context) do
    with pid when is_pid(pid) and node(pid) == node() <- GenServer.whereis(context),
         [{^pid, known}] <- Registry.lookup(@registry, pid),
         # The registry may not have heard of its end yet.
         true <- Process.alive?(pid) do
      {:ok, pid, known}
    else
      _none -> {:error, :noproc}
    end
  rescue
    # The application is not there.
    ArgumentError -> {:error, :noproc}
  end

  @doc """
  Has a function of `erlang.reactor.context` run on the context's thread, and returns its value. After
  `timeout` it is not run any more, or interrupted. It runs on behalf of the caller, of `callers`, and of whom
  a `Task` has in `$callers`.

  The last argument is put in here: what the names are known by that the code is to have. They may be the caller's
  `:own`, or those that are `:shared`; `:any` is for functions that have nothing to do with them, which in a pool need not
  always be run in the same context.
  """
  @spec run(server, namespace, atom, list, [pid], Conversion.t(), timeout) ::
          {:ok, term} | {:error, failure}
  def run(context, namespace, operation, arguments, callers, conversion, timeout) do
    with {:ok, native, key} <- target(context, namespace),
         do:
           Call.run(native, operation, arguments ++ [key], callers(callers), conversion, timeout)
  end

  @doc "Likewise, without waiting for it."
  @spec start_call(server, namespace, atom, list, [pid], Conversion.t()) ::
          {:ok, Call.t()} | {:error, failure}
  def start_call(context, namespace, operation, arguments, callers, conversion) do
    with {:ok, native, key} <- target(context, namespace),
         do: Call.start(native, operation, arguments ++ [key], callers(callers), conversion)
  end

  @doc """
  On whose behalf the calling process asks: of `callers`, and of whom a `Task` has in `$callers`. A task that another
  node has started has processes of that node there, which Python does not wait for.
  """
  @spec callers([pid]) :: [pid]
  def callers(callers \\ []) do
    for pid <- callers ++ Process.get(:"$callers", []),
        is_pid(pid) and node(pid) == node(),
        do: pid
  end

  @doc """
  Which context such a call goes to, and what its names are known by. The context forgets what belongs to `others`
  too when they end.
  """
  @spec target(server, namespace, others :: [pid]) ::
          {:ok, Native.context(), key :: String.t() | nil} | {:error, failure}
  def target(context, namespace, others \\ []) do
    owner = Owners.current()
    process = if namespace != :any, do: owner
    owners = if namespace == :own, do: [owner | others], else: others

    with {:ok, pid, known} <- ready_one(context, process),
         :ok <- enter(owners, known.owners, pid),
         do: {:ok, known.native, if(namespace == :own, do: Owners.key(owner))}
  end

  defp enter([], _table, _context), do: :ok

  defp enter([owner | rest], table, context) do
    with :ok <- Owners.enter(table, context, owner), do: enter(rest, table, context)
  end

  defp ready_one(context, process) do
    case registered(context) do
      {:ok, _pid, %{pool: pool}} -> Pool.place(pool, process)
      {:ok, pid, %{native: native} = known} when native != nil -> {:ok, pid, known}
      _starting_or_none -> {:error, :noproc}
    end
  end

  @doc "What is known of a context that is ready, for a pool that it belongs to."
  @spec entry(pid) ::
          {:ok, pid, %{native: Native.context(), owners: :ets.table()}} | {:error, :noproc}
  def entry(pid), do: ready_one(pid, nil)

  @doc "Makes the calling process known as a pool's, whose contexts calls go to."
  @spec register_pool(Pool.t()) :: :ok
  def register_pool(pool) do
    {:ok, _} = Registry.register(@registry, self(), %{pool: pool})
    :ok
  end

  @doc "The pool that has this name or process, if it is one."
  @spec pool(server) :: {:ok, Pool.t()} | :error
  def pool(context) do
    case registered(context) do
      {:ok, _pid, %{pool: pool}} -> {:ok, pool}
      _other -> :error
    end
  end

  @doc "See `Reactor.Python.info/1`."
  @spec info(server) :: {:ok, map} | {:error, failure}
  def info(context), do: ask(context, :info, 5_000)

  @doc """
  Has a context in a process of its own say what has gone through its connections, for those who look at these
  next. One that does not answer in time is not waited for.
  """
  @spec survey(pid) :: :ok
  def survey(context) do
    GenServer.call(context, :survey, @survey_timeout)
  catch
    :exit, _reason -> :ok
  end

  @doc "The name of a context in words, as in its thread's name and in what is logged."
  @spec text(GenServer.name() | String.t()) :: String.t()
  def text(name) when is_binary(name), do: name
  def text(name) when is_atom(name), do: inspect(name)
  def text({:global, name}), do: inspect(name)
  def text({:via, Registry, {@registry, {Pool, name, index}}}), do: "#{text(name)}/#{index}"
  def text({:via, _module, {_registry, name}}), do: inspect(name)
  def text({:via, _module, name}), do: inspect(name)

  @doc "Waits until a context that starts is ready."
  @spec await(server) :: {:ok, pid} | {:error, failure}
  def await(context), do: ask(context, :await, :infinity)

  defp ask(context, question, timeout) do
    with {:ok, pid, _known} <- known(context), do: GenServer.call(pid, question, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, {:noproc, _call} -> {:error, :noproc}
    :exit, {_reason, {GenServer, :call, _arguments}} -> {:error, :closed}
  end

  @doc "Ends a context that has no keeper, when its connections have finished. One that starts has none."
  @spec stop(server) :: :ok | {:error, failure}
  def stop(context) do
    case known(context) do
      {:ok, pid, %{native: nil}} -> give_up(pid)
      {:ok, pid, _known} -> GenServer.stop(pid)
      {:error, reason} -> {:error, reason}
    end
  catch
    :exit, :noproc -> {:error, :noproc}
    :exit, _other_end -> {:error, :closed}
  end

  # Its process waits for Python and is no GenServer yet.
  defp give_up(pid) do
    monitor = Process.monitor(pid)
    send(pid, @give_up)

    receive do
      {:DOWN, ^monitor, _, _, _reason} -> :ok
    end
  end

  @doc "Who starts a context anew: nil for one that its caller, or a supervisor of theirs, started."
  @spec keeper(server) :: {:ok, pid | nil} | {:error, :of_a_server | :noproc}
  def keeper(context) do
    case known(context) do
      {:ok, _pid, %{keeper: :of_a_server}} -> {:error, :of_a_server}
      {:ok, _pid, %{keeper: keeper}} -> {:ok, keeper}
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "How long a context takes to end at most, in ms."
  @spec longest_end(Options.t()) :: pos_integer
  def longest_end(options), do: min(options.drain_timeout + @grace, @longest)

  @doc """
  Has the context close its connections, idle ones at once and the rest after `timeout` ms, and end;
  tells the caller then with `{reference, :drained}`.
  """
  @spec drain(pid, reference, non_neg_integer) :: :ok
  def drain(context, reference, timeout) do
    send(context, {:drain, self(), reference, timeout})
    :ok
  end

  @doc """
  Has `python`, as `"module:factory"`, make the protocols of connections that come from now on. If it
  cannot be imported, everything stays as it was. A module that was imported before is not read again.
  """
  @spec swap(pid, String.t()) :: :ok | {:error, Python.Error.t()}
  def swap(context, python), do: GenServer.call(context, {:serve, nil, python}, :infinity)

  @doc "Accepts from this listening socket too: that of a listener that was resumed."
  @spec serve(pid, Native.listening_socket()) :: :ok | {:error, Python.Error.t()}
  def serve(context, socket), do: GenServer.call(context, {:serve, socket, nil}, :infinity)

  @doc """
  Gives a connection of the caller to a protocol of `python`, as `"module:factory"`, in this context. It
  is imported when it is first needed; if that fails, the connection is closed, and it is reported.
  """
  @spec adopt(Native.context(), Native.socket(), String.t()) :: :ok | {:error, Native.reason()}
  def adopt(context, socket, python), do: Native.context_adopt(context, socket, python)

  @impl true
  def init({:free, options, keeper}) do
    owners = register(keeper)
    :os.set_signal(:sigchld, :default)
    paths = options.paths ++ [File.cwd!()]
    name = options.name || "python/#{System.unique_integer([:positive])}"
    {:ok, reporter} = Server.Reporter.start_link({:context, name})

    native =
      options
      |> native_options(text(name), paths, reporter)
      # For connections that are handed over.
      |> Map.put(:max_connections, finite(options.max_connections))
      |> Map.put(:gate, options.gate)
      |> Map.merge(options.options)

    with {:ok, context} <- Native.context_start(native),
         :ok <- await_event(context, :ready),
         :ok <- use_factory(context, options.python) do
      # From here on connections are drained before it ends.
      Process.flag(:trap_exit, true)
      ready(context)
      {:ok, %{new(context, owners) | options: options, reporter: reporter}}
    else
      {:error, reason} ->
        # By itself it would end with the same reason, and be reported too.
        GenServer.stop(reporter)
        cannot_start(name, reason)
        {:stop, reason}
    end
  end

  def init({board, index}) do
    owners = register(:of_a_server)
    listener = Server.listener(board)
    # The VM ignores SIGCHLD, and then Python's subprocess would report every exit status as 0.
    :os.set_signal(:sigchld, :default)

    with {:ok, context} <- Native.context_start(options(board, listener, index)),
         :ok <- await_event(context, :ready),
         :ok <- serve_first(context, listener, Server.state(board)) do
      Python.Supervisor.put_context(board, index, context)
      ready(context)
      {:ok, %{new(context, owners) | board: board}}
    else
      {:error, %Python.Error{} = error} ->
        Logger.error("Python's #{listener.python} cannot serve: " <> Exception.message(error))
        {:stop, error}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  defp new(context, owners) do
    %{
      context: context,
      owners: owners,
      # Of a listener.
      board: nil,
      asked: :queue.new(),
      # Of one that has none.
      options: nil,
      reporter: nil,
      # Who waits for a survey, by reference.
      surveys: %{},
      drained: nil,
      stopped: false
    }
  end

  defp cannot_start(name, %Python.Error{} = error) do
    Logger.error("Python context #{text(name)} cannot start: " <> Exception.message(error))
  end

  defp cannot_start(_name, _reason), do: :ok

  defp register(keeper) do
    owners = Owners.new()
    known = %{native: nil, keeper: keeper, owners: owners}
    {:ok, _} = Registry.register(@registry, self(), known)
    owners
  end

  defp ready(context) do
    {_new, _old} = Registry.update_value(@registry, self(), &%{&1 | native: context})
  end

  defp use_factory(_context, nil), do: :ok

  defp use_factory(context, python) do
    reference = make_ref()

    with {:ok, call} <-
           Native.call_start(context, reference, :use_factory, [python], [], %Conversion{}),
         {:ok, nil} <- await_answer(context, call, reference),
         do: :ok
  end

  defp serve_first(context, %{python: python} = listener, :running) when python != nil do
    :ok = Native.context_serve(context, listener.socket, python)
    await_event(context, {:serving, listener.socket})
  end

  # It routes; or does not accept now, and serve/2 is called when it does again.
  defp serve_first(_context, _listener, _state), do: :ok

  defp options(board, listener, index) do
    name = "#{listener.python || inspect(listener.module)}/#{index}"
    native_options(listener, name, paths(listener), Server.whereis(board, :reporter))
  end

  # Of a listener, or of a context without one: these have the same names in both.
  defp native_options(options, name, paths, report_to) do
    own = %{
      name: name,
      paths: paths,
      python_dir: priv(:reactor),
      isolation: options.isolation,
      experimental: options.experimental,
      callback_timeout: finite(options.callback_timeout),
      venv: options.venv,
      requirements: options.requirements,
      setup: options.setup,
      report_to: report_to,
      stuck_timeout: finite(options.stuck_timeout)
    }

    if options.isolation == :process,
      # Its Python is shared with nobody.
      do: Map.merge(own, %{isolation: :shared, process: program(), rlimit: options.rlimit}),
      else: own
  end

  defp program, do: Application.app_dir(:reactor, "priv/native/reactor_python")

  defp finite(:infinity), do: nil
  defp finite(limit), do: limit

  @doc false
  @spec paths(Reactor.Listener.t()) :: [binary]
  def paths(listener) do
    own =
      case Application.get_application(listener.module) do
        nil -> []
        application -> [priv(application)]
      end

    Enum.uniq(listener.paths ++ own ++ [File.cwd!()])
  end

  defp priv(application), do: Application.app_dir(application, "priv/python")

  # Imports take as long as they take: who cannot wait starts the server in a process of its own.
  defp await_event(context, event) do
    receive do
      {:"$reactor_context", ^context, ^event} -> :ok
      {:"$reactor_context", ^context, {:failed, error}} -> {:error, struct!(Python.Error, error)}
      {:"$reactor_context", ^context, {:died, message}} -> {:error, {:context_died, message}}
      @give_up -> {:error, :closed}
    end
  end

  defp await_answer(context, call, reference) do
    receive do
      {^reference, answer} ->
        Call.result(answer)

      {:"$reactor_context", ^context, {:died, message}} ->
        {:error, {:context_died, message}}

      @give_up ->
        Native.call_abandon(call)
        {:error, :closed}
    end
  end

  @impl true
  def handle_call({:own, _pid}, _from, %{stopped: stopped, drained: drained} = state)
      when stopped or drained != nil,
      do: {:reply, {:error, :closed}, state}

  def handle_call({:own, pid}, _from, state),
    do: {:reply, Owners.add(state.owners, pid), state}

  def handle_call(:await, _from, state), do: {:reply, {:ok, self()}, state}
  def handle_call(:survey, _from, %{stopped: true} = state), do: {:reply, :ok, state}

  def handle_call(:survey, from, state) do
    reference = make_ref()

    if Native.context_survey(state.context, reference),
      do: {:noreply, put_in(state.surveys[reference], from)},
      else: {:reply, :ok, state}
  end

  def handle_call(:info, _from, state), do: {:reply, {:ok, describe(state)}, state}

  def handle_call({:serve, _, _}, _from, %{stopped: stopped, drained: drained} = state)
      when stopped or drained != nil do
    {:reply, {:error, ending()}, state}
  end

  # The answer comes when the import is done. Meanwhile the process hears what else there is.
  def handle_call({:serve, socket, python}, from, state) do
    listener = Server.listener(state.board)
    socket = socket || listener.socket
    :ok = Native.context_serve(state.context, socket, python || listener.python)
    {:noreply, %{state | asked: :queue.in(from, state.asked)}}
  end

  defp describe(%{options: options} = state) do
    described = options || Server.listener(state.board)

    described
    |> Map.take([:isolation, :python, :paths, :venv, :requirements])
    |> Map.merge(%{
      name: described.name,
      state: if(state.stopped or state.drained != nil, do: :stopping, else: :running)
    })
    |> Map.merge(python(state.context))
    |> Map.merge(Native.context_counts(state.context))
  end

  defp python(context) do
    case Native.context_interpreter(context) do
      nil -> %{interpreter: Native.python_info()}
      own -> %{interpreter: Map.delete(own, :os_pid), os_pid: own.os_pid}
    end
  end

  @doc "What is answered by one that ends."
  @spec ending() :: Python.Error.t()
  def ending do
    %Python.Error{type: "RuntimeError", message: "the context is ending"}
  end

  @impl true
  def handle_info({:drain, from, reference, _timeout}, %{stopped: true} = state) do
    send(from, {reference, :drained})
    {:noreply, state}
  end

  def handle_info({:drain, from, reference, timeout}, state) do
    Native.context_stop(state.context, timeout)
    {:noreply, %{state | drained: {from, reference}}}
  end

  def handle_info({:"$reactor_context", context, :stopped}, %{context: context} = state) do
    with {from, reference} <- state.drained, do: send(from, {reference, :drained})
    for asked <- :queue.to_list(state.asked), do: GenServer.reply(asked, {:error, ending()})
    for {_, from} <- state.surveys, do: GenServer.reply(from, :ok)
    {:noreply, %{state | stopped: true, asked: :queue.new(), surveys: %{}}}
  end

  def handle_info({:"$reactor_context", context, {:serving, _}}, %{context: context} = state) do
    {:noreply, answer(state, :ok)}
  end

  def handle_info({:"$reactor_context", context, {:died, message}}, %{context: context} = state) do
    {:stop, {:context_died, message}, %{state | stopped: true}}
  end

  def handle_info({:"$reactor_context", context, {:failed, error}}, %{context: context} = state) do
    {:noreply, answer(state, {:error, struct!(Python.Error, error)})}
  end

  # Its thread is given up, and ends when Python comes back.
  def handle_info({:"$reactor_context", context, {:given_up, callback}}, state)
      when context == state.context do
    {:stop, {:stuck, callback}, %{state | stopped: true}}
  end

  def handle_info({:"$reactor_context", context, {:stuck, call}}, state)
      when context == state.context do
    Server.Reporter.report(state.board || state.reporter, {:stuck, call})
    {:noreply, state}
  end

  def handle_info({:"$reactor_context", context, {:traffic, reference}}, state)
      when context == state.context do
    {from, surveys} = Map.pop(state.surveys, reference)
    if from, do: GenServer.reply(from, :ok)
    {:noreply, %{state | surveys: surveys}}
  end

  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    Owners.remove(state.owners, pid, state.context)
    {:noreply, state}
  end

  # It was asked not to start, and had.
  def handle_info(@give_up, state), do: {:stop, :normal, state}

  def handle_info({:EXIT, _pid, reason}, state) when reason != :normal do
    {:stop, reason, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{options: %Options{drain_timeout: timeout}, stopped: false} = state) do
    Native.context_stop(state.context, timeout)
    until = System.monotonic_time(:millisecond) + longest_end(state.options)
    await_end(%{state | stopped: true}, until)
  end

  def terminate(_reason, _state), do: :ok

  defp await_end(%{context: context} = state, until) do
    receive do
      # Whoever asks now would else wait as long as this does.
      {:"$gen_call", from, question} ->
        {:reply, answer, state} = handle_call(question, from, state)
        GenServer.reply(from, answer)
        await_end(state, until)

      {:"$reactor_context", ^context, :stopped} ->
        :ok

      {:"$reactor_context", ^context, {:died, _message}} ->
        :ok
    after
      # Python does not come back: the thread ends when it does.
      max(until - System.monotonic_time(:millisecond), 0) -> :ok
    end
  end

  # The context answers in the order in which it was asked.
  defp answer(state, answer) do
    {{:value, from}, asked} = :queue.out(state.asked)
    GenServer.reply(from, answer)
    %{state | asked: asked}
  end
end
