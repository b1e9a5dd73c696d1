# Reactor with a protocol in Python (bench_echo.py): one context.
#
#     elixir reactor_python.exs [deadlines]
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule ReactorPythonEcho do
  use Reactor.Behaviour, python: "bench_echo:EchoProtocol"
end

{:ok, _applications} = Application.ensure_all_started(:reactor)

# Each takes a slow client for what it is within a second.
deadlines =
  case System.argv() do
    [] -> []
    ["deadlines"] -> [first_byte_timeout: 1_000, idle_timeout: 1_000, min_rate: {64, 1_000}]
  end

options = [port: 0, ip: :loopback, nodelay: true, paths: [__DIR__]]
{:ok, server} = Reactor.start(ReactorPythonEcho, options ++ deadlines)

IO.puts("READY #{Reactor.info(server).port}")
:eof = IO.read(:stdio, :line)
System.stop(0)
Process.sleep(:infinity)
