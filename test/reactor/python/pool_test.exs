defmodule Reactor.Python.PoolTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{ConfigError, Isolations, Python}
  alias Reactor.Python.Pool

  @moduletag :capture_log

  # What does not return.
  @waits "import time\nwhile True: time.sleep(0.001)"

  defp start(options) do
    start_supervised!({Pool, options}, id: make_ref())
  end

  defp which(pool, options \\ []) do
    {:ok, thread} = Python.eval(pool, "__import__('threading').get_ident()", %{}, options)
    thread
  end

  # A call that keeps its context busy until its caller is ended.
  defp hold(pool) do
    Task.async(fn -> Python.call(pool, :builtins, :exec, [@waits, %{}], timeout: :infinity) end)
  end

  defp waiting(pool) do
    {:ok, %{calls_waiting: waiting}} = Pool.info(pool)
    waiting
  end

  defp contexts(pool) do
    {:ok, %{contexts: contexts}} = Pool.info(pool)
    contexts
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: a pool" do
      @describetag isolation: isolation

      test "takes what a context takes, by its name or process", context do
        name = :"pool_#{System.unique_integer([:positive])}"
        pool = start(name: name, size: 2, isolation: context.isolation, setup: "x = 1")

        for pool <- [pool, name] do
          assert Python.call(pool, :math, :sqrt, [16]) == {:ok, 4.0}
          assert Python.eval(pool, "x") == {:ok, 1}
          assert Python.exec(pool, "y = 2") == :ok
          assert Python.eval(pool, "y") == {:ok, 2}
          assert pool |> Python.stream_eval("range(3)") |> Enum.to_list() == [0, 1, 2]
          assert pool |> Python.stream(:builtins, :range, [3]) |> Enum.to_list() == [0, 1, 2]
        end

        assert {:ok, info} = Pool.info(name)
        assert %{name: ^name, size: 2, max_waiting: 1_024, calls_waiting: 0} = info
        assert [%{state: :running}, %{state: :running}] = info.contexts
      end

      test "has one context for each process, and uses all of them", context do
        pool = start(size: 3, isolation: context.isolation)
        used = fn -> Enum.uniq(for _ <- 1..5, do: which(pool)) end
        threads = 1..60 |> Enum.map(fn _ -> Task.async(used) end) |> Task.await_many()
        for thread <- threads, do: assert([_one] = thread)
        assert threads |> List.flatten() |> Enum.uniq() |> length() == 3

        mine = which(pool)
        assert which(pool, namespace: :shared) == mine
        assert Python.exec(pool, "def f(): return __import__('threading').get_ident()") == :ok
        assert Python.call(pool, :__main__, :f) == {:ok, mine}
      end

      test "gives other calls to the context with the fewest", context do
        pool = start(size: 3, isolation: context.isolation)
        held = for n <- 1..2, do: {hold(pool), eventually(fn -> waiting(pool) == n end)}
        assert Enum.map(contexts(pool), & &1.calls_waiting) |> Enum.sort() == [0, 1, 1]
        # None of these is behind one that waits.
        for _ <- 1..20, do: assert({:ok, 2.0} = Python.call(pool, :math, :sqrt, [4]))
        for {task, true} <- held, do: Task.shutdown(task, :brutal_kill)
      end

      test "refuses more than may wait in it", context do
        pool = start(size: 2, max_waiting: 3, isolation: context.isolation)
        held = for n <- 1..3, do: {hold(pool), eventually(fn -> waiting(pool) == n end)}
        assert Python.call(pool, :math, :sqrt, [4]) == {:error, :overloaded}
        assert Python.eval(pool, "1") == {:error, :overloaded}
        assert waiting(pool) == 3
        for {task, true} <- held, do: Task.shutdown(task, :brutal_kill)
        assert eventually(fn -> waiting(pool) == 0 end)
      end

      test "starts a context that died again, while the others serve", context do
        pool = start(size: 2, isolation: context.isolation, setup: "import time; time.sleep(0.2)")
        children = fn -> for {_, pid, _, _} <- Supervisor.which_children(pool), do: pid end
        [victim, other] = children.()
        Process.exit(victim, :kill)
        answers = for _ <- 1..20, do: Python.call(pool, :math, :sqrt, [4])
        # A call may still have gone to the one that dies.
        assert Enum.uniq(answers) -- [{:error, :closed}] == [{:ok, 2.0}]
        # It waits for the start.
        pids = children.()
        assert other in pids
        refute victim in pids
        assert length(contexts(pool)) == 2
        assert waiting(pool) == 0
        assert eventually(fn -> Python.eval(pool, "1") == {:ok, 1} end)
      end
    end
  end

  describe "start_link" do
    test "refuses wrong options, and says what is right" do
      for {options, name} <- [
            {[size: 0], :size},
            {[size: 2_000], :size},
            {[max_waiting: 0], :max_waiting},
            {[isolation: :other], :isolation},
            {[name: "text"], :name},
            {[sizes: 2], :sizes},
            {:nothing, :options}
          ] do
        assert {:error, %ConfigError{} = error} = Pool.start_link(options)
        assert Exception.message(error) =~ inspect(name)
      end

      assert {:error, error} = Pool.start_link(max_wating: 2)
      assert Exception.message(error) =~ "did you mean :max_waiting?"
      assert {:error, %ConfigError{option: :size}} = Pool.start_link(size: 2, size: 0)
    end

    test "says why a context does not start, and leaves nothing behind" do
      Process.flag(:trap_exit, true)
      name = :"fails_#{System.unique_integer([:positive])}"

      assert {:error, %Python.Error{type: "ZeroDivisionError"}} =
               Pool.start_link(name: name, size: 2, setup: "1 / 0")

      assert Pool.info(name) == {:error, :noproc}
      pool = start(name: name, size: 1)
      assert Python.eval(pool, "1") == {:ok, 1}
    end

    test "keeps setup code out of what its supervisor knows" do
      pool = start(size: 1, setup: "secret = 'hunter2'")
      assert Python.eval(pool, "secret") == {:ok, "hunter2"}
      refute inspect(:sys.get_state(pool), limit: :infinity, structs: false) =~ "hunter2"
    end

    test "has names of its own for its contexts" do
      pool = start(name: :py, size: 1)
      assert [%{name: name}] = contexts(pool)
      assert Python.Directory.text(name) == ":py/1"
      context = :py.context(1)
      on_exit(fn -> Python.stop_context(context) end)
      refute context in for({_, pid, _, _} <- Supervisor.which_children(pool), do: pid)
    end

    test "ends its contexts side by side" do
      pool = start(size: 4, drain_timeout: 1_000, setup: "import asyncio")
      for _ <- 1..8, do: {:ok, _} = Python.call_async(pool, :asyncio, :sleep, [60])
      assert eventually(fn -> Enum.all?(contexts(pool), &(&1.calls_waiting > 0)) end)
      {us, :ok} = :timer.tc(fn -> Supervisor.stop(pool, :shutdown) end)
      # And not after four seconds.
      assert us in 900_000..3_500_000
    end

    test "is not mistaken for a context where one is meant" do
      pool = start(size: 1)
      assert Python.info(pool) == {:error, :noproc}
      assert Python.stop_context(pool) == {:error, :noproc}
      assert Python.eval(pool, "1") == {:ok, 1}
    end

    test "info of what is no pool" do
      assert Pool.info(:nobody) == {:error, :noproc}
      assert Pool.info(self()) == {:error, :noproc}
    end
  end
end
