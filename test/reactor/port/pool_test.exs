defmodule Reactor.Port.PoolTest do
  # Not async: the registry is that of all ports.
  use Reactor.PortCase, async: false

  alias Reactor.Port.{Pool, Registry}

  @moduletag :capture_log

  defp kill_registry do
    registry = Process.whereis(Registry)
    monitor = Process.monitor(registry)
    Process.exit(registry, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}
  end

  test "the death of the registry is nobody's" do
    port = open(size: 2)
    os_pids = os_pids(port)
    supervisor = Process.whereis(Reactor.Supervisor)

    # More often than the application's supervisor would stand it.
    for _ <- 1..10 do
      kill_registry()
      # There need not be another one yet.
      assert Port.call(port, :twice, [21]) == {:ok, 42}
      assert os_pids(port) == os_pids
      assert eventually(fn -> Process.whereis(Registry) != nil end)
    end

    assert Process.whereis(Reactor.Supervisor) == supervisor
  end

  test "who has died is found no more, also by a registry that came later" do
    port = open(size: 2)
    kill_registry()
    assert [{child, _}, {other, _}] = Pool.all(port)
    Process.exit(child, :kill)

    # Another child is in its place.
    assert eventually(fn ->
             children = for {child, _known} <- Pool.all(port), do: child
             length(children) == 2 and child not in children and other in children
           end)

    assert Port.stop(port) == :ok
    assert eventually(fn -> Pool.all(port) == [] end)
  end
end
