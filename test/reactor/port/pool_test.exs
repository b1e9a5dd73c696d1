defmodule Reactor.Port.PoolTest do
  # Not async: the registry is that of all ports.
  use Reactor.PortCase, async: false

  @moduletag :capture_log

  test "children are found again when their registry has died" do
    port = open(size: 2)
    registry = Process.whereis(Reactor.Port.Registry)
    # Killed, it could leave a part of itself in the way of the next one for a moment.
    :ok = Supervisor.terminate_child(Reactor.Supervisor, Reactor.Port.Registry)
    {:ok, _} = Supervisor.restart_child(Reactor.Supervisor, Reactor.Port.Registry)
    assert eventually(fn -> Port.call(port, :twice, [21]) == {:ok, 42} end)
    assert eventually(fn -> match?(%{children: [_, _]}, Port.info(port)) end)
    refute Process.whereis(Reactor.Port.Registry) == registry
  end
end
