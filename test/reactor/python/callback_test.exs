defmodule Reactor.Python.CallbackTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{Isolations, Python, Server}

  @python Path.expand("../../support/python", __DIR__)

  @moduletag :capture_log

  setup context do
    if isolation = context[:isolation], do: {:ok, python: start(isolation)}, else: :ok
  end

  defp start(isolation, options \\ []) do
    {:ok, python} =
      Python.start_context([isolation: isolation, setup: "import erlang"] ++ options)

    {:ok, keeper} = Python.Context.keeper(python)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    python
  end

  # A name of this test's own, since functions are known to the whole VM.
  defp register(function) do
    name = "function_#{System.unique_integer([:positive])}"
    :ok = Python.register_function(name, function)
    on_exit(fn -> Python.unregister_function(name) end)
    name
  end

  # `down(n, token)` goes down to 0 through Elixir, and comes back with how deep that was and for whom.
  defp descend(python, timeout \\ 60_000) do
    name =
      register(fn n, token ->
        {:ok, [^token, depth]} =
          Python.call(python, :__main__, :down, [n - 1, token], timeout: timeout)

        depth
      end)

    # Many processes ask for it.
    code = """
    def down(n, token):
        if n == 0:
            return [token, 0]
        return [token, erlang.call("#{name}", n, token) + 1]
    """

    :ok = Python.exec(python, code, namespace: :shared)
    python
  end

  defmodule Asks do
    use Reactor, python: "asks:Asks"
  end

  defp serve_asks(context, options \\ []) do
    serve(context, Asks, [paths: [@python], isolation: context.isolation] ++ options)
  end

  defp ask(client, text) do
    :ok = :gen_tcp.send(client, text)
    {:ok, answer} = :gen_tcp.recv(client, 0, 20_000)
    answer
  end

  defp register_hop(context) do
    register(fn n ->
      {:ok, depth} = Python.call(context, :__main__, :hop, [n - 1], timeout: 60_000)
      depth
    end)
  end

  defp hops(context, name) do
    Python.exec(context, """
    def hop(n):
        return erlang.call("#{name}", n) + 1 if n else 0
    """)
  end

  # A call that asks, and will come back when the process that answers is told to go on.
  defp start_waiting(python) do
    test = self()

    name =
      register(fn ->
        send(test, {:asked, self()})
        receive do: (:go_on -> :ok)
        elem(Python.eval(python, "1"), 1)
      end)

    waits = Task.async(fn -> Python.eval(python, "erlang.#{name}()") end)
    assert_receive {:asked, executor}
    {waits, executor}
  end

  # The inner question is asked on behalf of the task, which is on behalf of the outer executor.
  defp outer_of(executor) do
    {:dictionary, dictionary} = Process.info(executor, :dictionary)
    [_task, outer | _] = dictionary[:"$callers"]
    outer
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: a function that is registered" do
      @describetag isolation: isolation

      test "is called by name, or imported", %{python: python} do
        name = register(fn a, b -> {a, %{"b" => b}} end)
        called = "erlang.call(name, 1, [2, None])"
        assert Python.eval(python, called, %{name: name}) == {:ok, {1, %{"b" => [2, nil]}}}
        assert Python.eval(python, "erlang.#{name}(1, 2)") == {:ok, {1, %{"b" => 2}}}
        assert Python.exec(python, "from erlang import #{name} as imported") == :ok
        assert Python.eval(python, "imported('x', b'y')") == {:ok, {"x", %{"b" => "y"}}}

        assert Python.eval(python, "repr(imported)") == {:ok, "<erlang function #{name}>"}
        assert Python.exec(python, "import pickle") == :ok
        again = "pickle.loads(pickle.dumps(imported)) == imported"
        assert Python.eval(python, again) == {:ok, true}
      end

      test "may be one of a module, and may be replaced and forgotten", %{python: python} do
        name = register({String, :upcase})
        assert Python.eval(python, "erlang.#{name}('x')") == {:ok, "X"}
        :ok = Python.register_function(name, &String.downcase/1)
        assert Python.eval(python, "erlang.#{name}('X')") == {:ok, "x"}
        assert Python.exec(python, "from erlang import #{name} as kept") == :ok
        assert Python.unregister_function(name) == :ok

        assert {:error, %Python.Error{type: "CallError", message: message}} =
                 Python.eval(python, "kept('X')")

        assert message =~ "no function is registered as \"#{name}\""

        assert {:error, %Python.Error{type: "AttributeError", message: message}} =
                 Python.eval(python, "erlang.#{name}")

        assert message =~ "no function is registered under that name"

        assert {:error, %Python.Error{type: "ImportError"}} =
                 Python.exec(python, "from erlang import #{name}")
      end

      test "fails with what happened, as an exception", %{python: python} do
        :ok =
          Python.exec(python, """
          def failing(name, *args):
              try:
                  return erlang.call(name, *args)
              except erlang.CallError as error:
                  return [error.kind, error.type, error.reason, error.stacktrace]
          """)

        failing = fn function, arguments ->
          asked = [register(function) | arguments]
          {:ok, failed} = Python.call(python, :__main__, :failing, asked)
          failed
        end

        assert ["error", "ArgumentError", "no good", stacktrace] =
                 failing.(fn -> raise ArgumentError, "no good" end, [])

        assert stacktrace =~ "callback_test.exs"
        assert ["error", "BadArityError", _, _] = failing.(fn -> 1 end, [1, 2])
        assert ["error", "UndefinedFunctionError", _, _] = failing.({String, :nothing}, [])
        assert ["exit", nil, ":gone", _] = failing.(fn -> exit(:gone) end, [])
        assert ["throw", nil, "{:a, 1}", _] = failing.(fn -> throw({:a, 1}) end, [])

        killed = fn -> Process.exit(self(), :kill) && Process.sleep(:infinity) end
        assert ["exit", nil, "killed", ""] = failing.(killed, [])

        linked = fn ->
          spawn_link(fn -> exit(:linked) end)
          Process.sleep(:infinity)
        end

        assert ["exit", nil, ":linked", ""] = failing.(linked, [])
        assert Python.eval(python, "1") == {:ok, 1}
      end

      test "runs in a process of its own, on behalf of whoever called", %{python: python} do
        test = self()

        name =
          register(fn ->
            send(test, {:runs, self(), Process.get(:"$callers")})
            1
          end)

        task = Task.async(fn -> Python.eval(python, "erlang.#{name}()") end)
        assert Task.await(task) == {:ok, 1}
        assert_receive {:runs, executor, [caller, ^test]}
        assert caller == task.pid
        assert eventually(fn -> not Process.alive?(executor) end)
      end

      test "may take as long as Python waits for it, and is ended then", %{python: python} do
        test = self()

        name =
          register(fn ->
            send(test, {:executor, self()})
            Process.sleep(:infinity)
          end)

        assert {:error, %Python.Error{type: "TimeoutError", message: message}} =
                 Python.eval(python, "erlang.call('#{name}', timeout=0.5)")

        assert message =~ "no answer"
        assert_receive {:executor, executor}
        assert eventually(fn -> not Process.alive?(executor) end)

        for wrong <- ["-1", "'x'", "float('nan')"] do
          assert {:error, %Python.Error{message: message}} =
                   Python.eval(python, "erlang.call('#{name}', timeout=#{wrong})")

          assert message =~ "timeout is a number of seconds"
        end
      end

      test "is given up with the call that waits for it", %{python: python} do
        test = self()

        name =
          register(fn ->
            send(test, {:executor, self()})
            Process.sleep(:infinity)
          end)

        call = "erlang.call('#{name}')"
        {:ok, waits} = Python.eval_async(python, call)
        assert_receive {:executor, executor}
        assert Python.await(waits, 50) == {:error, :timeout}
        assert Python.eval(python, "1") == {:ok, 1}
        assert eventually(fn -> not Process.alive?(executor) end)

        caller = spawn(fn -> Python.eval(python, call, %{}, timeout: :infinity) end)
        assert_receive {:executor, executor}
        Process.exit(caller, :kill)
        assert Python.eval(python, "2") == {:ok, 2}
        assert eventually(fn -> not Process.alive?(executor) end)
      end

      test "lets what waits for it clean up", %{python: python} do
        test = self()

        name =
          register(fn ->
            send(test, :asked)
            Process.sleep(:infinity)
          end)

        noted = register(fn text -> text end)

        :ok =
          Python.exec(python, """
          heard = []
          def careful():
              try:
                  erlang.call("#{name}")
              except BaseException as error:
                  # It may ask again for that.
                  heard.append(erlang.call("#{noted}", type(error).__name__))
                  raise
          """)

        {:ok, call} = Python.call_async(python, :__main__, :careful)
        assert_receive :asked
        assert Python.await(call, 50) == {:error, :timeout}
        assert Python.eval(python, "heard") == {:ok, ["CallTimeout"]}
      end

      test "may be called from any thread", %{python: python} do
        name = register(fn n -> n * 2 end)

        :ok =
          Python.exec(python, """
          import threading
          doubled = {}
          def double(n):
              doubled[n] = erlang.call("#{name}", n)
          def failing():
              try:
                  erlang.call("nobody has this name")
              except erlang.CallError as error:
                  doubled["failed"] = error.kind
          threads = [threading.Thread(target=double, args=(n,)) for n in range(20)]
          threads.append(threading.Thread(target=failing))
          for thread in threads:
              thread.start()
          for thread in threads:
              thread.join()
          """)

        assert {:ok, doubled} = Python.eval(python, "doubled")
        assert doubled["failed"] == "undefined"
        assert Map.delete(doubled, "failed") == Map.new(0..19, &{&1, &1 * 2})
      end
    end

    describe "#{isolation}: calls that come back" do
      @describetag isolation: isolation

      test "are run within the call that waits, any number deep", %{python: python} do
        descend(python)

        for depth <- [1, 2, 50, 200] do
          assert Python.call(python, :__main__, :down, [depth, "t"], timeout: 60_000) ==
                   {:ok, ["t", depth]}
        end

        assert Python.eval(python, "1") == {:ok, 1}
      end

      test "are refused where they are too deep, and harm nobody", %{python: python} do
        descend(python)
        :ok = Python.exec(python, "import sys; sys.setrecursionlimit(100_000)")

        result = Python.call(python, :__main__, :down, [1_000, "t"], timeout: 60_000)
        # It is that of all who share the interpreter.
        :ok = Python.exec(python, "sys.setrecursionlimit(1000)")
        assert {:error, %Python.Error{message: message}} = result
        assert message =~ "RecursionError" or message =~ "MatchError"
        assert Python.call(python, :__main__, :down, [3, "t"]) == {:ok, ["t", 3]}
      end

      test "are right 50 deep from 100 processes at once, with timeouts among them",
           %{python: python} do
        descend(python)

        callers =
          for caller <- 1..100 do
            Task.async(fn ->
              token = "caller #{caller}"
              # Some have too little time, at one depth or another.
              timeout = if rem(caller, 3) == 0, do: caller, else: 60_000
              asked = [50, token]
              {token, timeout, Python.call(python, :__main__, :down, asked, timeout: timeout)}
            end)
          end

        for {token, timeout, outcome} <- Task.await_many(callers, 60_000) do
          allowed = if timeout < 60_000, do: [{:error, :timeout}], else: []
          assert outcome in [{:ok, [token, 50]} | allowed]
        end

        assert Python.call(python, :__main__, :down, [50, "after"]) == {:ok, ["after", 50]}
        assert {:ok, %{calls_waiting: 0}} = Python.info(python)
      end

      test "may run out of time on the way, each on its own", %{python: python} do
        name =
          register(fn n ->
            case Python.call(python, :__main__, :slow, [n - 1], timeout: 300) do
              {:ok, depth} -> depth
              {:error, :timeout} -> 1_000
            end
          end)

        :ok =
          Python.exec(python, """
          def slow(n):
              if n == 0:
                  while True: pass
              return erlang.call("#{name}", n) + 1
          """)

        assert {:ok, depth} = Python.call(python, :__main__, :slow, [5], timeout: 60_000)
        # Whichever was ended first: the innermost as a rule.
        assert depth in 1_001..1_005
        assert Python.eval(python, "1") == {:ok, 1}
      end

      test "go through other contexts", %{python: python, isolation: isolation} do
        other = start(isolation)
        [here, there] = [register_hop(other), register_hop(python)]
        for {context, hop} <- [{python, here}, {other, there}], do: :ok = hops(context, hop)

        assert Python.call(python, :__main__, :hop, [40], timeout: 60_000) == {:ok, 40}
      end

      test "may come from a Task of the process that answers", %{python: python} do
        name =
          register(fn ->
            tasks = for n <- 1..5, do: Task.async(fn -> Python.eval(python, "n", %{n: n}) end)
            for {:ok, n} <- Task.await_many(tasks), do: n
          end)

        assert Python.eval(python, "erlang.#{name}()") == {:ok, [1, 2, 3, 4, 5]}
      end

      test "may come from a server that is told on whose behalf", %{python: python} do
        {:ok, agent} = Agent.start_link(fn -> python end)

        asks = fn callers ->
          register(fn ->
            me = self()

            Agent.get(
              agent,
              fn python ->
                options = if callers, do: [callers: [me]], else: [timeout: 500]
                elem(Python.eval(python, "1", %{}, options), 1)
              end,
              20_000
            )
          end)
        end

        assert Python.eval(python, "erlang.#{asks.(true)}()") == {:ok, 1}
        # Else it waits for its turn, which does not come before its time is over.
        assert Python.eval(python, "erlang.call('#{asks.(false)}')") == {:ok, :timeout}
      end

      test "do not let others in between", %{python: python} do
        test = self()

        name =
          register(fn ->
            send(test, {:asked, self()})
            receive do: (:go_on -> :ok)
            elem(Python.eval(python, "order.append('within') or 1"), 1)
          end)

        :ok = Python.exec(python, "order = []", namespace: :shared)

        waits =
          Task.async(fn -> Python.exec(python, "erlang.#{name}(); order.append('after')") end)

        assert_receive {:asked, executor}
        # A task of the test's, which has not to do with it.
        turn = Task.async(fn -> Python.exec(python, "order.append('turn')") end)
        assert eventually(fn -> match?({:ok, %{calls_waiting: 2}}, Python.info(python)) end)
        send(executor, :go_on)
        assert Task.await(waits) == :ok
        assert Task.await(turn) == :ok
        assert Python.eval(python, "order") == {:ok, ["within", "after", "turn"]}
      end

      test "have a place although all are taken", %{python: python} do
        {waits, executor} = start_waiting(python)
        calls = for _ <- 1..1_023, do: Python.call_async(python, :builtins, :len, ["four"])
        assert Python.eval(python, "1") == {:error, :overloaded}
        send(executor, :go_on)
        assert Task.await(waits) == {:ok, 1}
        for {:ok, call} <- calls, do: assert(Python.await(call) == {:ok, 4})
        assert {:ok, %{calls_waiting: 0}} = Python.info(python)
      end

      test "come back although their context ends", %{python: python} do
        {waits, executor} = start_waiting(python)
        stops = Task.async(fn -> Python.stop_context(python) end)

        assert eventually(fn ->
                 Python.eval(python, "1", %{}, timeout: 0) == {:error, :closed}
               end)

        send(executor, :go_on)
        assert Task.await(waits) == {:ok, 1}
        assert Task.await(stops) == :ok
      end

      test "of an outer call wait for the inner one", %{python: python} do
        test = self()

        inner =
          register(fn ->
            send(test, {:inner, self()})
            receive do: (:go_on -> 1)
          end)

        outer =
          register(fn ->
            # Two calls descend from this one: the second cannot be within the first.
            first = Task.async(fn -> Python.eval(python, "order.append(erlang.#{inner}())") end)
            receive do: (:second -> :ok)
            second = Task.async(fn -> Python.eval(python, "order.append(2)") end)
            send(test, :both)
            Task.await_many([first, second]) && 0
          end)

        :ok = Python.exec(python, "order = []", namespace: :shared)
        task = Task.async(fn -> Python.eval(python, "erlang.#{outer}() or order") end)
        assert_receive {:inner, executor}
        send(outer_of(executor), :second)
        assert_receive :both
        assert eventually(fn -> match?({:ok, %{calls_waiting: 3}}, Python.info(python)) end)
        send(executor, :go_on)
        assert Task.await(task) == {:ok, [1, 2]}
      end
    end

    describe "#{isolation}: a protocol" do
      @describetag isolation: isolation

      test "asks a server of the application, which may call Python again", context do
        {:ok, agent} = Agent.start_link(fn -> %{"tea" => 3} end)
        price = register(fn name -> Agent.get(agent, & &1[name]) end)
        server = serve_asks(context)

        [process] =
          server |> Server.board() |> Server.whereis(:contexts) |> Python.Supervisor.contexts()

        shout = register(fn text -> elem(Python.call(process, :asks, :shout, [text]), 1) end)
        [one, two] = [dial(server), dial(server)]
        assert ask(one, "#{price} tea") == "3"
        assert ask(two, "#{shout} quiet") == "QUIET"
        assert ask(one, "nobody x") =~ "undefined: no function"
      end

      test "is interrupted when it waits for longer than its time", context do
        test = self()

        name =
          register(fn _ ->
            send(test, {:executor, self()})
            Process.sleep(:infinity)
          end)

        price = register(fn _ -> 5 end)
        # Time enough for the one that answers.
        server = serve_asks(context, callback_timeout: 1_000)
        client = dial(server)
        :ok = :gen_tcp.send(client, "#{name} x")
        assert read_all(client) == ""
        assert_receive {:executor, executor}
        assert eventually(fn -> not Process.alive?(executor) end)
        assert ask(dial(server), "#{price} x") == "5"
      end
    end

    describe "#{isolation}: a message" do
      @describetag isolation: isolation

      test "goes to a process by its name, or pid, at once", %{python: python} do
        name = :"named_#{System.unique_integer([:positive])}"
        Process.register(self(), name)
        send = "erlang.send(erlang.whereis(name), (name, [1.5]))"
        assert Python.eval(python, "erlang.send(name, {'a': 1})", %{name: name}) == {:ok, nil}
        assert_receive %{"a" => 1}
        assert Python.eval(python, send, %{name: name}) == {:ok, nil}
        assert_receive {^name, [1.5]}
        assert Python.eval(python, "erlang.whereis(name)", %{name: name}) == {:ok, self()}
        assert Python.eval(python, "erlang.send(pid, pid)", %{pid: self()}) == {:ok, nil}
        test = self()
        assert_receive ^test
        runtime = "erlang.whereis('Reactor.Runtime') is not None"
        assert Python.eval(python, runtime) == {:ok, true}
      end

      test "from another thread too", %{python: python} do
        name = :"named_#{System.unique_integer([:positive])}"
        Process.register(self(), name)

        :ok =
          Python.exec(python, """
          import threading
          thread = threading.Thread(target=erlang.send, args=("#{name}", "from a thread"))
          thread.start()
          thread.join()
          """)

        assert_receive "from a thread"
      end

      test "to nobody is an error that says so, to who is gone is none", %{python: python} do
        gone = :"gone_#{System.unique_integer([:positive])}"
        pid = spawn(fn -> receive do: (:end -> :ok) end)
        Process.register(pid, gone)
        assert Python.exec(python, "pid = erlang.whereis('#{gone}')") == :ok
        monitor = Process.monitor(pid)
        send(pid, :end)
        assert_receive {:DOWN, ^monitor, _, _, _}
        assert Python.eval(python, "erlang.send(pid, 1)") == {:ok, nil}

        for {code, type, text} <- [
              {"erlang.send('#{gone}', 1)", "LookupError", "no process is registered as"},
              {"erlang.send('not an atom yet', 1)", "LookupError", "no process is registered as"},
              {"erlang.send(5, 1)", "TypeError", "is sent to an erlang.Pid, or to a name"},
              {"erlang.send(erlang.Pid(b'x'), 1)", "ValueError", "those of none"},
              {"erlang.send(pid, object())", "TypeError", "no counterpart outside Python"},
              {"erlang.call('f', 1, [object()])", "TypeError",
               "argument 1[0]: an instance of object"},
              {"erlang.whereis(5)", "TypeError", "a name is a str"}
            ] do
          assert {:error, %Python.Error{type: ^type, message: message}} =
                   Python.eval(python, code)

          assert message =~ text
        end

        assert Python.eval(python, "erlang.whereis('#{gone}')") == {:ok, nil}
      end
    end
  end

  describe "register_function" do
    test "refuses what is none" do
      assert_raise ArgumentError, ~r/function must be a function/, fn ->
        apply(Python, :register_function, ["f", 1])
      end

      assert_raise ArgumentError, ~r/name must be an atom or text/, fn ->
        apply(Python, :register_function, [1, &is_nil/1])
      end
    end
  end
end
