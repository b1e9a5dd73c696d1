defmodule Reactor.Port.PoolTest do
  # Not async: the registry is that of all ports.
  use Reactor.PortCase, async: false

  @moduletag :capture_log

  test "children are found again when their registry has died" do
    port = open(size: 2)
    registry = Process.whereis(Reactor.Port.Registry)
    Process.exit(registry, :kill)
    assert eventually(fn -> Port.call(port, :twice, [21]) == {:ok, 42} end)
    assert eventually(fn -> match?(%{children: [_, _]}, Port.info(port)) end)
    refute Process.whereis(Reactor.Port.Registry) == registry
  end
end
