# An echo server on plain gen_tcp: 100 acceptors, a process per connection, passive sockets.
#
#     elixir gen_tcp_echo.exs [buffer in bytes]
#
# Without an argument the buffers are those that gen_tcp chooses. With one, the driver's user-level
# buffer is that large, so that one recv can bring a whole large message.
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule GenTcpEcho do
  @acceptors 100

  def start(buffer) do
    options = [
      :binary,
      active: false,
      backlog: 1024,
      nodelay: true,
      reuseaddr: true,
      ip: {127, 0, 0, 1}
    ]

    {:ok, listener} = :gen_tcp.listen(0, options ++ buffer)
    for _ <- 1..@acceptors, do: spawn_link(fn -> accept(listener) end)
    :inet.port(listener)
  end

  defp accept(listener) do
    {:ok, socket} = :gen_tcp.accept(listener)
    handler = spawn(&handle/0)
    # Not matched: the connection may be gone already, and the handler will find that out.
    _ = :gen_tcp.controlling_process(socket, handler)
    send(handler, {:serve, socket})
    accept(listener)
  end

  defp handle do
    receive do
      {:serve, socket} -> echo(socket)
    end
  end

  defp echo(socket) do
    with {:ok, data} <- :gen_tcp.recv(socket, 0),
         :ok <- :gen_tcp.send(socket, data) do
      echo(socket)
    else
      {:error, _reason} -> :gen_tcp.close(socket)
    end
  end
end

buffer =
  case System.argv() do
    [] -> []
    [bytes] -> [buffer: String.to_integer(bytes)]
  end

{:ok, port} = GenTcpEcho.start(buffer)
IO.puts("READY #{port}")
:eof = IO.read(:stdio, :line)
System.halt(0)
