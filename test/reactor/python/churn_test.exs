defmodule Reactor.Python.ChurnTest do
  # It measures the memory of a VM, and takes both cores.
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 2]

  alias Reactor.Program

  # REACTOR_SOAK=1 makes it 10,000 connections for 5 minutes; REACTOR_CHURN_CONNECTIONS and
  # REACTOR_CHURN_SECONDS make it any.
  @soak System.get_env("REACTOR_SOAK") == "1"
  @connections String.to_integer(
                 System.get_env("REACTOR_CHURN_CONNECTIONS") ||
                   if(@soak, do: "10000", else: "200")
               )
  @seconds String.to_integer(
             System.get_env("REACTOR_CHURN_SECONDS") || if(@soak, do: "300", else: "1")
           )

  # The first round, after which everything is there that stays: loops, pools, the heaps of two allocators.
  @warm_up_s min(@seconds, 20)

  # A supervisor takes three ends of its children in five seconds.
  @kill_every_ms if @soak, do: 2_000, else: 700

  # Each connection takes a descriptor, and one more while it is handed over.
  @open_files @connections + 4_000

  @moduletag timeout: (@seconds + 180) * 1_000

  for isolation <- Reactor.Isolations.all() do
    test "#{isolation}: connections come and go in every way, contexts are killed, " <>
           "and afterwards all is as it was" do
      churn(unquote(isolation))
    end
  end

  defp churn(isolation) do
    server = Program.vm("churn_server.exs", @open_files, [to_string(isolation)])
    %{port: [steady, handed, churned, handed_churned]} = Program.answer(server)
    arguments = [@connections, steady, handed, "/", churned, handed_churned]
    clients = Program.clients("churn.py", arguments, @open_files)
    assert %{ready: 1} = Program.answer(clients)

    round(server, clients, @warm_up_s)
    before = settled(server, nil)
    counts = round(server, clients, @seconds)
    left = settled(server, before)

    assert Map.drop(left, [:objects, :blocks, :resident_kib]) ==
             Map.drop(before, [:objects, :blocks, :resident_kib])

    # Of what a round allocates there are thousands for each connection.
    assert_in_delta left.objects, before.objects, 100
    # Blocks of memory are not counted in interpreters of their own.
    if isolation != :subinterpreter, do: assert_in_delta(left.blocks, before.blocks, 2_000)
    assert left.resident_kib < before.resident_kib * 1.05 + 8_192

    if @soak,
      do: IO.puts("churn: #{inspect(counts)}, before #{inspect(before)}, after #{inspect(left)}")

    Program.stop(clients)
    Program.stop(server)
  end

  defp round(server, clients, seconds) do
    Program.ask(server, "churn #{@kill_every_ms}")
    counts = Program.ask(clients, "run #{seconds}", (seconds + 90) * 1_000)
    %{kills: kills} = Program.ask(server, "calm")

    assert %{lost: 0, wrong: 0, failed: 0} = counts
    assert counts.alone == div(@connections, 2)
    assert kills > 0

    for way <- [:closed, :half_closed, :reset, :reset_in_a_write, :exception],
        do: assert(counts[way] > 0, "no connection was #{way}")

    Map.put(counts, :kills, kills)
  end

  # What there is when nothing more goes away. Killed contexts are there again, and those that were, not any
  # more: as many as in the beginning.
  defp settled(server, before) do
    deadline = System.monotonic_time(:millisecond) + 40_000

    settled? = fn ->
      counts = Program.ask(server, "count")
      Process.put(:counts, counts)
      same? = before == nil or Map.take(counts, stable()) == Map.take(before, stable())

      same? and counts.protocols == 0 and counts.contexts == 3 and counts.buffers == 0 and
        counts.connections == 0
    end

    assert eventually(settled?, deadline), "left: #{inspect(Process.get(:counts))}"
    Process.get(:counts)
  end

  defp stable, do: [:open, :files, :processes, :ports]
end
