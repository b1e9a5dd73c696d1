# Reactor with a handler in Elixir: passive sockets, as in the gen_tcp and ssl peers.
#
#     elixir reactor_elixir.exs [deadlines | CERTFILE KEYFILE]
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

asked =
  case System.argv() do
    [] ->
      []

    # Each takes a slow client for what it is within a second.
    ["deadlines"] ->
      [first_byte_timeout: 1_000, idle_timeout: 1_000, min_rate: {64, 1_000}]

    # By rustls, as it is without `transport:`.
    [certfile, keyfile] ->
      [secure: [certfile: certfile, keyfile: keyfile]]
  end

options = [port: 0, ip: :loopback, nodelay: true, backlog: 1024]
{:ok, server} = Reactor.start(ReactorElixirEcho, options ++ asked)

IO.puts("READY #{Reactor.info(server).port}")
:eof = IO.read(:stdio, :line)
System.stop(0)
Process.sleep(:infinity)
