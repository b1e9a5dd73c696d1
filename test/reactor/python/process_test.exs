defmodule Reactor.Python.ProcessTest do
  # Not async: processes are killed under load, and others' tests have limits of time.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.{ConfigError, EventRelay, Listener, LogRelay, Native, Python, Server}

  @support Path.expand("../../support", __DIR__)
  @python Path.join(@support, "python")

  # New connections are to be served within that, whatever becomes of a process.
  @soon 2_000

  # Deaths are logged.
  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "apart:Apart"
  end

  defmodule Routes do
    use Reactor
    def route(_connection), do: {:python, "apart:Apart"}
  end

  defp start(options \\ []) do
    name = :"process_test_#{System.unique_integer([:positive])}"
    options = [name: name, isolation: :process, paths: [@python]] ++ options
    {:ok, context} = Python.start_context(options)
    {:ok, keeper} = Python.Context.keeper(context)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    name
  end

  defp serve_apart(context, options \\ []) do
    serve(context, Py, [isolation: :process, paths: [@python]] ++ options)
  end

  defp os_pid(context) do
    {:ok, %{os_pid: pid}} = Python.info(context)
    pid
  end

  defp signal(name, pid), do: {_, 0} = System.cmd("kill", ["-#{name}", "#{pid}"])

  # A zombie would still be there.
  defp gone?(pid), do: not File.exists?("/proc/#{pid}")

  # Of whose process has died, sending fails already, or not yet.
  defp ask(client, text) do
    with :ok <- put(client, text), do: take(client, 0)
  end

  defp home(client) do
    {:ok, pid} = ask(client, "pid")
    String.to_integer(pid)
  end

  # A client of each of the server's two processes.
  defp one_of_each(server, homes \\ %{}) do
    assert Reactor.info(server).accepted < 500, "all go to one process"
    client = dial(server)
    homes = Map.put(homes, home(client), client)

    if map_size(homes) == 2,
      do: List.to_tuple(Map.to_list(homes)),
      else: one_of_each(server, homes)
  end

  # How long it takes until somebody new is served, in ms.
  defp served_after(server) do
    begun = System.monotonic_time(:millisecond)
    assert eventually(fn -> visit(server, "new") == {:ok, "new"} end)
    System.monotonic_time(:millisecond) - begun
  end

  defp visit(server, text) do
    client = dial(server)
    answer = ask(client, text)
    :gen_tcp.close(client)
    answer
  end

  describe "a context" do
    test "lives in another process, and says which" do
      context = start()
      pid = os_pid(context)
      assert "#{pid}" != System.pid()
      assert Python.call(context, :os, :getpid) == {:ok, pid}
      {:ok, info} = Python.info(context)
      assert %{isolation: :process, state: :running, interpreter: %{version: "3." <> _}} = info
    end

    test "is asked, told and called as others are" do
      context = start(setup: "first = 1")
      assert Python.exec(context, "second = first + 1") == :ok
      assert Python.eval(context, "[first, second, n]", %{n: 3}) == {:ok, [1, 2, 3]}
      kwargs = [kwargs: %{reverse: true}]
      assert Python.call(context, :builtins, :sorted, [[1, 3, 2]], kwargs) == {:ok, [3, 2, 1]}

      value = [nil, true, "ü", <<255>>, 1.5, 2 ** 80, -2 ** 62, {1, []}, %{"a" => %{1 => 2}}]
      assert Python.eval(context, "value", %{value: value}) == {:ok, value}

      assert {:error, %Python.Error{type: "ZeroDivisionError", traceback: text}} =
               Python.eval(context, "1 / 0")

      assert text =~ "Traceback"
    end

    test "is not given what is too deep, or what no message holds" do
      context = start()
      deep = Enum.reduce(1..100_000, [], fn _, deep -> [deep] end)
      assert {:error, %Python.Error{}} = Python.eval(context, "deep", %{deep: deep})

      assert {:error, %Python.Error{message: message}} =
               Python.eval(context, "bytes(257 * 1024 * 1024)", %{}, timeout: 60_000)

      assert message =~ "256 MiB"
      assert Python.eval(context, "1 + 1") == {:ok, 2}
    end

    test "sends messages to processes of the VM, and finds them by name" do
      context = start()
      Process.register(self(), :process_test_receives)

      assert Python.exec(context, "import erlang; erlang.send('process_test_receives', {'n': 1})") ==
               :ok

      assert_receive %{"n" => 1}
      assert Python.eval(context, "erlang.whereis('no_such_name_at_all') is None") == {:ok, true}
      code = "erlang.send(erlang.whereis('process_test_receives'), 'again')"
      assert Python.eval(context, code) == {:ok, nil}
      assert_receive "again"

      assert {:error, %Python.Error{type: "LookupError"}} =
               Python.exec(context, "erlang.send('no_such_name_at_all', 1)")
    end

    test "has no part in the VM's environment that is nobody's business" do
      context = start()
      assert Python.call(context, :os, :getenv, ["BINDIR"]) == {:ok, nil}
      assert Python.eval(context, "__import__('os').environ['PATH']") == System.fetch_env("PATH")
    end

    test "has none of the VM's sockets" do
      {:ok, socket} = :gen_tcp.listen(0, [])
      context = start()
      # That of the listing itself is closed again.
      :ok =
        Python.exec(context, """
        import os
        paths = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
        open_ones = [os.readlink(path) for path in paths if os.path.lexists(path)]
        """)

      {:ok, there} = Python.eval(context, "open_ones")
      assert Enum.any?(there, &String.starts_with?(&1, "socket:"))
      here = for n <- File.ls!("/proc/self/fd"), do: File.read_link("/proc/self/fd/" <> n)
      sockets = for {:ok, "socket:" <> _ = name} <- here, do: name
      assert sockets != []
      assert sockets -- there == sockets
      :gen_tcp.close(socket)
    end

    test "has what it prints logged, as far as Python does not know of it" do
      LogRelay.attach()
      context = start()
      name = inspect(context)
      # One goes by a pipe and the other by the control socket: in no order.
      assert Python.exec(context, "import os; os.write(1, b'below #{name}\\n')") == :ok
      assert {:info, _, %{context: ^name}} = LogRelay.assert_logged("below #{name}")
      assert Python.exec(context, "print('above #{name}')") == :ok
      assert {:info, _, %{context: ^name}} = LogRelay.assert_logged("above #{name}")
      assert Python.exec(context, "os.write(2, b'error #{name}\\n')") == :ok
      assert {:warning, _, %{context: ^name}} = LogRelay.assert_logged("error #{name}")
    end

    test "has a virtual environment of its own" do
      tmp = Path.join(System.tmp_dir!(), "reactor-process-#{System.unique_integer([:positive])}")
      on_exit(fn -> File.rm_rf!(tmp) end)

      [one, other] =
        for name <- ["one", "other"], do: Reactor.Environments.make(Path.join(tmp, name), [])

      contexts = for venv <- [one, other], do: start(venv: venv)

      for {context, venv} <- Enum.zip(contexts, [one, other]),
          do: assert(Python.eval(context, "__import__('sys').prefix") == {:ok, venv})
    end

    test "that cannot start says why" do
      assert {:error, %Python.Error{type: "ImportError"}} =
               Python.start_context(isolation: :process, requirements: ["no-such-package"])

      assert {:error, {:context_died, text}} =
               Python.start_context(isolation: :process, setup: "import os; os._exit(3)")

      assert text =~ "exit status 3"
    end

    test "that is stopped takes its process with it" do
      context = start()
      pid = os_pid(context)
      assert Python.stop_context(context) == :ok
      assert eventually(fn -> gone?(pid) end)
    end

    test "whose own process dies takes its process with it, busy or not" do
      context = start()
      pid = os_pid(context)
      busy = Task.async(fn -> Python.exec(context, "while True: pass", timeout: :infinity) end)
      assert eventually(fn -> match?({:ok, %{calls_waiting: 1}}, Python.info(context)) end)
      context |> Process.whereis() |> Process.exit(:kill)
      assert {:error, _closed_or_interrupted} = Task.await(busy)
      assert eventually(fn -> gone?(pid) end)
    end
  end

  describe "a process that does not read what it is sent" do
    # So much is sent in vain, in MiB.
    @each 4
    @calls 64

    test "has no more than little waiting for it, and goes on later" do
      context = start()
      pid = os_pid(context)
      signal("STOP", pid)
      on_exit(fn -> System.cmd("kill", ["-CONT", "#{pid}"], stderr_to_stdout: true) end)
      text = String.duplicate("x", @each * 1024 * 1024)
      before = resident()

      for _ <- 1..@calls do
        assert Python.call(context, :builtins, :len, [text], timeout: 20) == {:error, :timeout}
      end

      assert resident() - before < div(@calls * @each, 2)
      # Those that were given up take no place from others.
      for _ <- 1..1_100, do: Python.eval(context, "1", %{}, timeout: 0)
      signal("CONT", pid)
      assert Python.call(context, :builtins, :len, [text]) == {:ok, byte_size(text)}
      assert {:ok, %{calls_waiting: 0}} = Python.info(context)
    end

    # What this VM has in memory, in MiB.
    defp resident do
      [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))
      div(String.to_integer(kib), 1024)
    end
  end

  describe "a process that says what it likes on the control socket" do
    # Where reports and what is logged go, as in portal.rs.
    @watcher 2
    @log 3

    # How code in it would find that socket, and write to it.
    @intrudes """
    import os, socket, struct
    def control():
        for name in os.listdir("/proc/self/fd"):
            try:
                found = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            if found.family == socket.AF_UNIX:
                return found
    def say(place, term, fds):
        frame = bytes([place]) + term
        frame = struct.pack("!I", len(frame)) + frame
        with control() as found:
            socket.send_fds(found, [frame], fds)
    def say_all(place, terms, fds):
        for term in terms:
            say(place, term, fds)
    """

    setup do
      context = start()
      :ok = Python.exec(context, @intrudes)
      {:ok, context: context}
    end

    defp say(context, place, terms, fds \\ []) do
      terms = for term <- terms, do: %Python.Bytes{binary: :erlang.term_to_binary(term)}
      values = %{place: place, terms: terms, fds: fds}
      assert Python.eval(context, "say_all(place, terms, fds)", values) == {:ok, nil}
    end

    test "ends nobody with what is no report", %{context: context} do
      LogRelay.attach()
      pid = os_pid(context)
      odd = [[1 | 2], [{:load, %{kind: :python}}], [{:exception, 1, nil, %{}, 1}], 1]
      say(context, @watcher, for(events <- odd, do: {:"$reactor_report", events}))
      LogRelay.assert_logged("was not understood")
      assert os_pid(context) == pid
      assert Python.eval(context, "1 + 1") == {:ok, 2}
    end

    test "gives the VM no descriptors", %{context: context} do
      before = length(File.ls!("/proc/self/fd"))
      term = {:"$reactor_report", []}
      say(context, @watcher, List.duplicate(term, 50), [1, 2])
      assert Python.eval(context, "1 + 1") == {:ok, 2}
      assert length(File.ls!("/proc/self/fd")) < before + 20
    end

    test "makes few atoms there", %{context: context} do
      records =
        for n <- 1..2_000, do: {:"$reactor_log", :error, "target", "text", %{"odd_#{n}" => 1}}

      # What has been logged once has loaded all code that it takes.
      LogRelay.attach()
      say(context, @log, Enum.take(records, 1))
      LogRelay.assert_logged("text")
      before = :erlang.system_info(:atom_count)

      for some <- Enum.chunk_every(records, 100) do
        say(context, @log, some)
        # What nobody has taken yet may be dropped.
        :sys.get_state(Reactor.Runtime.Log)
      end

      assert :erlang.system_info(:atom_count) < before + 500
    end
  end

  describe "a process that ends" do
    # What ends it, and what is said of it.
    for {what, code, said} <- [
          {"is killed", "import os; os.kill(os.getpid(), 9)", "SIGKILL"},
          {"has a segmentation fault", "import apart; apart.segfault()", "SIGSEGV"},
          {"leaves", "import os; os._exit(7)", "exit status 7"}
        ] do
      test "because it #{what} is replaced, its callers learn of it, and others go on" do
        LogRelay.attach()
        [context, other] = [start(), start()]
        [pid, others] = [os_pid(context), os_pid(other)]
        waits = Task.async(fn -> Python.eval(other, "n", %{n: 1}) end)
        assert Python.exec(context, unquote(code)) == {:error, :closed}
        LogRelay.assert_logged(unquote(said))
        assert eventually(fn -> match?({:ok, 2}, Python.eval(context, "1 + 1")) end)
        assert os_pid(context) != pid
        assert eventually(fn -> gone?(pid) end)
        assert Task.await(waits) == {:ok, 1}
        assert os_pid(other) == others
      end
    end

    test "is replaced although one that it forked has its end of the socket, which ends too" do
      context = start()

      :ok =
        Python.exec(context, """
        import os, time
        forked = os.fork()
        if forked == 0:
            time.sleep(60)
            os._exit(0)
        """)

      {:ok, forked} = Python.eval(context, "forked")
      call = Task.async(fn -> Python.exec(context, "import os; os.kill(os.getpid(), 9)") end)
      assert Task.await(call) == {:error, :closed}
      assert eventually(fn -> gone?(forked) end)
      assert eventually(fn -> match?({:ok, 2}, Python.eval(context, "1 + 1")) end)
    end

    test "is no orphan when the VM is killed, be it idle or busy" do
      port =
        Port.open({:spawn_executable, System.find_executable("elixir")}, [
          :binary,
          :exit_status,
          args: [
            "-pa",
            Path.join(:code.lib_dir(:reactor), "ebin"),
            Path.join(@support, "busy_processes.exs")
          ]
        ])

      {:os_pid, vm} = Port.info(port, :os_pid)
      pids = read_pids(port, "")
      assert length(pids) == 2
      refute Enum.any?(pids, &gone?/1)
      signal("KILL", vm)
      assert eventually(fn -> Enum.all?(pids, &ended?/1) end)
    end

    # Those of another VM are reaped by whoever adopts them, which a test cannot wait for: a zombie has ended.
    defp ended?(pid) do
      case File.read("/proc/#{pid}/stat") do
        {:ok, stat} -> stat |> String.split(") ") |> List.last() |> String.starts_with?("Z")
        {:error, _} -> true
      end
    end

    defp read_pids(port, output) do
      receive do
        {^port, {:data, data}} ->
          output = output <> data

          case Regex.run(~r/pids ([\d ]+)\n/, output) do
            [_, pids] -> pids |> String.split() |> Enum.map(&String.to_integer/1)
            nil -> read_pids(port, output)
          end
      after
        30_000 -> flunk("no processes: " <> output)
      end
    end
  end

  describe "limits" do
    test "of memory are met by Python as MemoryError" do
      context = start(rlimit: [as: 1024 * 1024 * 1024])

      assert {:error, %Python.Error{type: "MemoryError"}} =
               Python.call(context, :apart, :exhaust, [], timeout: 30_000)

      assert Python.eval(context, "1 + 1") == {:ok, 2}
    end

    test "of CPU time end the process, which is replaced" do
      LogRelay.attach()
      context = start(rlimit: [cpu: 1])
      pid = os_pid(context)
      assert Python.call(context, :apart, :spin, [], timeout: 20_000) == {:error, :closed}
      LogRelay.assert_logged("SIGXCPU")
      assert eventually(fn -> match?({:ok, 2}, Python.eval(context, "1 + 1")) end)
      assert os_pid(context) != pid
    end

    test "of open files are the process's" do
      context = start(rlimit: [nofile: 64])
      code = "import resource; limit = resource.getrlimit(resource.RLIMIT_NOFILE)"
      assert Python.exec(context, code) == :ok
      assert Python.eval(context, "limit") == {:ok, {64, 64}}
    end

    test "are refused where they make no sense" do
      for wrong <- [[as: 0], [cpu: 1.5], [stack: 1], [1], :as, %{as: 1}] do
        assert {:error, %ConfigError{option: :rlimit}} =
                 Python.start_context(isolation: :process, rlimit: wrong)
      end

      for isolation <- [:shared, :subinterpreter] do
        assert {:error, %ConfigError{option: :rlimit} = error} =
                 Python.start_context(isolation: isolation, rlimit: [cpu: 1])

        assert Exception.message(error) =~ "isolation: :process"
      end
    end
  end

  describe "a listener" do
    test "that cannot be served by a process does not start" do
      assert {:error, %ConfigError{option: :isolation} = error} =
               Listener.new(Py, isolation: :process, protocol: :udp)

      assert Exception.message(error) =~ "datagrams"

      assert {:error, %ConfigError{option: :isolation} = error} =
               Listener.new(Routes,
                 isolation: :process,
                 secure: Reactor.Certificates.server()
               )

      assert Exception.message(error) =~ "route/1"
    end

    test "says what goes through its connections, and which Python it has", context do
      server = serve_apart(context)
      client = dial(server)
      assert ask(client, "hello") == {:ok, "hello"}
      assert [%{owner: :python, received: 5, sent: 5, state: :open}] = Reactor.connections(server)

      assert %{connections: 1, received: 5, sent: 5, interpreter: %{version: "3." <> _}} =
               Reactor.info(server)

      hang_up(client)
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      assert %{received: 5, sent: 5, accepted: 1} = Reactor.info(server)
    end

    test "loses the connections of a process that dies, and no others", context do
      server = serve_apart(context, contexts: 2)
      EventRelay.attach(port: port(server))
      {{pid, lost}, {_, stays}} = one_of_each(server)
      signal("KILL", pid)
      assert served_after(server) < @soon
      assert ask(lost, "there?") in [{:error, :closed}, {:error, :econnreset}]
      assert_receive {[:reactor, :connection, :stop], _, %{reason: :context_died}}, 5_000
      assert ask(stays, "here") == {:ok, "here"}
      assert eventually(fn -> gone?(pid) end)
    end

    test "goes on when one client after the other ends its process", context do
      server = serve_apart(context)

      for _ <- 1..6 do
        client = dial(server)
        assert ask(client, "here") == {:ok, "here"}
        :ok = :gen_tcp.send(client, "segfault")
        assert read_all(client) == ""
        assert served_after(server) < @soon
      end

      assert %{state: :running} = Reactor.info(server)
    end

    test "has all of its places back when a process dies, and lets in no more", context do
      server = serve_apart(context, max_connections: 2)
      clients = for _ <- 1..2, do: dial(server)
      for client <- clients, do: assert(ask(client, "in") == {:ok, "in"})
      third = dial(server)
      :ok = :gen_tcp.send(third, "in")
      assert :gen_tcp.recv(third, 0, 100) == {:error, :timeout}
      assert Reactor.info(server).connections == 2
      signal("KILL", home(hd(clients)))
      assert take(third, 0) == {:ok, "in"}
      assert Reactor.info(server).connections == 1
    end

    test "turns away with overload: :reject who is too many", context do
      server = serve_apart(context, max_connections: 1, overload: :reject)
      first = dial(server)
      assert ask(first, "in") == {:ok, "in"}
      assert ask(dial(server), "in") in [{:error, :closed}, {:error, :econnreset}]
      assert %{connections: 1, rejected: 1} = Reactor.info(server)
    end

    test "drains: protocols say goodbye, and those that do not end are cut", context do
      server = serve_apart(context)
      clients = for _ <- 1..3, do: dial(server)
      for client <- clients, do: assert(ask(client, "in") == {:ok, "in"})
      assert {:ok, %{connections: 3, finished: 3, cut: 0}} = Reactor.drain(server, 20_000)
      for client <- clients, do: assert(read_all(client) == "bye")
      assert Reactor.resume(server) == :ok
      assert ask(dial(server), "again") == {:ok, "again"}
    end

    test "cuts what is busy when the time to drain is over", context do
      server = serve_apart(context, callback_timeout: :infinity, contexts: 2)
      {{_, busy}, _} = one_of_each(server)
      {:ok, listening} = :gen_tcp.listen(0, active: false, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listening)
      :ok = put(busy, "hang spin #{port}")
      {:ok, _it_spins} = :gen_tcp.accept(listening, 20_000)
      {elapsed, :ok} = :timer.tc(fn -> Reactor.stop(server, 200) end)
      assert elapsed < 10_000_000
      assert read_all(busy) == ""
    end

    test "has PROXY headers read in its processes", context do
      server = serve_apart(context, python: "client_info:Who", proxy: [trusted: ["127.0.0.1"]])
      client = dial(server)
      {:ok, info} = ask(client, "PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\nhello")
      assert info =~ "192.0.2.1"
      stranger = dial(server)
      assert ask(stranger, "no header") == {:error, :closed}
    end

    test "leaves no descriptor open when its processes have died", context do
      server = serve_apart(context)
      # Its listener's: what tests before this one had open is closed.
      assert eventually(fn -> open_fds() == 1 end)
      %{fds_opened: before} = Native.counters()

      for _ <- 1..3 do
        clients = for _ <- 1..5, do: dial(server)
        for client <- clients, do: assert(ask(client, "in") == {:ok, "in"})
        signal("KILL", home(hd(clients)))
        for client <- clients, do: assert(read_all(client) == "")
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      assert Native.counters().fds_opened - before >= 15
      assert eventually(fn -> open_fds() == 1 end)
    end

    defp open_fds do
      %{fds_opened: opened, fds_closed: closed} = Native.counters()
      opened - closed
    end

    test "gives what it routes to a process", context do
      server = serve(context, Routes, isolation: :process, paths: [@python])
      client = dial(server)
      assert "#{home(client)}" != System.pid()
      assert [%{owner: :python}] = Reactor.connections(server)
      assert ask(client, "more") == {:ok, "more"}
    end

    test "takes new certificates into its processes", context do
      server = serve_apart(%{context | transport: :NativeTLS})
      before = certificate(server)

      strangers =
        Reactor.Certificates.strangers(Path.join(System.tmp_dir!(), "reactor-strangers"))

      secure = Map.to_list(Map.take(strangers, [:certfile, :keyfile]))
      assert :ok = Reactor.update(server, secure: secure)
      assert certificate(server) != before
    end

    defp certificate(server) do
      options = [:binary, active: false, verify: :verify_none, log_level: :none]
      {:ok, client} = :ssl.connect(~c"localhost", port(server), options, 5_000)
      :ok = :ssl.send(client, "hello")
      assert {:ok, "hello"} = :ssl.recv(client, 5, 5_000)
      {:ok, der} = :ssl.peercert(client)
      :ssl.close(client)
      der
    end

    test "under load loses a process, and then another", context do
      server = serve_apart(context, contexts: 2)
      test = self()

      load =
        for _ <- 1..8 do
          spawn_link(fn -> knock(server, test, 0) end)
        end

      for ends_by <- ["KILL", "segfault", "leave", "KILL"] do
        client = dial(server)
        pid = home(client)
        if ends_by == "KILL", do: signal("KILL", pid), else: :ok = :gen_tcp.send(client, ends_by)
        assert eventually(fn -> gone?(pid) end)
        assert served_after(server) < @soon
        :gen_tcp.close(client)
      end

      for client <- load, do: send(client, :enough)
      served = for _ <- load, do: receive(do: ({:served, count} -> count))
      assert Enum.all?(served, &(&1 > 0))
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      # The last one may not have been replaced yet.
      assert eventually(fn -> server |> Server.board() |> Server.contexts() |> length() == 2 end)
    end

    # Connects, is served, and leaves, until it is enough: that a process was killed under it is no reason to
    # stop.
    defp knock(server, test, count) do
      receive do
        :enough -> send(test, {:served, count})
      after
        0 ->
          client = dial(server)
          served = if ask(client, "knock") == {:ok, "knock"}, do: 1, else: 0
          :gen_tcp.close(client)
          knock(server, test, count + served)
      end
    end
  end

  describe "a socket that is handed over" do
    test "goes to the process, and is counted until it ends there" do
      context = start(python: "apart:Apart", max_connections: 1)
      {client, served} = tcp_pair()
      assert Python.handoff(context, served, %{type: :tcp}) == :ok
      assert home(client) == os_pid(context)
      # The process says that it has taken it up after it has answered.
      taken_up? = &match?({:ok, %{connections: 1, handed_over: 1, waiting: 0}}, &1)
      assert eventually(fn -> taken_up?.(Python.info(context)) end)
      {_, more} = tcp_pair()
      assert Python.handoff(context, more) == {:error, :max_connections}
      :gen_tcp.close(client)
      assert eventually(fn -> match?({:ok, %{connections: 0}}, Python.info(context)) end)
      assert Python.handoff(context, more) == :ok
    end

    test "is refused while nothing makes protocols, and then is not" do
      context = start()
      {client, served} = tcp_pair()
      assert Python.handoff(context, served) == {:error, :no_factory}
      code = "import apart, erlang.reactor as r; r.set_protocol_factory(apart.Apart)"
      assert Python.exec(context, code) == :ok
      assert Python.handoff(context, served) == :ok
      assert ask(client, "hello") == {:ok, "hello"}
    end

    test "is closed when the process dies" do
      context = start(python: "apart:Apart")
      {client, served} = tcp_pair()
      assert Python.handoff(context, served) == :ok
      signal("KILL", home(client))
      assert read_all(client) == ""
      assert eventually(fn -> match?({:ok, %{connections: 0}}, Python.info(context)) end)
    end

    defp tcp_pair do
      {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
      {:ok, port} = :inet.port(listening)
      {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      {:ok, served} = :gen_tcp.accept(listening)
      :gen_tcp.close(listening)
      {client, served}
    end
  end
end
