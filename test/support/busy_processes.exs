# Run by process_test.exs in a VM of its own, which is killed: Python contexts in processes of their own, one that
# waits and one that spins. Prints the processes' numbers.

{:ok, _} = Application.ensure_all_started(:reactor)

pids =
  for _ <- 1..2 do
    {:ok, context} = Reactor.Python.start_context(isolation: :process)
    {:ok, %{os_pid: pid}} = Reactor.Python.info(context)
    {context, pid}
  end

{busy, _} = hd(pids)
spawn(fn -> Reactor.Python.exec(busy, "print('busy')\nwhile True: pass", timeout: :infinity) end)
IO.puts("pids " <> Enum.map_join(pids, " ", fn {_, pid} -> "#{pid}" end))
Process.sleep(:infinity)
