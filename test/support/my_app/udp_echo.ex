defmodule MyApp.UdpEcho do
  @moduledoc false

  # The datagram server of the documentation's examples.

  use Reactor

  def handle(connection) do
    with {:ok, peer, data} <- Reactor.Socket.recv_from(connection) do
      Reactor.Socket.send_to(connection, peer, data)
      handle(connection)
    end
  end
end
