defmodule Reactor.Server.ListeningSocket do
  @moduledoc false

  # Owns the listening socket of a server, and with it the server's state: it is `:running` while the socket is
  # open, until it is suspended or drained.
  #
  # It is also who tells the connection supervisors to stop and to go on, so that they hear of both in
  # the order in which they happened.

  use GenServer

  alias Reactor.{Address, Server}
  alias Reactor.Server.{ConnectionSupervisor, Reporter}

  # How often it tries to listen on an address that it had before: after a failure, and to resume.
  # What it waits in between, in ms.
  @restart_attempts 100
  @resume_attempts 30
  @pause 10

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "Closes the listening socket; connections go on."
  @spec suspend(pid) :: :ok
  def suspend(pid), do: GenServer.call(pid, :suspend, :infinity)

  @doc "Listens again, on the same address. `{:error, :draining}` while the server drains."
  @spec resume(pid) :: :ok | {:error, term}
  def resume(pid), do: GenServer.call(pid, :resume, :infinity)

  @doc """
  Stops accepting, has the transport close the connections that it knows to be idle, and has each
  connection supervisor tell the caller with its reference when the last of its handlers is gone.
  """
  @spec drain(pid, [{pid, reference, term}]) :: :ok
  def drain(pid, partitions), do: GenServer.call(pid, {:drain, partitions}, :infinity)

  @doc "The last connection is gone: the server is suspended."
  @spec drained(pid) :: :ok
  def drained(pid), do: GenServer.call(pid, :drained, :infinity)

  @impl true
  def init(board) do
    # Else a port that closes would take this process along without a reason.
    Process.flag(:trap_exit, true)
    listener = Server.listener(board)
    Server.label(:listening_socket, listener.module)
    state = %{board: board, socket: listener.socket, transport: listener.transport, mode: nil}

    case open(state, Server.state(board)) do
      {:ok, state} ->
        Server.register(board, :listening_socket)
        {:ok, state}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  defp open(state, :running) do
    with {:ok, state} <- listen(state, if(state.socket, do: @restart_attempts, else: 1)) do
      Reporter.report(state.board, :listening)
      {:ok, state}
    end
  end

  # One that failed while the server did not listen: a restart does not resume it.
  defp open(state, _suspended_or_draining), do: {:ok, mode(state, :suspended)}

  # The descriptor has the port that was bound before: the address stays. Its socket is then the one
  # before this, whose connections and counts the transport may carry on with.
  defp listen(%{board: board, transport: transport} = state, attempts) do
    listener = %{Server.listener(board) | report_to: Server.whereis(board, :reporter)}

    with {:ok, socket} <- attempt(listener, attempts),
         {:ok, address} <- transport.address(socket) do
      {ip, port} = Address.split(address)
      version = listener.version + 1
      listener = %{listener | socket: socket, ip: ip, port: port, version: version}
      Server.put_listener(board, listener)
      Server.share(board)
      {:ok, mode(%{state | socket: socket}, :running)}
    end
  end

  # The socket before it may need a moment to close, and nobody tells when it has.
  defp attempt(listener, attempts) do
    case listener.transport.listen(listener) do
      {:error, :eaddrinuse} when attempts > 1 ->
        Process.sleep(@pause)
        attempt(listener, attempts - 1)

      result ->
        result
    end
  end

  @impl true
  def handle_call(:suspend, _from, %{mode: :running} = state) do
    state.transport.close_listener(state.socket)
    Enum.each(Server.partitions(state.board), &ConnectionSupervisor.suspend/1)
    Reporter.report(state.board, :suspended)
    {:reply, :ok, mode(state, :suspended)}
  end

  def handle_call(:suspend, _from, state), do: {:reply, :ok, state}

  def handle_call(:resume, _from, %{mode: :running} = state), do: {:reply, :ok, state}

  def handle_call(:resume, _from, %{mode: :draining} = state) do
    {:reply, {:error, :draining}, state}
  end

  def handle_call(:resume, _from, state) do
    case listen(state, @resume_attempts) do
      {:ok, state} ->
        Enum.each(Server.partitions(state.board), &ConnectionSupervisor.resume/1)
        Reporter.report(state.board, :resumed)
        {:reply, :ok, state}

      {:error, reason} ->
        {:reply, {:error, reason}, state}
    end
  end

  def handle_call({:drain, partitions}, {from, _tag}, state) do
    state = mode(state, :draining)
    state.transport.drain(state.socket)

    for {partition, reference, _} <- partitions do
      ConnectionSupervisor.drain(partition, from, reference)
    end

    {:reply, :ok, state}
  end

  def handle_call(:drained, _from, %{mode: :draining} = state) do
    {:reply, :ok, mode(state, :suspended)}
  end

  def handle_call(:drained, _from, state), do: {:reply, :ok, state}

  defp mode(state, mode) do
    Server.put_state(state.board, mode)
    %{state | mode: mode}
  end

  # Of a transport with ports: one of them died, perhaps that of the listening socket.
  @impl true
  def handle_info({:EXIT, port, reason}, %{mode: :running} = state) when is_port(port) do
    case state.transport.address(state.socket) do
      {:ok, _address} -> {:noreply, state}
      {:error, _closed} -> {:stop, {:listener_closed, reason}, state}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    state.transport.close_listener(state.socket)
  end
end
