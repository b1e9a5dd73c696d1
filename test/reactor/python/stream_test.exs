defmodule Reactor.Python.StreamTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{Isolations, Python}

  @moduletag :capture_log

  @code """
  import asyncio, time
  said = []
  made = []
  def count(n=None, fail=None):
      number = 0
      try:
          while number != n:
              if number == fail:
                  raise ValueError(f"no {number}")
              made.append(number)
              yield number
              number += 1
      finally:
          said.append("closed")
  async def count_later(n=None, fail=None):
      try:
          for number in count(n, fail):
              await asyncio.sleep(0)
              yield number
      finally:
          await asyncio.sleep(0)
          said.append("closed later")
  async def late():
      yield 1
      await asyncio.sleep(60)
  def busy():
      yield 1
      time.sleep(60)
  async def found():
      return range(3)
  """

  defp start(context, options \\ []) do
    options = [isolation: context.isolation, setup: @code] ++ options
    {:ok, python} = Python.start_context(options)
    {:ok, keeper} = Python.Context.keeper(python)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    python
  end

  defp stream(python, function, arguments, options \\ []),
    do: Python.stream(python, :__main__, function, arguments, options)

  # What setup has defined speaks of the context's own names.
  defp shared(python, expression) do
    {:ok, value} = Python.eval(python, expression, %{}, namespace: :shared)
    value
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: a stream" do
      @describetag isolation: isolation

      test "has all items, in order, and is enumerated anew each time", context do
        python = start(context)

        for function <- [:count, :count_later], demand <- [1, 7, 100] do
          stream = stream(python, function, [250], demand: demand)
          assert Enum.to_list(stream) == Enum.to_list(0..249)
          assert Enum.sum(stream) == Enum.sum(0..249)
        end
      end

      test "may be of anything that can be iterated over", context do
        python = start(context)
        assert python |> Python.stream(:builtins, :range, [3]) |> Enum.to_list() == [0, 1, 2]
        assert python |> stream(:found, []) |> Enum.to_list() == [0, 1, 2]
        kwargs = [kwargs: %{start: 5}]

        assert python |> Python.stream(:builtins, :enumerate, [["a"]], kwargs) |> Enum.to_list() ==
                 [{5, "a"}]

        assert python |> Python.stream_eval("{'a': n}", %{n: 1}) |> Enum.to_list() == ["a"]
        assert Python.exec(python, "mine = [1, 2]") == :ok
        assert python |> Python.stream_eval("mine") |> Enum.to_list() == [1, 2]

        assert_raise Python.Error, ~r/TypeError: 'int' object is not iterable/, fn ->
          python |> Python.stream_eval("5") |> Enum.to_list()
        end
      end

      test "asks for no more than is wanted", context do
        python = start(context)
        stream = stream(python, :count, [], demand: 10)
        assert shared(python, "made") == []
        assert Enum.take(stream, 30) == Enum.to_list(0..29)
        # No more than it asked for at last, and fewer where they did not come quickly.
        assert shared(python, "len(made)") in 30..39
      end

      test "closes its generator when it is halted", context do
        python = start(context)
        assert python |> stream(:count, []) |> Enum.take(3) == [0, 1, 2]
        assert shared(python, "said") == ["closed"]
        assert python |> stream(:count_later, []) |> Enum.take(3) == [0, 1, 2]
        assert "closed later" in shared(python, "said")
        assert catch_throw(for _ <- stream(python, :count, []), do: throw(:enough)) == :enough
        assert shared(python, "said.count('closed')") == 3
      end

      test "closes its generator when its process dies", context do
        python = start(context)
        test = self()

        for function <- [:count, :count_later] do
          pid =
            spawn(fn ->
              for _ <- stream(python, function, [], demand: 1) do
                send(test, :item)
                receive(do: (:more -> :ok))
              end
            end)

          assert_receive :item
          Process.exit(pid, :kill)
        end

        closed = ["closed", "closed", "closed later"]
        assert eventually(fn -> Enum.sort(shared(python, "said")) == closed end)
      end

      test "raises what the generator raises, after the items before", context do
        python = start(context)
        test = self()

        for function <- [:count, :count_later] do
          stream = python |> stream(function, [nil, 3]) |> Stream.each(&send(test, &1))
          error = assert_raise Python.Error, fn -> Stream.run(stream) end
          assert %{type: "ValueError", message: "no 3"} = error
          assert error.traceback =~ "in count"
          for n <- 0..2, do: assert_received(^n)
        end
      end

      test "raises when the next item takes too long", context do
        python = start(context)

        for function <- [:late, :busy] do
          stream = stream(python, function, [], timeout: 20_000)
          assert Enum.take(stream, 1) == [1]
        end

        error =
          assert_raise Python.Error, fn ->
            python |> stream(:late, [], timeout: 300) |> Enum.to_list()
          end

        assert error.type == "timeout"
        assert python |> Python.stream(:builtins, :range, [2]) |> Enum.to_list() == [0, 1]
      end

      test "raises when its context is not there, or ends", context do
        python = start(context)

        error =
          assert_raise Python.Error, fn -> :nobody |> stream(:count, []) |> Enum.to_list() end

        assert error.type == "noproc"

        error =
          assert_raise Python.Error, fn ->
            for _ <- stream(python, :count, [], demand: 1), do: Process.exit(python, :kill)
          end

        assert error.type in ["closed", "noproc"]
      end

      test "is one of 1,024 at most", context do
        python = start(context)
        # Each is open while the next one is opened.
        deeper = fn deeper, n ->
          for _ <- Stream.take(stream(python, :count, [], demand: 1), 1),
              do: deeper.(deeper, n + 1)
        end

        assert_raise Python.Error, ~r/1024 streams are open/, fn -> deeper.(deeper, 1) end
        assert eventually(fn -> shared(python, "said.count('closed')") == 1_024 end)
      end
    end
  end

  test "a wrong option is refused before anything else" do
    assert_raise ArgumentError, ~r/demand must be an integer from 1 to 10000, got: 0/, fn ->
      Python.stream(:any, :builtins, :range, [1], demand: 0)
    end

    assert_raise ArgumentError, ~r/unknown option :chunk/, fn ->
      Python.stream_eval(:any, "[]", %{}, chunk: 5)
    end
  end
end
