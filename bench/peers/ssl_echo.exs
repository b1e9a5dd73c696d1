# An echo server on OTP's ssl: 100 acceptors, a process per connection, passive sockets.
#
#     elixir ssl_echo.exs [buffer in bytes] CERTFILE KEYFILE
#
# Buffers are as in the gen_tcp peer; versions, ciphers and tickets those that ssl chooses. An acceptor
# takes the next connection at once: the handshake is its handler's, so that a slow one holds up nobody.
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule SslEcho do
  @acceptors 100
  @handshake_timeout 5_000

  def start(certificate, buffer) do
    options = [
      :binary,
      active: false,
      backlog: 1024,
      nodelay: true,
      reuseaddr: true,
      ip: {127, 0, 0, 1}
    ]

    {:ok, listener} = :ssl.listen(0, options ++ certificate ++ buffer)
    for _ <- 1..@acceptors, do: spawn_link(fn -> accept(listener) end)
    {:ok, {_address, port}} = :ssl.sockname(listener)
    {:ok, port}
  end

  defp accept(listener) do
    {:ok, socket} = :ssl.transport_accept(listener)
    handler = spawn(&handle/0)
    # Not matched: the connection may be gone already, and the handler will find that out.
    _ = :ssl.controlling_process(socket, handler)
    send(handler, {:serve, socket})
    accept(listener)
  end

  defp handle do
    receive do
      {:serve, socket} ->
        with {:ok, socket} <- :ssl.handshake(socket, @handshake_timeout), do: echo(socket)
    end
  end

  defp echo(socket) do
    with {:ok, data} <- :ssl.recv(socket, 0),
         :ok <- :ssl.send(socket, data) do
      echo(socket)
    else
      {:error, _reason} -> :ssl.close(socket)
    end
  end
end

{:ok, _applications} = Application.ensure_all_started(:ssl)

{buffer, certfile, keyfile} =
  case System.argv() do
    [certfile, keyfile] -> {[], certfile, keyfile}
    [bytes, certfile, keyfile] -> {[buffer: String.to_integer(bytes)], certfile, keyfile}
  end

{:ok, port} = SslEcho.start([certfile: certfile, keyfile: keyfile], buffer)
IO.puts("READY #{port}")
:eof = IO.read(:stdio, :line)
System.halt(0)
