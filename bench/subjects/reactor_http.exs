# Reactor with an HTTP/1.1 protocol in Python (bench_http.py): one context.
#
# Prints READY and the port. Ends at the end of standard input, or on SIGTERM.

defmodule ReactorHttp do
  use Reactor.Behaviour, python: "bench_http:HttpProtocol"
end

{:ok, _applications} = Application.ensure_all_started(:reactor)
{:ok, server} = Reactor.start(ReactorHttp, port: 0, ip: :loopback, nodelay: true, paths: [__DIR__])

IO.puts("READY #{Reactor.info(server).port}")
:eof = IO.read(:stdio, :line)
System.stop(0)
Process.sleep(:infinity)
