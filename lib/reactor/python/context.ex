defmodule Reactor.Python.Context do
  @moduledoc false

  # The process of one Python context: the context's thread lives as long as this process. For a
  # Python listener it starts when the protocol's module is imported and accepting has begun, so that
  # whoever starts a server learns of a failure. For one that routes it only takes what it is given. One
  # that belongs to no listener starts when its setup code has run and its module is imported.

  use GenServer

  require Logger

  alias Reactor.{Native, Python, Server}
  alias Reactor.Python.{Call, Conversion, Directory, Options, Owners, Pause, Settings, Start}

  # For the thread to end after its connections have, in ms.
  @grace 1_000

  # Whoever waits for this and a little more can still say so in ms, which go up to 2^32.
  @longest 4_294_960_000

  # How long a process may take to say what has gone through its connections, in ms.
  @survey_timeout 1_000

  @typedoc "What names a context: its process, or that process's name."
  @type server :: GenServer.server()

  @typedoc "Whose names code has: see `run/6`."
  @type namespace :: :own | :shared | :any

  @type failure :: :noproc | Call.failure()

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

    if Directory.running?(),
      do: GenServer.start_link(__MODULE__, {:free, options, keeper}, named),
      else: {:error, :not_started}
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
    with {:ok, native, key} <- Directory.target(context, namespace),
         do:
           Call.run(
             native,
             operation,
             arguments ++ [key],
             Owners.callers(callers),
             conversion,
             timeout
           )
  end

  @doc "Likewise, without waiting for it."
  @spec start_call(server, namespace, atom, list, [pid], Conversion.t()) ::
          {:ok, Call.t()} | {:error, failure}
  def start_call(context, namespace, operation, arguments, callers, conversion) do
    with {:ok, native, key} <- Directory.target(context, namespace),
         do:
           Call.start(native, operation, arguments ++ [key], Owners.callers(callers), conversion)
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

  @doc "Waits until a context that starts is ready."
  @spec await(server) :: {:ok, pid} | {:error, failure}
  def await(context), do: ask(context, :await, :infinity)

  defp ask(context, question, timeout) do
    with {:ok, pid, _known} <- Directory.known(context),
         do: GenServer.call(pid, question, timeout)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, {:noproc, _call} -> {:error, :noproc}
    :exit, {_reason, {GenServer, :call, _arguments}} -> {:error, :closed}
  end

  @doc "Ends a context that has no keeper, when its connections have finished. One that starts has none."
  @spec stop(server) :: :ok | {:error, failure}
  def stop(context) do
    case Directory.known(context) do
      {:ok, pid, %{native: nil}} -> Start.give_up(pid)
      {:ok, pid, _known} -> GenServer.stop(pid)
      {:error, reason} -> {:error, reason}
    end
  catch
    :exit, :noproc -> {:error, :noproc}
    :exit, _other_end -> {:error, :closed}
  end

  @doc "Who starts a context anew: nil for one that its caller, or a supervisor of theirs, started."
  @spec keeper(server) :: {:ok, pid | nil} | {:error, :of_a_server | :noproc}
  def keeper(context) do
    case Directory.known(context) do
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
    owners = Directory.register(keeper)
    :os.set_signal(:sigchld, :default)
    name = options.name || "python/#{System.unique_integer([:positive])}"
    {:ok, reporter} = Server.Reporter.start_link({:context, name})

    settings = Settings.alone(options, Directory.text(name), reporter)

    with {:ok, context} <- Start.alone(settings, options.python) do
      # From here on connections are drained before it ends.
      Process.flag(:trap_exit, true)
      Directory.ready(context)
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
    owners = Directory.register(:of_a_server)
    listener = Server.listener(board)
    # The VM ignores SIGCHLD, and then Python's subprocess would report every exit status as 0.
    :os.set_signal(:sigchld, :default)

    settings = Settings.of_listener(board, listener, index)

    with {:ok, context} <- Start.of_listener(settings, board, listener) do
      Python.Supervisor.put_context(board, index, context)
      Directory.ready(context)
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
    Logger.error(
      "Python context #{Directory.text(name)} cannot start: " <> Exception.message(error)
    )
  end

  defp cannot_start(_name, _reason), do: :ok

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

  # From `Start.give_up/1`: it was asked not to start, and had.
  def handle_info(:"$reactor_give_up", state), do: {:stop, :normal, state}

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
