defmodule Reactor.Port.AskedTest do
  use ExUnit.Case, async: true

  import Reactor.Port.Asked, only: [is_running: 2]

  alias Reactor.Port.{Asked, Options}

  # What is asked is a function, and the answer what it returns.
  defmodule Numbered do
    def correlation, do: :id
    def serve(function, _options), do: {:answer, function.()}
    def refusal(reason), do: reason
  end

  defmodule Ordered do
    def correlation, do: :order
    defdelegate serve(function, options), to: Numbered
    defdelegate refusal(reason), to: Numbered
  end

  defp asked(wire, max) do
    tasks = start_supervised!(Task.Supervisor)
    Asked.new(tasks, wire, %Options{max_waiting: max})
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
    assert_receive {reference, {_kind, _body} = result} when is_reference(reference), 10_000
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
