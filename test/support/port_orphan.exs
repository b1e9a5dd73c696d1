# A VM with a Reactor.Port whose children are busy, for a test that kills it: prints the number of its own process
# and those of the children.

[script] = System.argv()
{:ok, _} = Application.ensure_all_started(:reactor)
{:ok, port} = Reactor.Port.start(script: script, size: 3)

pids = for child <- Reactor.Port.info(port).children, do: child.os_pid

until_busy = fn until_busy, n ->
  busy = Enum.count(Reactor.Port.info(port).children, &(&1.outstanding > 0))
  if busy < n, do: until_busy.(until_busy, n)
end

# One is busy in Python, one in C with the GIL, and one waits for calls.
for {handler, n} <- [spin: 1, hang: 2] do
  spawn(fn -> Reactor.Port.call(port, handler, [], timeout: :infinity) end)
  until_busy.(until_busy, n)
end

IO.puts("PIDS " <> Enum.join([System.pid() | Enum.map(pids, &to_string/1)], " "))
Process.sleep(:infinity)
