defmodule Reactor.Server.ListeningSocket do
  @moduledoc false

  # Owns the listening socket of a server: it is open as long as this process runs, or until the
  # server drains.

  use GenServer

  alias Reactor.Server

  # How often a restarted one tries to listen, and what it waits in between, in ms.
  @attempts 100
  @pause 10

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "Stops accepting, and has the transport close the connections that it knows to be idle."
  @spec drain(pid) :: :ok
  def drain(pid), do: GenServer.call(pid, :drain)

  @impl true
  def init(board) do
    # Else a port that closes would take this process along without a reason.
    Process.flag(:trap_exit, true)
    listener = Server.listener(board)

    # After a restart the descriptor has the port that was bound before: the address stays.
    with {:ok, socket} <- listen(listener, if(listener.socket, do: @attempts, else: 1)),
         {:ok, {ip, port}} <- listener.transport.address(socket) do
      Server.put_listener(board, %{listener | socket: socket, ip: ip, port: port})
      Server.register(board, :listening_socket)
      {:ok, %{board: board, socket: socket, transport: listener.transport, draining: false}}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  # The socket of the process that failed may need a moment to close, and nobody tells when it has.
  defp listen(listener, attempts) do
    case listener.transport.listen(listener) do
      {:error, :eaddrinuse} when attempts > 1 ->
        Process.sleep(@pause)
        listen(listener, attempts - 1)

      result ->
        result
    end
  end

  @impl true
  def handle_call(:drain, _from, state) do
    state.transport.drain(state.socket)
    {:reply, :ok, %{state | draining: true}}
  end

  @impl true
  def handle_info({:EXIT, socket, reason}, %{socket: socket, draining: false} = state) do
    {:stop, {:listener_closed, reason}, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state), do: state.transport.close_listener(state.socket)
end
