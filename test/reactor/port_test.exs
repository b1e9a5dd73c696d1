defmodule Reactor.PortTest do
  use Reactor.PortCase, async: true

  @moduletag :tmp_dir

  doctest Reactor.Port

  describe "a call" do
    test "is answered by the handler of that name" do
      port = open()
      assert Port.call(port, :twice, [21]) == {:ok, 42}
      assert Port.call(port, :sum, [1, 2]) == {:ok, 3}
      assert Port.call(port, "hello", ["world"]) == {:ok, "Hello, world"}
    end

    test "has errors that say what is wrong" do
      port = open()
      assert Port.call(port, :thrice, [1]) == {:error, {:undefined, :thrice}}
      assert {:error, {:bad_arguments, text}} = Port.call(port, :twice, [])
      assert text =~ "handler_twice() missing 1 required positional argument"
      assert {:error, {:undecodable, text}} = Port.call(port, :echo, [%{[1] => 2}])
      assert text =~ "cannot be a key of a dict"
      assert {:error, {:unencodable, text}} = Port.call(port, :unencodable)
      assert text =~ ~s(value["rows"][1]: an instance of object)
      assert Port.call(port, {:a, :b}, []) == {:error, {:bad_function, {:a, :b}}}
      assert Port.call(port, :twice, [21]) == {:ok, 42}
    end

    test "reaches handlers and nothing else of the object" do
      port = open()

      for name <- [:secret, :run, :port, "__class__", "twice.__call__", "", "handler_twice"] do
        assert Port.call(port, name) == {:error, {:undefined, name}}
      end
    end

    test "that raises returns the exception, with the traceback of the handler alone" do
      port = open()
      assert {:error, %Reactor.Python.Error{} = error} = Port.call(port, :fail, ["x"])
      assert {error.type, error.message} == {"KeyError", "'x'"}
      assert error.traceback =~ "in handler_fail"
      refute error.traceback =~ "protocol.py"
      # A TypeError of the handler's own is none of its arguments.
      assert {:error, %Reactor.Python.Error{type: "TypeError"}} = Port.call(port, :type_error)
    end

    test "brings terms there and back" do
      port = open()

      for term <- [
            nil,
            true,
            :reactor,
            -1,
            2 ** 200,
            1.5,
            "text",
            <<255>>,
            <<5::3>>,
            [1, [2 | 3]],
            {1, {}},
            %{"a" => 1, b: [2]},
            MapSet.new([1, 2]),
            ~D[2026-01-02],
            ~U[2026-01-02 03:04:05.000006Z],
            self(),
            make_ref(),
            String.duplicate("long", 100_000)
          ] do
        assert Port.call(port, :echo, [term]) == {:ok, term}
      end
    end

    test "never makes an atom of what comes back", %{tmp_dir: directory} do
      script =
        write_script(directory, """
        from erlang.port import Protocol
        from erlang.terms import Atom

        class Script(Protocol):
            def handler_atom(self, *parts):
                return Atom("".join(parts))

        Script().run()
        """)

      port = open(script: script)
      assert Port.call(port, :atom, ["reac", "tor"]) == {:ok, :reactor}
      assert {:error, {:undecodable, text}} = Port.call(port, :atom, ["no_such", "_atom_yet"])
      assert text =~ "does not exist"
    end

    test "that is given up is not answered later, and neither is another in its place", context do
      port = open(args: ["2"])
      path = Path.join(context.tmp_dir, "go")
      assert Port.call(port, :wait_for, [path], timeout: 20) == {:error, :timeout}
      assert Port.call(port, :touch, [path]) == {:ok, nil}
      # Its answer comes now.
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 0 end)
      assert Port.call(port, :twice, [4]) == {:ok, 8}
      assert {:message_queue_len, 0} = Process.info(self(), :message_queue_len)
    end

    test "takes options that exist" do
      port = open()
      assert_raise ArgumentError, ~r/timeout/, fn -> Port.call(port, :twice, [1], tiemout: 1) end
    end

    test "of no port is an error" do
      assert Port.call(:no_such_port, :twice, [1]) == {:error, :noproc}
      assert Port.call(self(), :twice, [1]) == {:error, :noproc}
      assert Port.cast(:no_such_port, :twice, [1]) == {:error, :noproc}
      assert Port.info(:no_such_port) == {:error, :noproc}
      assert Port.stop(:no_such_port) == :ok
    end
  end

  describe "calls that overlap" do
    test "are many over one child, each with its own answer" do
      port = open()

      1..2_000
      |> Task.async_stream(&{&1, Port.call(port, :twice, [&1])}, max_concurrency: 200)
      |> Enum.each(fn {:ok, {n, answer}} -> assert answer == {:ok, 2 * n} end)
    end

    test "are answered as they are done, with workers", %{tmp_dir: directory} do
      port = open(args: ["2"])
      path = Path.join(directory, "go")
      first = Task.async(fn -> Port.call(port, :wait_for, [path]) end)
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 1 end)
      assert {:ok, "port-worker-" <> _} = Port.call(port, :thread)
      assert Port.call(port, :touch, [path]) == {:ok, nil}
      assert Task.await(first) == {:ok, path}
    end

    test "are answered as they are done, with handlers that are async", %{tmp_dir: directory} do
      script =
        write_script(directory, """
        import asyncio
        from erlang.port import Protocol

        class Script(Protocol):
            def __init__(self):
                super().__init__()
                self.gone = asyncio.Event()

            async def handler_wait(self, value):
                await self.gone.wait()
                return value, await self.call_async("upper", value)

            async def handler_fail(self):
                raise ValueError("no")

            def handler_go(self):
                self.gone.set()

        Script().run()
        """)

      port = open(script: script, functions: [upper: &String.upcase/1])
      tasks = for n <- 1..50, do: Task.async(fn -> Port.call(port, :wait, ["n#{n}"]) end)
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 50 end)
      assert {:error, %{type: "ValueError", message: "no"}} = Port.call(port, :fail)
      assert {:error, {:bad_arguments, _}} = Port.call(port, :wait, [1, 2])
      assert Port.call(port, :go) == {:ok, nil}

      assert Task.await_many(tasks) == for(n <- 1..50, do: {:ok, {"n#{n}", "N#{n}"}})
    end

    test "do not wait for a slow one behind them", %{tmp_dir: directory} do
      port = open()
      path = Path.join(directory, "go")
      # So many quick ones that their answers are written together.
      for n <- 1..100, do: assert(Port.call(port, :twice, [n]) == {:ok, 2 * n})
      # All of them are there before the first of them begins, the slow one last.
      gate = Path.join(directory, "gate")
      outstanding = fn -> hd(Port.info(port).children).outstanding end
      gated = Task.async(fn -> Port.call(port, :wait_for, [gate]) end)
      assert eventually(fn -> outstanding.() == 1 end)
      quick = for n <- 1..20, do: Task.async(fn -> Port.call(port, :twice, [n]) end)
      assert eventually(fn -> outstanding.() == 21 end)
      slow = Task.async(fn -> Port.call(port, :wait_for, [path], timeout: 20_000) end)
      assert eventually(fn -> outstanding.() == 22 end)
      File.touch!(gate)
      assert Task.await(gated) == {:ok, gate}
      assert Task.await_many(quick) == for(n <- 1..20, do: {:ok, 2 * n})
      File.touch!(path)
      assert Task.await(slow) == {:ok, path}
    end

    test "go to the child that has least to do", %{tmp_dir: directory} do
      port = open(size: 2)
      path = Path.join(directory, "go")
      [first, second] = os_pids(port)
      busy = Task.async(fn -> Port.call(port, :wait_for, [path]) end)
      assert eventually(fn -> Enum.any?(Port.info(port).children, &(&1.outstanding == 1)) end)
      [%{os_pid: idle}] = Enum.filter(Port.info(port).children, &(&1.outstanding == 0))
      assert idle in [first, second]
      for _ <- 1..10, do: assert(Port.call(port, :pid) == {:ok, idle})
      File.touch!(path)
      assert Task.await(busy) == {:ok, path}
    end
  end

  describe "bounds" do
    test "a call beyond max_waiting is refused", %{tmp_dir: directory} do
      port = open(max_waiting: 3)
      path = Path.join(directory, "go")
      tasks = for _ <- 1..3, do: Task.async(fn -> Port.call(port, :wait_for, [path]) end)
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 3 end)
      assert Port.call(port, :twice, [1]) == {:error, :overloaded}
      assert Port.cast(port, :twice, [1]) == {:error, :overloaded}
      File.touch!(path)
      assert Task.await_many(tasks) == List.duplicate({:ok, path}, 3)
      assert Port.call(port, :twice, [1]) == {:ok, 2}
    end

    test "a child that does not read holds up nobody but its callers" do
      port = open(command: "sleep", args: ["1000"], protocol: :plain, max_waiting: 20)
      data = String.duplicate("x", 100_000)

      results = for _ <- 1..30, do: Port.cast(port, :any, [data])
      assert Enum.count(results, &(&1 == :ok)) == 20
      assert Enum.count(results, &(&1 == {:error, :overloaded})) == 10
      assert %{children: [%{status: :up}]} = Port.info(port)
      [os_pid] = os_pids(port)
      assert Port.stop(port) == :ok
      assert gone?(os_pid)
    end

    test "what does not fit into a frame is its caller's error" do
      port = open(packet: 2)
      long = String.duplicate("x", 70_000)

      assert {:error, {:too_large, %{size: size, max: 65_535}}} = Port.call(port, :echo, [long])
      assert size > 70_000
      assert {:error, {:too_large, %{size: 70_015}}} = Port.call(port, :bytes, [70_000])
      assert {:ok, _} = Port.call(port, :bytes, [65_520])
      assert Port.call(port, :twice, [1]) == {:ok, 2}
    end

    test "a frame may be as long as max_frame" do
      port = open(max_frame: 10_000_000)
      assert Port.call(port, :length, [String.duplicate("x", 9_999_000)]) == {:ok, 9_999_000}
      assert {:ok, bytes} = Port.call(port, :bytes, [9_999_000])
      assert byte_size(bytes) == 9_999_000
      assert {:error, {:too_large, _}} = Port.call(port, :bytes, [10_000_000])
    end
  end

  describe "a cast" do
    test "is run, and waits for nothing", %{tmp_dir: directory} do
      port = open()
      path = Path.join(directory, "touched")
      assert Port.cast(port, :touch, [path]) == :ok
      assert eventually(fn -> File.exists?(path) end)
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 0 end)
      assert Port.cast(port, :fail, ["no"]) == :ok
      assert Port.cast(port, :no_such_handler) == :ok
      assert Port.call(port, :twice, [1]) == {:ok, 2}
    end
  end

  describe "names and ends" do
    test "a port has a name, as a child of a supervisor" do
      name = :"port_#{System.unique_integer([:positive])}"
      children = [{Port, name: name, script: script()}]
      {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
      assert [{^name, _, :supervisor, [Reactor.Port]}] = Supervisor.which_children(supervisor)
      assert Port.call(name, :twice, [1]) == {:ok, 2}

      assert %{protocol: :envelope, packet: 4, size: 1, max_waiting: 1_024, children: [child]} =
               Port.info(name)

      assert %{index: 1, status: :up, outstanding: 0, restarts: 0, os_pid: os_pid} = child
      Supervisor.stop(supervisor)
      assert gone?(os_pid)
      assert Port.call(name, :twice, [1]) == {:error, :noproc}
    end

    test "what is given to a child is in no report" do
      options = [script: script(), env: [{"SECRET", "hunter2"}]]
      refute inspect(Port.child_spec(options)) =~ "hunter2"
      {:ok, options} = Reactor.Port.Options.new(options)
      refute inspect(options) =~ "hunter2"
    end

    test "stop lets the script end: atexit runs", %{tmp_dir: directory} do
      {:ok, port} = Port.start(script: script())
      path = Path.join(directory, "ended")
      assert Port.call(port, :at_exit, [path]) == {:ok, nil}
      [os_pid] = os_pids(port)
      assert Port.stop(port) == :ok
      assert File.exists?(path)
      assert gone?(os_pid)
    end

    test "stop ends one that does not end by itself" do
      {:ok, port} = Port.start(script: script(), shutdown: 50)
      assert Port.call(port, :stubborn) == {:ok, nil}
      [os_pid] = os_pids(port)
      {time, :ok} = :timer.tc(fn -> Port.stop(port) end)
      assert gone?(os_pid)
      # The second between SIGTERM and SIGKILL, and not for ever.
      assert time in 1_000_000..10_000_000
    end

    test "stop ends children side by side" do
      {:ok, port} = Port.start(script: script(), shutdown: 1_000, size: 4)

      # Each keeps the child that has least to do, and ends after a second.
      for _ <- 1..4, do: Port.call(port, :hang, [], timeout: 100)
      {time, :ok} = :timer.tc(fn -> Port.stop(port) end)
      assert time in 1_000_000..3_500_000
    end

    test "calls that wait when it is stopped hear so", %{tmp_dir: directory} do
      {:ok, port} = Port.start(script: script(), shutdown: 50)
      never = Path.join(directory, "never")
      tasks = for _ <- 1..3, do: Task.async(fn -> Port.call(port, :wait_for, [never]) end)
      assert eventually(fn -> hd(Port.info(port).children).outstanding == 3 end)
      assert Port.stop(port) == :ok
      assert Task.await_many(tasks) == List.duplicate({:error, :closed}, 3)
    end
  end
end
