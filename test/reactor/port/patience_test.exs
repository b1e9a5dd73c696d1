defmodule Reactor.Port.PatienceTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  require Reactor.Port.Patience
  alias Reactor.Port.Patience

  defp now, do: System.monotonic_time(:millisecond)

  defp waiting, do: spawn_link(fn -> receive(do: (:end -> :ok)) end)

  test "the timer is of the first deadline" do
    patience = Patience.watch(%Patience{}, [], now() + 600_000)
    patience = Patience.watch(patience, [], now())
    assert_receive :impatient, 10_000
    patience = Patience.wake(patience, :infinity)
    assert patience == %Patience{}
  end

  test "deaths are told together, once for each caller" do
    [first, second, third] = for _ <- 1..3, do: waiting()
    patience = Patience.watch(%Patience{}, [first, second, first, third], :infinity)
    monitor = patience.callers[first]
    # Another monitor's message is not one of these.
    other = Process.monitor(second)
    for pid <- [first, second], do: send(pid, :end)
    assert_receive {:DOWN, ^other, :process, ^second, _}, 10_000
    assert_receive {:DOWN, ^monitor, :process, ^first, _}, 10_000

    assert eventually(fn ->
             Process.info(self(), :message_queue_len) == {:message_queue_len, 1}
           end)

    assert Patience.is_caller(patience, first, monitor)
    refute Patience.is_caller(patience, second, other)
    {dead, patience} = Patience.dead(patience, first)
    assert Enum.sort(dead) == Enum.sort([first, second])
    assert Map.keys(patience.callers) == [third]
    assert Patience.rest(patience) == %Patience{}
    send(third, :end)
    assert {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
  end
end
