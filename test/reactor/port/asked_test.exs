defmodule Reactor.Port.AskedTest do
  use ExUnit.Case, async: true

  import Reactor.Port.Asked, only: [is_running: 2]

  alias Reactor.Port.{Asked, Options}

  # What is asked is a function, and the answer what it returns.
  defmodule Numbered do
    def correlation, do: :id

    def serve(function, _options) do
      case function.() do
        {value, later} -> {:answer, value, later}
        value -> {:answer, value}
      end
    end

    def refusal(reason), do: reason
  end

  defmodule Ordered do
    def correlation, do: :order
    defdelegate serve(function, options), to: Numbered
    defdelegate refusal(reason), to: Numbered
    def size(_function), do: 1
  end

  defmodule Large do
    def correlation, do: :order
    defdelegate serve(function, options), to: Numbered
    defdelegate refusal(reason), to: Numbered
    def size(_function), do: 40 * 1_024 * 1_024
  end

  defp asked(wire, max) do
    tasks = start_supervised!(Task.Supervisor)
    Asked.new(tasks, wire, %Options{max_waiting: max, script: "asked.py"})
  end

  # What a function that waits is, and how it is let go on.
  defp waiting(value) do
    test = self()

    fn ->
      send(test, {:begun, value, self()})
      receive do: (:go -> value)
    end
  end

  defp go(value) do
    assert_receive {:begun, ^value, pid}, 10_000
    send(pid, :go)
  end

  defp served(asked) do
    assert_receive {reference, result} when is_reference(reference), 10_000
    assert is_running(asked, reference)
    Asked.served(asked, reference, result)
  end

  defp ask(asked, id, request) do
    {answers, asked} = Asked.ask(asked, {:port, id}, request)
    {answers, asked}
  end

  test "all run at once where answers have numbers, up to a bound" do
    asked = asked(Numbered, 2)
    {[], asked} = ask(asked, 1, waiting(:first))
    {[], asked} = ask(asked, 2, waiting(:second))
    assert Asked.ask(asked, {:port, 3}, waiting(:third)) == :full
    go(:second)
    assert {[{{:port, 2}, :answer, :second}], asked} = served(asked)
    {[], asked} = ask(asked, 3, waiting(:third))
    go(:third)
    assert {[{{:port, 3}, :answer, :third}], asked} = served(asked)
    assert Asked.running(asked) == 1
  end

  test "one runs after the other where the order tells answers apart, and what is refused has its turn" do
    asked = asked(Ordered, 2)
    {[], asked} = ask(asked, nil, waiting(:first))
    {[], asked} = ask(asked, nil, waiting(:second))
    {[], asked} = ask(asked, nil, waiting(:third))
    assert Asked.running(asked) == 1
    go(:first)
    refute_received {:begun, :second, _}
    assert {[{_, :answer, :first}], asked} = served(asked)
    {[], asked} = ask(asked, nil, waiting(:fourth))
    go(:second)

    assert {[{_, :answer, :second}, {_, :error, :overloaded}, {_, :error, :overloaded}], asked} =
             served(asked)

    assert {asked.turn, asked.length, Asked.running(asked)} == {nil, 0, 0}
  end

  test "what is left to do after an answer holds nothing up, and there is a bound to it" do
    import ExUnit.CaptureLog
    asked = asked(Ordered, 1)
    {first, second} = {waiting(:late), waiting(:later)}
    {[], asked} = ask(asked, nil, fn -> {:first, first} end)
    assert {[{_, :answer, :first}], asked} = served(asked)
    assert_receive {:begun, :late, late}, 10_000
    assert Asked.running(asked) == 0
    {[], asked} = ask(asked, nil, fn -> {:second, second} end)

    log = capture_log(fn -> assert {[{_, :answer, :second}], %{turn: nil}} = served(asked) end)

    assert log =~ "a callback is not made, 1 are under way"
    send(late, :go)
    assert_receive {:DOWN, reference, :process, ^late, reason}, 10_000
    assert is_running(asked, reference)
    assert {[], %{beside: beside}} = Asked.served(asked, reference, {:exit, reason})
    assert beside == %{}
    refute_received {:begun, :later, _}
  end

  test "what waits has a bound in bytes too, and one may wait in any case" do
    # Three of them are less than a frame and a stream may have, and four are more.
    asked = asked(Large, 100)
    {[], asked} = ask(asked, 0, waiting(0))
    asked = Enum.reduce(1..4, asked, fn id, asked -> elem(ask(asked, id, waiting(id)), 1) end)
    assert {asked.length, asked.bytes} == {4, 3 * 40 * 1_024 * 1_024}

    asked =
      Enum.reduce(0..2, asked, fn id, asked ->
        go(id)
        assert {[{{:port, ^id}, :answer, ^id}], asked} = served(asked)
        asked
      end)

    go(3)
    answers = [{{:port, 3}, :answer, 3}, {{:port, 4}, :error, :overloaded}]
    assert {^answers, %{turn: nil, bytes: 0} = asked} = served(asked)

    asked = %{asked | options: %{asked.options | max_frame: 1, max_stream: 0}}
    {[], asked} = ask(asked, 5, waiting(5))
    {[], asked} = ask(asked, 6, waiting(6))
    assert asked.length == 1
    go(5)
    assert {[{{:port, 5}, :answer, 5}], asked} = served(asked)
    go(6)
    assert {[{{:port, 6}, :answer, 6}], _asked} = served(asked)
  end

  test "who asks for more and more without an answer is stopped" do
    asked = asked(Ordered, 1)
    {[], asked} = ask(asked, nil, waiting(:first))

    asked =
      Enum.reduce(1..10_000, asked, fn _, asked ->
        {[], asked} = ask(asked, nil, waiting(:more))
        asked
      end)

    assert Asked.ask(asked, {:port, nil}, waiting(:more)) == :full
  end

  test "a process that ends without an answer is one" do
    asked = asked(Numbered, 1)
    {[], asked} = ask(asked, 7, fn -> Process.exit(self(), :kill) end)
    assert_receive {:DOWN, reference, _, _, reason}, 10_000
    assert {[answer], asked} = Asked.served(asked, reference, {:exit, reason})
    assert answer == {{:port, 7}, :error, {:exit, :killed}}
    assert Asked.running(asked) == 0
  end

  test "what a child that has died asked for is not begun, and does not hold up the next one" do
    asked = asked(Ordered, 10)
    {[], asked} = ask(asked, nil, waiting(:first))
    {[], asked} = ask(asked, nil, waiting(:second))
    asked = Asked.forget(asked)
    {[], asked} = ask(asked, nil, waiting(:third))
    go(:third)
    assert {[{_, :answer, :third}], asked} = served(asked)
    go(:first)
    assert {[{_, :answer, :first}], _asked} = served(asked)
    refute_received {:begun, :second, _}
  end
end
