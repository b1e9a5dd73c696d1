defmodule Reactor.RuntimeTest do
  use ExUnit.Case, async: true

  alias Reactor.EventRelay

  test "the load of a loop is an event, with its times in native units" do
    EventRelay.attach(loop: "a loop of #{inspect(__MODULE__)}")

    load = %{
      kind: :elixir,
      name: "a loop of #{inspect(__MODULE__)}",
      turns: 5,
      calls: 0,
      busy_ns: 3_000_000,
      longest_ns: 2_000_000,
      gil_wait_ns: 0,
      gil_longest_ns: 0
    }

    runtime = Process.whereis(Reactor.Runtime)
    # What is none of its own does not end it.
    reports = [{:unknown, 1}, {:load, %{load | kind: :odd}}, {:load, load}]
    send(runtime, {:"$reactor_report", reports})

    assert {%{turns: 5} = measurements, _} = EventRelay.assert_event([:reactor, :loop, :load])
    assert System.convert_time_unit(measurements.busy_time, :native, :microsecond) == 3_000
    assert System.convert_time_unit(measurements.longest_turn, :native, :microsecond) == 2_000
    assert Process.whereis(Reactor.Runtime) == runtime
  end
end
