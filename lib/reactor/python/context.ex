defmodule Reactor.Python.Context do
  @moduledoc false

  # The process of one Python context: the context's thread lives as long as this process. For a
  # Python listener it starts when the protocol's module is imported and accepting has begun, so that
  # whoever starts a server learns of a failure. For one that routes it only takes what it is given.

  use GenServer

  require Logger

  alias Reactor.{Native, Python, Server}

  @spec start_link({Server.board(), pos_integer}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc "The native side of a context."
  @spec native(GenServer.server()) :: {:ok, Native.context()} | {:error, :noproc}
  def native(context) do
    GenServer.call(context, :native)
  catch
    :exit, _reason -> {:error, :noproc}
  end

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
  def init({board, index}) do
    listener = Server.listener(board)
    # The VM ignores SIGCHLD, and then Python's subprocess would report every exit status as 0.
    :os.set_signal(:sigchld, :default)

    with {:ok, context} <- Native.context_start(options(board, listener, index)),
         :ok <- await(context, :ready),
         :ok <- serve_first(context, listener, Server.state(board)) do
      Python.Supervisor.put_context(board, index, context)

      {:ok, %{context: context, board: board, asked: :queue.new(), drained: nil, stopped: false}}
    else
      {:error, %Python.Error{} = error} ->
        Logger.error("Python's #{listener.python} cannot serve: " <> Exception.message(error))
        {:stop, error}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  defp serve_first(context, %{python: python} = listener, :running) when python != nil do
    :ok = Native.context_serve(context, listener.socket, python)
    await(context, {:serving, listener.socket})
  end

  # It routes; or does not accept now, and serve/2 is called when it does again.
  defp serve_first(_context, _listener, _state), do: :ok

  defp options(board, listener, index) do
    %{
      name: "#{listener.python || inspect(listener.module)}/#{index}",
      paths: paths(listener),
      python_dir: priv(:reactor),
      isolation: listener.isolation,
      report_to: Server.whereis(board, :reporter)
    }
  end

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
  defp await(context, event) do
    receive do
      {:"$reactor_context", ^context, ^event} -> :ok
      {:"$reactor_context", ^context, {:failed, error}} -> {:error, struct!(Python.Error, error)}
      {:"$reactor_context", ^context, {:died, message}} -> {:error, {:context_died, message}}
    end
  end

  @impl true
  def handle_call(:native, _from, state), do: {:reply, {:ok, state.context}, state}

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

  defp ending do
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
    {:noreply, %{state | stopped: true, asked: :queue.new()}}
  end

  def handle_info({:"$reactor_context", context, {:serving, _}}, %{context: context} = state) do
    {:noreply, answer(state, :ok)}
  end

  def handle_info({:"$reactor_context", context, {:died, message}}, %{context: context} = state) do
    {:stop, {:context_died, message}, state}
  end

  def handle_info({:"$reactor_context", context, {:failed, error}}, %{context: context} = state) do
    {:noreply, answer(state, {:error, struct!(Python.Error, error)})}
  end

  def handle_info(_message, state), do: {:noreply, state}

  # The context answers in the order in which it was asked.
  defp answer(state, answer) do
    {{:value, from}, asked} = :queue.out(state.asked)
    GenServer.reply(from, answer)
    %{state | asked: asked}
  end
end
