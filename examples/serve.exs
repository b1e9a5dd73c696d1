# Two echo servers, one in Elixir and one in Python:
#
#     mix run examples/serve.exs
#
# PORT and PY_PORT choose other ports than 8080 and 8081. It ends when it is sent SIGTERM.

defmodule Examples.Echo do
  use Reactor

  alias Reactor.Socket

  def handle(connection) do
    # nil at the end of the stream.
    if data = Socket.recv!(connection) do
      Socket.send!(connection, data)
      handle(connection)
    end
  end
end

defmodule Examples.PyEcho do
  use Reactor, python: "echo:EchoProtocol"
end

start = fn module, variable, default, options ->
  text = System.get_env(variable, default)

  # What is not a number goes on as it is: Reactor says what a port looks like.
  port =
    case Integer.parse(text) do
      {port, ""} -> port
      _other -> text
    end

  case Reactor.start(module, [port: port] ++ options) do
    {:ok, server} ->
      server

    {:error, reason} ->
      reason = if is_exception(reason), do: Exception.message(reason), else: inspect(reason)
      IO.puts(:stderr, "cannot serve on port #{port} (set #{variable} for another): #{reason}")

      System.halt(1)
  end
end

elixir = start.(Examples.Echo, "PORT", "8080", [])
python = start.(Examples.PyEcho, "PY_PORT", "8081", paths: [__DIR__])

IO.puts("Elixir echoes what you type after: nc localhost #{Reactor.info(elixir).port}")
IO.puts("Python echoes what you type after: nc localhost #{Reactor.info(python).port}")

# Until the VM is told to stop.
Process.sleep(:infinity)
