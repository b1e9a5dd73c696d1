# Reactor with a protocol in Python (bench_echo.py): one context.
#
#     elixir reactor_python.exs [process] [deadlines | CERTFILE KEYFILE]
#
# With `process` that context has a process for itself.
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule ReactorPythonEcho do
  use Reactor.Behaviour, python: "bench_echo:EchoProtocol"
end

{:ok, _applications} = Application.ensure_all_started(:reactor)

{isolation, arguments} =
  case System.argv() do
    ["process" | arguments] -> {:process, arguments}
    arguments -> {:shared, arguments}
  end

asked =
  case arguments do
    [] ->
      []

    # Each takes a slow client for what it is within a second.
    ["deadlines"] ->
      [first_byte_timeout: 1_000, idle_timeout: 1_000, min_rate: {64, 1_000}]

    # By rustls, as it is without `transport:`.
    [certfile, keyfile] ->
      [secure: [certfile: certfile, keyfile: keyfile]]
  end

options = [port: 0, ip: :loopback, nodelay: true, paths: [__DIR__], isolation: isolation]
{:ok, server} = Reactor.start(ReactorPythonEcho, options ++ asked)

IO.puts("READY #{Reactor.info(server).port}")
:eof = IO.read(:stdio, :line)
System.stop(0)
Process.sleep(:infinity)
