defmodule Reactor.Python.ProcessAsksTest do
  # Not async: processes are killed, and what waits for answers is counted. That functions are called as out of
  # other isolations is in callback_test.exs.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.Python

  # So many questions of one process may be without an answer: see portal/questions.rs.
  @most 1_424

  # Where questions go, as in portal.rs.
  @questions 8

  # Deaths are logged.
  @moduletag :capture_log

  defp start(options \\ []) do
    {:ok, context} =
      Python.start_context([isolation: :process, setup: "import erlang"] ++ options)

    {:ok, keeper} = Python.Context.keeper(context)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    context
  end

  defp start_named do
    name = :"process_asks_test_#{System.unique_integer([:positive])}"
    start(name: name)
    name
  end

  defp register(function) do
    name = "function_#{System.unique_integer([:positive])}"
    :ok = Python.register_function(name, function)
    on_exit(fn -> Python.unregister_function(name) end)
    name
  end

  # Whoever answers says so, and waits for ever.
  defp register_endless(what) do
    test = self()

    register(fn ->
      send(test, {what, self()})
      Process.sleep(:infinity)
    end)
  end

  defp kill(context) do
    {:ok, %{os_pid: pid}} = Python.info(context)
    {_, 0} = System.cmd("kill", ["-KILL", "#{pid}"])
  end

  # Who answers questions now.
  defp executors do
    for {_, pid, _, _} <- PartitionSupervisor.which_children(Python.Questions),
        executor <- Map.keys(:sys.get_state(pid)),
        do: executor
  end

  describe "what a process asks" do
    test "may be asked by its setup already" do
      name = register(fn n -> n + 1 end)
      context = start(setup: "from erlang import #{name} as more; found = more(1)")
      assert Python.eval(context, "[found, more(found)]") == {:ok, [2, 3]}
    end

    test "has what no message holds refused, in both directions" do
      context = start()
      size = 257 * 1024 * 1024
      echo = register(fn bytes -> byte_size(bytes) end)
      large = register(fn -> :binary.copy(<<0>>, size) end)

      for code <- ["erlang.#{echo}(bytes(#{size}))", "erlang.#{large}()"] do
        assert {:error, %Python.Error{type: "ValueError", message: message}} =
                 Python.eval(context, code, %{}, timeout: 60_000)

        assert message =~ "256 MiB"
      end

      assert Python.eval(context, "erlang.#{echo}(bytes(1_000_000))") == {:ok, 1_000_000}
    end

    test "names no atom that the VM does not have" do
      context = start()
      name = register(fn atom -> atom end)
      assert Python.eval(context, "erlang.#{name}(erlang.Atom('ok'))") == {:ok, :ok}

      assert {:error, %Python.Error{type: "ValueError", message: message}} =
               Python.eval(context, "erlang.#{name}(erlang.Atom('no atom ' + 'of anybody'))")

      assert message =~ "atom"
      assert message =~ "does not have"
    end

    test "is no more than its threads ask, whatever it says" do
      context = start_named()
      name = register_endless(:executor)

      :ok =
        Python.exec(context, """
        import os, socket, struct
        from erlang.etf import encode
        def control():
            for name in os.listdir("/proc/self/fd"):
                try:
                    found = socket.socket(fileno=os.dup(int(name)))
                except OSError:
                    continue
                if found.family == socket.AF_UNIX:
                    return found
        def say(terms):
            with control() as found:
                for term in terms:
                    frame = bytes([#{@questions}]) + encode(term)
                    found.sendall(struct.pack("!I", len(frame)) + frame)
        """)

      ask = "say([(n, ('#{name}', [], [], False)) for n in range(100_000, 100_000 + count)])"
      assert Python.eval(context, ask, %{count: @most + 100}) == {:ok, nil}
      assert eventually(fn -> length(executors()) == @most end)

      odd = "say([1, (1, 2), (1, ('f', [], 1, True)), (1, erlang.Atom('ok')), (1, (1, 2, 3, 4))])"
      assert Python.eval(context, odd) == {:ok, nil}
      # One of the same number takes its place.
      assert Python.eval(context, ask, %{count: 1}) == {:ok, nil}
      assert Python.eval(context, "1 + 1") == {:ok, 2}
      assert length(executors()) in [@most, @most + 1]

      kill(context)
      assert eventually(fn -> executors() == [] end)
    end
  end

  describe "a process that is killed while functions answer it" do
    test "leaves nobody without an answer, and nothing behind" do
      context = start_named()
      inner = register_endless(:inner)
      alone = register_endless(:alone)
      test = self()

      outer =
        register(fn ->
          executor = self()

          # Not linked: it outlives the one that answers.
          spawn(fn ->
            asked = [callers: [executor], timeout: :infinity]
            send(test, {:nested, Python.eval(context, "erlang.#{inner}()", %{}, asked)})
          end)

          send(test, {:outer, executor})
          Process.sleep(:infinity)
        end)

      # A thread of its user's asks too.
      code = "import threading; threading.Thread(target=erlang.#{alone}, daemon=True).start()"
      assert Python.exec(context, code) == :ok

      call =
        Task.async(fn -> Python.eval(context, "erlang.#{outer}()", %{}, timeout: :infinity) end)

      assert_receive {:alone, alone}
      assert_receive {:outer, outer}
      assert_receive {:inner, inner}
      turn = Task.async(fn -> Python.eval(context, "1", %{}, timeout: :infinity) end)
      assert eventually(fn -> match?({:ok, %{calls_waiting: 3}}, Python.info(context)) end)

      kill(context)
      assert_receive {:nested, {:error, :closed}}, 5_000
      assert Task.await(call) == {:error, :closed}
      assert Task.await(turn) == {:error, :closed}
      assert eventually(fn -> not Enum.any?([alone, outer, inner], &Process.alive?/1) end)
      # Of whose end the one that started them hears by messages.
      assert eventually(fn -> executors() == [] end)

      name = register(fn -> "again" end)
      assert eventually(fn -> Python.eval(context, "erlang.#{name}()") == {:ok, "again"} end)
    end

    test "by one of them, again and again, under load" do
      context = start_named()
      ends = register(fn -> kill(context) end)

      back =
        register(fn n ->
          {:ok, value} = Python.eval(context, "n", %{n: n})
          value
        end)

      # Whoever dies more often is given up.
      for _ <- 1..3 do
        assert eventually(fn -> Python.eval(context, "1") == {:ok, 1} end)

        load =
          for n <- 1..20 do
            Task.async(fn -> {n, Python.eval(context, "erlang.#{back}(n)", %{n: n})} end)
          end

        ended = Python.eval(context, "erlang.#{ends}()")
        assert ended in [{:error, :closed}, {:error, :noproc}]

        for {n, outcome} <- Task.await_many(load, 20_000),
            do: assert(outcome in [{:ok, n}, {:error, :closed}, {:error, :noproc}])
      end

      assert eventually(fn -> executors() == [] end)
    end
  end
end
