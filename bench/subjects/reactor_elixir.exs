# Reactor with a handler in Elixir: passive sockets, as in the gen_tcp peer.
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule ReactorElixirEcho do
  use Reactor.Behaviour

  def handle(connection) do
    with {:ok, data} <- Reactor.Socket.recv(connection),
         :ok <- Reactor.Socket.send(connection, data) do
      handle(connection)
    end
  end
end

{:ok, _applications} = Application.ensure_all_started(:reactor)

{:ok, server} =
  Reactor.start(ReactorElixirEcho, port: 0, ip: :loopback, nodelay: true, backlog: 1024)

IO.puts("READY #{Reactor.info(server).port}")
:eof = IO.read(:stdio, :line)
System.stop(0)
Process.sleep(:infinity)
