defmodule Reactor.Server.ListeningSocket do
  @moduledoc false

  # Owns the listening socket of a server: it is open as long as this process runs, or until the
  # server drains.

  use GenServer

  alias Reactor.Server

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "The server's table."
  @spec board(pid) :: Server.board()
  def board(pid), do: GenServer.call(pid, :board)

  @doc "Stops accepting, and has the transport close the connections that it knows to be idle."
  @spec drain(pid) :: :ok
  def drain(pid), do: GenServer.call(pid, :drain)

  @impl true
  def init(board) do
    # Else a port that closes would take this process along without a reason.
    Process.flag(:trap_exit, true)
    listener = Server.listener(board)

    # After a restart the descriptor has the port that was bound before: the address stays.
    with {:ok, socket} <- listener.transport.listen(listener),
         {:ok, {ip, port}} <- listener.transport.address(socket) do
      Server.put_listener(board, %{listener | socket: socket, ip: ip, port: port})
      Server.register(board, :listening_socket)
      {:ok, %{board: board, socket: socket, transport: listener.transport, draining: false}}
    else
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl true
  def handle_call(:board, _from, state), do: {:reply, state.board, state}

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
