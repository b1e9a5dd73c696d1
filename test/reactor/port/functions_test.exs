defmodule Reactor.Port.FunctionsTest do
  # Functions of Elixir's that a script calls.
  use Reactor.PortCase, async: true

  alias Reactor.Port.Functions

  test "are called by the script" do
    test = self()

    tell = fn what ->
      send(test, {:told, what})
      nil
    end

    port =
      open(
        functions: %{
          :upper => &String.upcase/1,
          "tell" => tell,
          "boom" => fn -> raise "no" end,
          "throw" => fn -> throw(:ball) end,
          "die" => fn -> Process.exit(self(), :kill) end,
          "wait" => fn -> Process.sleep(:infinity) end
        }
      )

    assert Port.call(port, :call, ["upper", "hello"]) == {:ok, "HELLO"}
    assert Port.call(port, :cast, ["tell", 1]) == {:ok, nil}
    assert_receive {:told, 1}

    for {arguments, text} <- [
          {["lower", "x"], "undefined: lower"},
          {["upper"], "bad_arguments: upper takes 1 arguments, not 0"},
          {["boom"], "exception: RuntimeError: no"},
          {["throw"], "exception: throw: :ball"},
          {["die"], "exception: exit: :killed"}
        ] do
      assert {:error, %{type: "RemoteError", message: ^text}} = Port.call(port, :call, arguments)
    end

    assert {:error, %{type: "TimeoutError"}} = Port.call(port, :call_briefly, ["wait"])
    assert Port.call(port, :call, ["upper", "again"]) == {:ok, "AGAIN"}
  end

  test "are not called with arguments that are an improper list" do
    functions = %{"add" => &Kernel.+/2}
    error = {:error, {:bad_arguments, "the arguments of add are an improper list"}}
    assert Functions.call(functions, "add", [1 | 2]) == error
    assert Functions.call(functions, "add", [1, 2]) == {:answer, 3}
  end

  test "are called from threads, too, and call back" do
    name = :"port_#{System.unique_integer([:positive])}"
    call = fn n -> elem(Port.call(name, :twice, [n]), 1) end
    open(name: name, args: ["2"], functions: [twice: call])
    assert Port.call(name, :call, ["twice", 21]) == {:ok, 42}
  end

  test "are called while requests wait for the same thread" do
    port = open(functions: [upper: &String.upcase/1])

    tasks = for n <- 1..50, do: Task.async(fn -> Port.call(port, :call, ["upper", "n#{n}"]) end)

    assert Task.await_many(tasks) == for(n <- 1..50, do: {:ok, "N#{n}"})
  end
end
