defmodule Reactor.PythonTest do
  use ExUnit.Case, async: true

  import Reactor.LogRelay
  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{ConfigError, Diary, Python, Server}

  doctest Reactor.Python
  doctest Reactor.Python.Object

  defp start(options \\ []) do
    {:ok, context} = Python.start_context(options)
    # It may have been started anew by then.
    {:ok, keeper} = Python.Context.keeper(context)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    context
  end

  defp unique(name), do: :"#{name}_#{System.unique_integer([:positive])}"

  # Makes the context wait until `open/2`. Contexts that share an interpreter share its modules.
  defp block(context) do
    other = start()
    gate = "gate_#{System.unique_integer([:positive])}"

    :ok =
      Python.exec(other, """
      import sys, threading, types
      gate = sys.modules[#{inspect(gate)}] = types.ModuleType(#{inspect(gate)})
      gate.reached, gate.open = threading.Event(), threading.Event()
      """)

    blocked =
      Task.async(fn -> Python.call(context, gate, "open.wait", [], timeout: :infinity) end)

    assert eventually(fn -> match?({:ok, %{calls_waiting: 1}}, Python.info(context)) end)
    {other, blocked}
  end

  defp open({other, blocked}) do
    :ok = Python.exec(other, "gate.open.set()")
    assert Task.await(blocked) == {:ok, true}
  end

  describe "exec" do
    test "keeps names for later code, in this context alone" do
      [one, two] = [start(), start()]
      assert Python.exec(one, "x = 1\ndef f():\n    return x + 1\n") == :ok
      assert Python.eval(one, "f()") == {:ok, 2}
      assert {:error, %Python.Error{type: "NameError"}} = Python.eval(two, "x")
    end

    test "removes an indentation that all lines have" do
      context = start()

      assert Python.exec(context, """

                 if True:
                     x = 1
             """) == :ok

      assert Python.eval(context, "  x") == {:ok, 1}
    end

    test "says what was raised, and where" do
      context = start()

      assert {:error, %Python.Error{type: "ValueError", message: "no good"} = error} =
               Python.exec(context, "x = 1\nraise ValueError('no good')")

      assert error.traceback =~ ~s(File "<exec>", line 2)
      assert {:error, %Python.Error{type: "SyntaxError"}} = Python.exec(context, "x = = 1")

      assert {:error, %Python.Error{type: "SystemExit"}} =
               Python.exec(context, "import sys; sys.exit(3)")

      assert {:error, %Python.Error{}} = Python.exec(context, "x = 1\0")
      assert Python.eval(context, "x") == {:ok, 1}
    end

    test "runs on one thread, that of the context" do
      context = start()
      assert Python.exec(context, "import threading; first = threading.get_ident()") == :ok
      assert Python.eval(context, "first == threading.get_ident()") == {:ok, true}

      assert Python.eval(context, "threading.current_thread() is threading.main_thread()") ==
               {:ok, false}
    end

    test "has a module, which dataclasses and pickle find, and which ends with the context" do
      {:ok, context} = Python.start_context()

      assert Python.exec(context, """
             import dataclasses, pickle
             @dataclasses.dataclass
             class Point:
                 x: "int"
             again = pickle.loads(pickle.dumps(Point(3)))
             import erlang.reactor as reactor
             reactor.set_protocol_factory(reactor.Protocol)
             """) == :ok

      assert Python.eval(context, "again.x") == {:ok, 3}
      {:ok, name} = Python.eval(context, "__name__")
      other = start()
      known = "n in sys.modules or n in sys.modules['erlang.reactor.factory']._by_module"
      assert Python.exec(other, "import sys") == :ok
      assert Python.eval(other, known, %{n: name}) == {:ok, true}
      assert Python.stop_context(context) == :ok
      assert Python.eval(other, known, %{n: name}) == {:ok, false}
    end
  end

  describe "eval" do
    test "knows variables that the context does not keep, within functions too" do
      context = start()
      assert Python.exec(context, "x = 1") == :ok
      assert Python.eval(context, "[x + n for _ in range(n)]", %{n: 2}) == {:ok, [3, 3]}
      assert Python.eval(context, "x + n", %{"x" => 5, "n" => 1}) == {:ok, 6}
      assert Python.eval(context, "x") == {:ok, 1}
      assert {:error, %Python.Error{type: "NameError"}} = Python.eval(context, "n")

      assert {:error, %Python.Error{type: "TypeError", message: message}} =
               Python.eval(context, "x", %{1 => 2})

      assert message =~ "names of variables are text, not 1"
    end

    test "takes an expression, not statements" do
      assert {:error, %Python.Error{type: "SyntaxError"}} = Python.eval(start(), "x = 1")
    end
  end

  describe "call" do
    test "imports a module, follows dots, takes arguments by name" do
      context = start()
      assert Python.call(context, :json, :dumps, [%{a: [1, nil]}]) == {:ok, ~s({"a": [1, null]})}
      assert Python.call(context, "os.path", "join", ["a", "b"]) == {:ok, "a/b"}
      assert Python.call(context, :datetime, "date.fromordinal.__name__", []) |> elem(0) == :error
      assert Python.call(context, :builtins, :int, ["ff"], kwargs: %{base: 16}) == {:ok, 255}

      assert {:error, %Python.Error{type: "ModuleNotFoundError", message: message}} =
               Python.call(context, :no_such_module, :f)

      assert message =~ "no module named 'no_such_module' in "

      assert {:error, %Python.Error{type: "AttributeError"}} =
               Python.call(context, :math, :nothing)
    end

    test "runs a coroutine to its end" do
      context = start()

      assert Python.exec(context, """
             import asyncio
             async def later(x):
                 await asyncio.sleep(0)
                 return x * 2
             """) == :ok

      assert Python.call(context, :__main__, :later, [4]) == {:ok, 8}
    end

    test "gives an address as text where text is asked for" do
      context = start()

      assert Python.exec(context, """
             def typed(addr: str, port: int): return addr
             def textual(addr: "str"): return addr
             def other(addr, *rest): return addr
             """) == :ok

      assert Python.call(context, :__main__, :typed, [{127, 0, 0, 1}, 80]) == {:ok, "127.0.0.1"}
      ipv6 = {0x2001, 0xDB8, 0, 0, 0, 0, 0, 1}
      assert Python.call(context, :__main__, :textual, [ipv6]) == {:ok, "2001:db8::1"}
      assert Python.call(context, :__main__, :other, [{1, 2, 3, 4}, 5]) == {:ok, {1, 2, 3, 4}}
      assert Python.call(context, :__main__, :textual, [{1, 2, 3, 256}]) == {:ok, {1, 2, 3, 256}}
      assert Python.call(context, :__main__, :textual, [{1, 2}]) == {:ok, {1, 2}}

      # Since 3.14 annotations are evaluated when they are asked for.
      assert Python.exec(context, """
             import sys
             if sys.version_info >= (3, 14):
                 def partly(addr: str, more: Missing = None): return addr
             else:
                 def partly(addr: str, more=None): return addr
             class Unsigned:
                 @property
                 def __signature__(self): raise RuntimeError("it has none")
                 def __call__(self, addr): return addr
             unsigned = Unsigned()
             """) == :ok

      assert Python.call(context, :__main__, :partly, [{127, 0, 0, 1}]) == {:ok, "127.0.0.1"}
      assert Python.call(context, :__main__, :unsigned, [{1, 2, 3, 4}]) == {:ok, {1, 2, 3, 4}}
    end

    @tag :tmp_dir
    test "finds modules in the context's paths, and refuses another of the same name", %{
      tmp_dir: tmp
    } do
      name = "called_#{System.unique_integer([:positive])}"

      [one, two] =
        for n <- 1..2 do
          dir = Path.join(tmp, "#{n}")
          File.mkdir_p!(dir)
          File.write!(Path.join(dir, name <> ".py"), "def number(): return #{n}")
          start(paths: [dir])
        end

      assert Python.call(one, name, :number) == {:ok, 1}

      assert {:error, %Python.Error{type: "ImportError", message: message}} =
               Python.call(two, name, :number)

      assert message =~ "already loaded from"
      assert Python.call(one, name, :number) == {:ok, 1}
    end
  end

  describe "a context that is busy" do
    test "lets a caller give up; what had not begun is not run, and a late answer is dropped" do
      context = start()
      gate = block(context)
      assert Python.exec(context, "ran = True", timeout: 20) == {:error, :timeout}
      waiting = Task.async(fn -> Python.eval(context, "1", %{}, timeout: :infinity) end)
      assert eventually(fn -> match?({:ok, %{calls_waiting: 2}}, Python.info(context)) end)
      open(gate)
      assert Task.await(waiting) == {:ok, 1}
      assert Python.eval(context, "'ran' in globals()") == {:ok, false}
      assert {:ok, %{calls_waiting: 0}} = Python.info(context)
      refute_received _
    end

    test "has 1,024 calls wait, and no more" do
      context = start()
      gate = block(context)

      waiting =
        for n <- 1..1_023 do
          Task.async(fn -> Python.eval(context, "n", %{n: n}, timeout: :infinity) end)
        end

      assert eventually(fn -> match?({:ok, %{calls_waiting: 1_024}}, Python.info(context)) end)
      assert Python.exec(context, "x = 1") == {:error, :overloaded}
      open(gate)
      assert Task.await_many(waiting) == for(n <- 1..1_023, do: {:ok, n})
      assert Python.exec(context, "x = 1") == :ok
    end

    test "tells its callers when it ends" do
      context = start(drain_timeout: 0)
      {other, blocked} = block(context)
      waiting = Task.async(fn -> Python.eval(context, "1", %{}, timeout: :infinity) end)
      assert eventually(fn -> match?({:ok, %{calls_waiting: 2}}, Python.info(context)) end)
      Process.exit(context, :kill)
      assert Task.await(waiting) == {:error, :closed}
      assert Task.await(blocked) == {:error, :closed}
      :ok = Python.exec(other, "gate.open.set()")
      assert Python.eval(context, "1") == {:error, :noproc}
    end
  end

  describe "start_context" do
    test "runs setup code in order, then imports the factory's module" do
      context =
        start(
          setup: ["order = ['first']", "order.append('second')"],
          python: "diary:Keeps",
          paths: [Diary.python()]
        )

      assert Python.eval(context, "order") == {:ok, ["first", "second"]}
      assert Python.exec(context, "from erlang.reactor.factory import current_factory") == :ok
      assert Python.eval(context, "current_factory().__name__") == {:ok, "Keeps"}
    end

    test "gives each its own factory" do
      contexts =
        for name <- ["One", "Two"] do
          start(
            setup: """
            import socket
            import erlang.reactor as reactor
            class #{name}(reactor.Protocol):
                pass
            reactor.set_protocol_factory(#{name})
            """
          )
        end

      for {context, name} <- Enum.zip(contexts, ["One", "Two"]) do
        assert Python.exec(context, """
               pair = socket.socketpair()
               protocol = reactor.init_connection(pair[0].fileno(), {})
               """) == :ok

        assert Python.eval(context, "type(protocol).__name__") == {:ok, name}
        assert Python.exec(context, "reactor.close_connection(protocol.fd)") == :ok
      end
    end

    test "says what is wrong, and leaves nothing behind" do
      attach()

      for {options, type} <- [
            {[setup: "1/0"], "ZeroDivisionError"},
            {[python: "no_such_module:Factory"], "ModuleNotFoundError"},
            {[python: "json"], "LookupError"},
            {[requirements: ["Not a requirement!"]], unread()}
          ] do
        assert {:error, %Python.Error{type: ^type}} = Python.start_context(options)
        assert_logged(type)
      end

      name = unique(:taken)
      context = start(name: name)
      assert Python.start_context(name: name) == {:error, {:already_started, context}}
      assert eventually(fn -> keepers_of_nothing() == [] end)
    end

    test "says where setup code is no Python, but not what it is there" do
      attach()
      setup = ["x = 1", "y = 2\npassword = 'secret' of mine"]

      assert {:error, %Python.Error{type: "SyntaxError"} = error} =
               Python.start_context(setup: setup)

      assert error.message =~ "<setup>, line 2"
      assert {:error, text, _} = assert_logged("<setup>")
      refute inspect(error) <> text =~ "secret"
      setup = "if True:\npassword = 'secret'"

      assert {:error, %Python.Error{type: "IndentationError"} = error} =
               Python.start_context(setup: setup)

      refute inspect(error) =~ "secret"
    end

    test "logs a failure once" do
      marker = "marker #{System.unique_integer([:positive])}"
      code = "raise ValueError('mark' + '#{String.trim_leading(marker, "mark")}')"

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          assert {:error, %Python.Error{message: ^marker}} = Python.start_context(setup: code)
        end)

      # As the message, and at the end of its traceback.
      assert [_, _, _] = String.split(log, "ValueError: " <> marker)
    end

    # Without packaging, or pip's own, nobody can read it.
    defp unread do
      context = start(setup: "import importlib.util")
      find = "importlib.util.find_spec"
      {:ok, able} = Python.eval(context, "any([#{find}('packaging'), #{find}('pip')])")
      if able, do: "ValueError", else: "ImportError"
    end

    defp keepers_of_nothing do
      for {_, keeper, _, _} <- DynamicSupervisor.which_children(Python.Contexts),
          has_nothing?(keeper),
          do: keeper
    end

    # One of another test's may end meanwhile.
    defp has_nothing?(keeper) do
      Supervisor.count_children(Python.Keeper.supervisor(keeper)).active == 0
    catch
      :exit, _reason -> false
    end

    test "refuses options that are none" do
      for {options, text} <- [
            {[isolation: :thread],
             ":isolation must be :shared, :subinterpreter or :process, got: :thread"},
            {[rlimit: [cpu: 0]], ":rlimit must be a keyword list of :as"},
            {[rlimit: [as: 1]], ":rlimit must be left out with isolation :shared"},
            {[setupp: ""], "unknown option :setupp, did you mean :setup?"},
            {[setup: :code], ~s(:setup must be Python code, as UTF-8 text)},
            {[setup: "secret\0"], ~s|:"(hidden)"|},
            {[venv: "/nowhere"], "pyvenv.cfg (python3 -m venv makes one), got: \"/nowhere\""},
            {[paths: "/srv"], ":paths must be a list of directories"},
            {[requirements: [:numpy]], ":requirements must be a list of texts"},
            {[callback_timeout: 0], ":callback_timeout must be an integer from 1 to"},
            {[stuck_timeout: nil], ":stuck_timeout must be an integer from 1 to"},
            {[max_connections: 0], ":max_connections must be an integer from 1 to"},
            {[name: "name"], ":name must be an atom"},
            {[python: "a b"], ~s(:python must be "module:factory")},
            {[idle_timeout: 0], ":idle_timeout must be "},
            {[low_watermark: 70_000],
             ":low_watermark must be no more than :high_watermark (65536)"},
            {[nodelay: true], "unknown option :nodelay"},
            {[drain_timeout: :infinity], ":drain_timeout must be a number of milliseconds"},
            {[:name], ":options must be a keyword list"},
            {%{name: :a}, ":options must be a keyword list"}
          ] do
        assert {:error, %ConfigError{} = error} = Python.start_context(options)
        assert Exception.message(error) =~ text
        refute Exception.message(error) =~ "secret"
      end
    end
  end

  describe "a context that dies" do
    test "is started again by its supervisor, with its setup code" do
      name = unique(:restarted)
      context = start(name: name, setup: "kept = 1")
      neighbour = start()
      assert Python.exec(name, "lost = 1") == :ok
      monitor = Process.monitor(context)
      Process.exit(context, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      assert eventually(fn -> Process.whereis(name) not in [nil, context] end)
      # It has its name before it can be asked.
      assert eventually(fn -> Python.eval(name, "kept") == {:ok, 1} end)
      assert {:error, %Python.Error{type: "NameError"}} = Python.eval(name, "lost")
      assert Python.eval(neighbour, "1") == {:ok, 1}
      assert Python.eval(context, "1") == {:error, :noproc}
    end

    test "and cannot start any more, takes no other along" do
      file = Path.join(System.tmp_dir!(), "#{unique(:setup)}.txt")
      File.write!(file, "")
      attach()
      name = unique(:given_up)
      context = start(name: name, setup: "open(#{inspect(file)})")
      neighbour = start()
      File.rm!(file)
      monitor = Process.monitor(context)
      Process.exit(context, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      assert_logged("FileNotFoundError")
      assert {:error, _, _} = assert_logged("context #{inspect(name)} is given up")
      assert Python.info(name) == {:error, :noproc}
      assert Python.eval(neighbour, "1") == {:ok, 1}
      assert {:ok, _} = Python.info(start())
    end
  end

  describe "a context that dies, and its code that never ends," do
    # What its process left behind has a second.
    test "while an exception says what it is" do
      {context, mark} = marking()

      code = """
      class Endless(Exception):
          def __str__(self):
              spin()

      def fail():
          raise Endless
      """

      assert Python.exec(context, code, namespace: :shared) == :ok
      asked = Task.async(fn -> Python.call(context, :__main__, :fail, [], namespace: :shared) end)
      assert eventually(fn -> File.read(mark) == {:ok, "begun"} end)
      Process.exit(context, :kill)
      assert {:error, _} = Task.await(asked)
      assert eventually(fn -> File.read(mark) == {:ok, "interrupted"} end)
    end

    test "while what it has is given back" do
      {context, mark} = marking()

      :ok =
        Python.exec(context, """
        import erlang.reactor

        class Endless:
            def __call__(self):
                pass

            def __del__(self):
                spin()

        erlang.reactor.set_protocol_factory(Endless())
        """)

      Process.exit(context, :kill)
      assert eventually(fn -> File.read(mark) == {:ok, "interrupted"} end)
    end

    # One that has a `spin`, which notes in a file how it goes.
    defp marking do
      context = start()
      mark = Path.join(System.tmp_dir!(), "#{unique(:mark)}.txt")
      on_exit(fn -> File.rm(mark) end)

      code = """
      def spin(mark=#{inspect(mark)}, open=open):
          with open(mark, "w") as file:
              file.write("begun")
          try:
              while True:
                  pass
          finally:
              with open(mark, "w") as file:
                  file.write("interrupted")
      """

      assert Python.exec(context, code, namespace: :shared) == :ok
      {context, mark}
    end
  end

  describe "stop_context" do
    test "ends it for good" do
      name = unique(:stopped)
      {:ok, context} = Python.start_context(name: name)
      monitor = Process.monitor(context)
      assert Python.stop_context(name) == :ok
      assert_receive {:DOWN, ^monitor, _, _, :shutdown}
      assert Python.stop_context(context) == {:error, :noproc}
      assert Python.exec(context, "x = 1") == {:error, :noproc}
      assert Python.info(context) == {:error, :noproc}
      assert Process.whereis(name) == nil
    end

    test "ends one that is linked to its caller, who is left alone" do
      {:ok, context} = Python.start_link()
      monitor = Process.monitor(context)
      assert Python.stop_context(context) == :ok
      assert_receive {:DOWN, ^monitor, _, _, :normal}
    end
  end

  describe "a context that ends" do
    test "says so at once to whoever asks meanwhile" do
      # An import that is interrupted leaves a package broken for the whole interpreter: setup is not.
      {:ok, context} = Python.start_context(drain_timeout: 60_000, setup: "import asyncio")
      {:ok, call} = Python.call_async(context, :asyncio, :sleep, [60])
      stop = Task.async(fn -> Python.stop_context(context) end)
      assert eventually(fn -> match?({:ok, %{state: :stopping}}, Python.info(context)) end)
      # A process that has no names there yet.
      asks = Task.async(fn -> Python.eval(context, "1", %{}, timeout: 20_000) end)
      assert Task.await(asks, 20_000) == {:error, :closed}
      assert Python.cancel(call) == :ok
      assert Task.await(stop) == :ok
    end
  end

  describe "stop_context of one that starts" do
    # Setup code that waits, from `close` until the test ends.
    defp gate do
      name = "gate_#{System.unique_integer([:positive])}"
      {:ok, other} = Python.start_context()

      :ok =
        Python.exec(other, """
        import sys, threading, types
        gate = sys.modules[#{inspect(name)}] = types.ModuleType(#{inspect(name)})
        gate.open = threading.Event()
        gate.open.set()
        """)

      on_exit(fn ->
        {:ok, nil} = Python.call(other, name, "open.set")
        :ok = Python.stop_context(other)
      end)

      {other, "import #{name}; #{name}.open.wait()"}
    end

    defp close(other), do: :ok = Python.exec(other, "gate.open.clear()")

    test "anew does not wait for Python" do
      {other, setup} = gate()
      name = unique(:hangs)
      {:ok, context} = Python.start_context(name: name, setup: setup, drain_timeout: 0)
      {:ok, keeper} = Python.Context.keeper(context)
      monitor = Process.monitor(keeper)
      close(other)
      Process.exit(context, :kill)
      stopping = Task.async(fn -> eventually(fn -> Python.stop_context(name) == :ok end) end)
      assert Task.await(stopping, 10_000)
      assert_receive {:DOWN, ^monitor, _, _, :shutdown}
      assert eventually(fn -> Process.whereis(name) == nil end)
    end

    test "anew is what the application's end comes to" do
      {other, setup} = gate()
      {:ok, context} = Python.start_context(setup: setup, drain_timeout: 0)
      {:ok, keeper} = Python.Context.keeper(context)
      supervisor = Python.Keeper.supervisor(keeper)
      close(other)
      Process.exit(context, :kill)
      # It is in the start of the next one.
      assert eventually(fn -> hangs?(supervisor, context) end)
      ending = fn -> DynamicSupervisor.terminate_child(Python.Contexts, keeper) end
      assert ending |> Task.async() |> Task.await(10_000) == :ok
      refute Process.alive?(supervisor)
      assert {:ok, _} = Python.info(start())
    end

    defp hangs?(supervisor, context) do
      {:links, links} = Process.info(supervisor, :links)
      {:current_function, {module, _, _}} = Process.info(supervisor, :current_function)
      length(links) == 2 and context not in links and module == :proc_lib
    end

    test "for its caller has it not start" do
      {other, setup} = gate()
      close(other)
      name = unique(:hangs)

      starting =
        Task.async(fn ->
          Process.flag(:trap_exit, true)
          Python.start_link(name: name, setup: setup)
        end)

      stopping = Task.async(fn -> eventually(fn -> Python.stop_context(name) == :ok end) end)
      assert Task.await(stopping, 10_000)
      assert Task.await(starting) == {:error, :closed}
    end
  end

  describe "a context that takes long to end" do
    test "holds up no start and no end of others" do
      {:ok, context} = Python.start_context(drain_timeout: 30_000)
      {:ok, keeper} = Python.Context.keeper(context)
      gate = block(context)
      stopping = Task.async(fn -> Python.stop_context(context) end)
      ending = {:current_function, {Python.Keeper, :terminate, 2}}
      assert eventually(fn -> Process.info(keeper, :current_function) == ending end)

      others =
        Task.async(fn ->
          {:ok, another} = Python.start_context()
          Python.stop_context(another)
        end)

      assert Task.await(others) == :ok
      assert Task.yield(stopping, 0) == nil
      open(gate)
      assert Task.await(stopping) == :ok
    end
  end

  describe "a child of a supervisor" do
    test "has a name for its id, and keeps setup code out of reports" do
      name = unique(:child)
      spec = Python.child_spec(name: name, setup: "password = 'secret'")
      assert spec.id == name
      refute inspect(spec) =~ "secret"
      context = start_supervised!({Python, name: name, setup: "password = 'secret'"})
      assert Python.eval(name, "password") == {:ok, "secret"}
      refute inspect(:sys.get_state(context)) =~ "secret"
      Process.exit(context, :kill)
      assert eventually(fn -> Process.whereis(name) not in [nil, context] end)
      # It has its name before it can be asked.
      assert eventually(fn -> Python.eval(name, "password") == {:ok, "secret"} end)
      assert stop_supervised(name) == :ok
      assert Python.info(name) == {:error, :noproc}
    end
  end

  describe "a context of a server" do
    defmodule Echo do
      use Reactor, python: "diary:Keeps"
    end

    test "runs code too, on its thread, after its setup code; it is not stopped alone" do
      server =
        start_supervised!(
          {Reactor,
           {Echo, ip: :loopback, paths: [Diary.python()], contexts: 2, setup: "mine = [1]"}}
        )

      [one, two] = Server.contexts(Server.board(server))
      assert Python.exec(one, "mine.append(2)") == :ok
      assert Python.eval(one, "mine") == {:ok, [1, 2]}
      assert Python.eval(two, "mine") == {:ok, [1]}
      assert Python.stop_context(one) == {:error, :of_a_server}

      assert {:ok, %{python: "diary:Keeps", state: :running, isolation: :shared}} =
               Python.info(one)

      # What a free-standing context does with the same interpreter is nothing to it.
      context = start(python: "manners:Greets", paths: [Diary.python()])

      {:ok, client} =
        :gen_tcp.connect({127, 0, 0, 1}, Reactor.info(server).port, [:binary, active: false])

      :ok = :gen_tcp.send(client, "x")
      assert {:ok, "x"} = :gen_tcp.recv(client, 1, 5_000)
      Process.exit(context, :kill)
      :ok = :gen_tcp.send(client, "y")
      assert {:ok, "y"} = :gen_tcp.recv(client, 1, 5_000)
    end

    test "is not its server, which is asked nothing" do
      server = start_supervised!({Reactor, {Echo, ip: :loopback, paths: [Diary.python()]}})
      assert Python.info(server) == {:error, :noproc}
      assert Python.exec(server, "x = 1") == {:error, :noproc}
      assert Python.stop_context(server) == {:error, :noproc}
      assert Python.info(self()) == {:error, :noproc}
      assert Process.alive?(server)
    end

    test "does not start if its setup code fails" do
      attach()

      assert {:error, %Python.Error{type: "ZeroDivisionError"}} =
               Reactor.start(Echo, ip: :loopback, paths: [Diary.python()], setup: "1/0")
    end

    test "answers connections while it is given code all the time" do
      server = start_supervised!({Reactor, {Echo, ip: :loopback, paths: [Diary.python()]}})
      [context] = Server.contexts(Server.board(server))
      test = self()

      busy =
        Task.async(fn ->
          Stream.repeatedly(fn ->
            1..100
            |> Enum.map(fn _ ->
              Task.async(fn -> Python.eval(context, "sum(range(1000))") end)
            end)
            |> Task.await_many()

            send(test, :round)
          end)
          |> Enum.find(fn _ ->
            Process.info(self(), :message_queue_len) == {:message_queue_len, 1}
          end)
        end)

      assert_receive :round

      {:ok, client} =
        :gen_tcp.connect({127, 0, 0, 1}, Reactor.info(server).port, [:binary, active: false])

      for n <- 1..50 do
        :ok = :gen_tcp.send(client, "#{n}")
        assert {:ok, _} = :gen_tcp.recv(client, byte_size("#{n}"), 5_000)
      end

      send(busy.pid, :stop)
      assert Task.await(busy) == :round
    end
  end

  describe "wrong arguments" do
    test "are named" do
      context = start()

      for {call, text} <- [
            {fn -> Python.exec(context, <<255>>) end, "code must be UTF-8 text"},
            {fn -> Python.exec(context, "x", timeout: -1) end, "timeout must be a number"},
            {fn -> Python.exec(context, "x", time_out: 1) end, "did you mean :timeout?"},
            {fn -> Python.eval(context, "x", %{}, kwargs: %{}) end, "unknown option :kwargs"},
            {fn -> Python.call(context, "m", "f", [], kwargs: [1]) end, "kwargs must be a map"},
            {fn -> apply(Python, :call, [context, nil, "f"]) end,
             "module must be an atom or text"},
            {fn -> apply(Python, :call, [context, "m", 1]) end,
             "function must be an atom or text"},
            {fn -> Python.call(context, "m", "f", [], [1]) end, "options must be a keyword list"}
          ] do
        assert Exception.message(assert_raise(ArgumentError, call)) =~ text
      end

      assert Python.exec(:no_such_context, "x") == {:error, :noproc}
    end
  end
end
