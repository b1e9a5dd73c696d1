# Reactor.Port with one child.

Code.require_file("../port_calls.exs", __DIR__)

{:ok, _} = Application.ensure_all_started(:reactor)
script = Path.join(__DIR__, "bench_port.py")
python = System.get_env("PYO3_PYTHON", "python3")
{:ok, port} = Reactor.Port.start_link(script: script, python: python)

PortCalls.run(fn n ->
  {:ok, answer} = Reactor.Port.call(port, :twice, [n])
  answer
end)
