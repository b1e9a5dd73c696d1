defmodule Reactor.Python.Context do
  @moduledoc false

  # The process of one Python context: the context's thread lives as long as this process. It starts
  # when the protocol's module is imported and accepting has begun, so that whoever starts a
  # server learns of a failure.

  use GenServer

  require Logger

  alias Reactor.{Native, Python, Server}

  @spec start_link({Server.board(), pos_integer}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc """
  Has the context close its connections, idle ones at once and the rest after `timeout` ms, and end;
  tells the caller then with `{reference, :drained}`.
  """
  @spec drain(pid, reference, non_neg_integer) :: :ok
  def drain(context, reference, timeout) do
    send(context, {:drain, self(), reference, timeout})
    :ok
  end

  @impl true
  def init({board, index}) do
    listener = Server.listener(board)
    # The VM ignores SIGCHLD, and then Python's subprocess would report every exit status as 0.
    :os.set_signal(:sigchld, :default)

    with {:ok, context} <- Native.context_start(options(listener, index)),
         :ok <- await(context, :ready),
         :ok <- Native.context_serve(context, listener.socket, listener.python),
         :ok <- await(context, {:serving, listener.socket}) do
      {:ok, %{context: context, stopped: false, drained: nil}}
    else
      {:error, %Python.Error{} = error} ->
        Logger.error("Python's #{listener.python} cannot serve: " <> Exception.message(error))
        {:stop, error}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  defp options(listener, index) do
    %{
      name: "#{listener.python}/#{index}",
      paths: paths(listener),
      python_dir: priv(:reactor),
      isolation: listener.isolation
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
    {:noreply, %{state | stopped: true}}
  end

  def handle_info({:"$reactor_context", context, {:died, message}}, %{context: context} = state) do
    {:stop, {:context_died, message}, state}
  end

  def handle_info({:"$reactor_context", context, {:failed, error}}, %{context: context} = state) do
    {:stop, struct!(Python.Error, error), state}
  end

  def handle_info(_message, state), do: {:noreply, state}
end
