defmodule Reactor.Port.OutstandingTest do
  use ExUnit.Case, async: true

  alias Reactor.Port.Outstanding

  defp put(state, request) do
    {:ok, state} = Outstanding.put(state, request)
    state
  end

  defp next(id), do: id + 1

  test "it takes as many as it may have" do
    [a, b, c] = for _ <- 1..3, do: make_ref()
    state = Outstanding.new(:id, 2)

    state =
      state |> put({:call, a, self(), "a", :infinity}) |> put({:cast, nil, nil, "b", :infinity})

    assert Outstanding.put(state, {:call, c, self(), "c", :infinity}) == :full

    # What was cast is done when it is sent.
    assert {[{:call, 1, "a"}, {:cast, 2, "b"}], 0, state} =
             Outstanding.take(state, 10, 0, &next/1)

    assert state.count == 1
    state = put(state, {:call, b, self(), "c", :infinity})
    assert {[{:call, 3, "c"}], 0, state} = Outstanding.take(state, 10, 0, &next/1)
    assert {:ok, ^b, state} = Outstanding.answered(state, 3)
    assert {:ok, ^a, state} = Outstanding.answered(state, 1)
    assert Outstanding.answered(state, 1) == :error
    assert state.count == 0
  end

  test "answers in order belong to requests in order, casts too" do
    a = make_ref()
    state = :order |> Outstanding.new(9) |> put({:cast, nil, nil, "b", :infinity})
    state = put(state, {:call, a, self(), "a", :infinity})
    assert {[_, _], 0, state} = Outstanding.take(state, 10, 0, &next/1)
    assert state.count == 2
    assert {:ok, nil, state} = Outstanding.answered(state, :next)
    assert {:ok, ^a, state} = Outstanding.answered(state, :next)
    assert Outstanding.answered(state, :next) == :error
  end

  test "what its caller has given up is not sent" do
    [a, b] = for _ <- 1..2, do: make_ref()

    state =
      :id
      |> Outstanding.new(9)
      |> put({:call, a, self(), "a", 5})
      |> put({:call, b, self(), "b", 6})

    assert {[{:call, 1, "b"}], 1, state} = Outstanding.take(state, 10, 5, &next/1)
    assert state.count == 1
    assert Outstanding.oldest(state) == 5
    assert {[^b], state} = Outstanding.drop_sent(state)
    assert {state.count, Outstanding.oldest(state)} == {0, nil}
  end

  test "what waits can be given up" do
    a = make_ref()
    state = :id |> Outstanding.new(9) |> put({:call, a, self(), "a", 5})
    assert Outstanding.waiting?(state)
    assert {[^a], state} = Outstanding.drop_waiting(state)
    refute Outstanding.waiting?(state)
    assert state.count == 0
  end

  test "what has been given up leaves room at once" do
    [a, b, c, d] = for _ <- 1..4, do: make_ref()
    other = spawn(fn -> :ok end)
    state = Outstanding.new(:id, 5)

    state =
      state
      |> put({:call, a, self(), "a", 5})
      |> put({:call, b, other, "b", :infinity})
      |> put({:call, c, self(), "c", 9})
      |> put({:cast, nil, nil, "d", :infinity})
      |> put({:call, d, other, "e", 9})

    assert Outstanding.put(state, {:call, a, self(), "f", :infinity}) == :full
    assert state.soonest == 5
    state = Outstanding.give_up(state, 5, [])
    assert {state.count, state.soonest} == {4, 9}
    state = Outstanding.give_up(state, 6, [other])
    assert {state.count, state.soonest} == {2, 9}
    assert {[{:call, 1, "c"}, {:cast, 2, "d"}], 0, state} = Outstanding.take(state, 9, 6, &next/1)
    assert {state.count, state.soonest} == {1, :infinity}
  end
end
