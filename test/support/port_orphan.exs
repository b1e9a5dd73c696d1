# A VM with a Reactor.Port whose children are busy, for a test that kills it: prints the number of its own process
# and those of the children.

[script] = System.argv()
{:ok, _} = Application.ensure_all_started(:reactor)
{:ok, port} = Reactor.Port.start(script: script, size: 3)

pids =
  for handler <- [:spin, :hang, nil] do
    {:ok, pid} = Reactor.Port.call(port, :pid)
    # One busy in Python, one in C with the GIL, one waiting for calls.
    if handler, do: spawn(fn -> Reactor.Port.call(port, handler, [], timeout: :infinity) end)
    pid
  end

# They are busy when a call that is behind them is not answered.
busy = fn busy ->
  counts = Enum.map(Reactor.Port.info(port).children, & &1.outstanding)
  if Enum.sum(counts) < 2, do: busy.(busy)
end

busy.(busy)
IO.puts("PIDS " <> Enum.join([System.pid() | Enum.map(pids, &to_string/1)], " "))
Process.sleep(:infinity)
