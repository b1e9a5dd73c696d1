defmodule ReactorTest do
  use ExUnit.Case, async: true

  doctest Reactor
  doctest Reactor.ConfigError
  doctest Reactor.Listener
  doctest Reactor.Socket
  doctest Reactor.Socket.Options
  doctest Reactor.Transport

  alias MyApp.Echo
  alias Reactor.{ConfigError, Socket}

  defp start!(options \\ []) do
    {:ok, server} = Reactor.start(Echo, [ip: :loopback] ++ options)
    on_exit(fn -> Reactor.stop(server, 0) end)
    server
  end

  describe "start" do
    test "twice, on ports that the system chooses" do
      assert Reactor.info(start!()).port != Reactor.info(start!()).port
    end

    test "does not link the server to the caller" do
      test = self()

      caller =
        spawn(fn ->
          send(test, Reactor.start(Echo, ip: :loopback))
          exit(:crash)
        end)

      monitor = Process.monitor(caller)
      assert_receive {:ok, server}
      assert_receive {:DOWN, ^monitor, _, _, :crash}
      assert %{connections: 0} = Reactor.info(server)
      assert :ok = Reactor.stop(server)
    end

    test "says which port is taken" do
      server = start!()

      assert {:error, :eaddrinuse} =
               Reactor.start(Echo, ip: :loopback, port: Reactor.info(server).port)
    end

    test "refuses a module without use Reactor" do
      assert {:error, %ConfigError{option: :module, value: Enum}} = Reactor.start(Enum)
    end

    test "a name stands for the server, once" do
      server = start!(name: :reactor_test_named)
      assert Reactor.info(:reactor_test_named).name == :reactor_test_named

      assert {:error, {:already_started, ^server}} =
               Reactor.start(Echo, ip: :loopback, name: :reactor_test_named)

      assert :ok = Reactor.stop(:reactor_test_named)
      assert {:error, :not_found} = Reactor.stop(:reactor_test_named)
    end

    test "a name can be global" do
      name = {:global, make_ref()}
      server = start!(name: name)
      assert :global.whereis_name(elem(name, 1)) == server
      assert %{name: ^name} = Reactor.info(name)
    end
  end

  describe "start_link" do
    test "links the server to the caller" do
      {:ok, server} = Reactor.start_link(Echo, ip: :loopback)
      {:links, links} = Process.info(self(), :links)
      assert server in links
      Reactor.stop(server)
    end

    test "without options listens on every address" do
      {:ok, server} = Reactor.start_link(Echo)
      assert %{ip: {0, 0, 0, 0}, port: port} = Reactor.info(server)
      assert port > 0
      Reactor.stop(server)
    end
  end

  describe "child_spec" do
    test "of a module, and of a module with options" do
      assert %{id: Echo, type: :supervisor, start: {Reactor, :start_child, [Echo, options]}} =
               Echo.child_spec(port: 0)

      assert options.() == [port: 0]
      assert Reactor.child_spec({Echo, port: 0}) == Echo.child_spec(port: 0)
      assert %{id: :named} = Reactor.child_spec({Echo, name: :named})
    end

    defmodule Named do
      use Reactor, name: :named_by_its_module
      def handle(_connection), do: :ok
    end

    test "has the name that the module gives itself, unless another is given" do
      assert %{id: :named_by_its_module} = Named.child_spec([])
      assert %{id: :other} = Named.child_spec(name: :other)
    end

    test "says what it takes" do
      assert_raise ArgumentError, ~r/expected {Reactor, {module, options}}/, fn ->
        Reactor.child_spec(Echo)
      end
    end

    # In a VM of its own, since these reports are off in this one.
    test "keeps passwords out of the report of a failed start" do
      program = """
      defmodule Mine, do: use Reactor
      {:ok, _} = Application.ensure_all_started(:reactor)
      Process.flag(:trap_exit, true)
      options = [env: "hunter2", secure: [certfile: "nowhere.pem", password: "hunter2"]]
      {:error, reason} = Supervisor.start_link([{Mine, options}], strategy: :one_for_one)
      IO.puts(Exception.format_exit(reason))
      {:error, error} = Reactor.start(Mine, options)
      IO.inspect(error)
      Logger.flush()
      """

      ebin = Path.join(:code.lib_dir(:reactor), "ebin")
      reports = ["--erl", "-logger handle_sasl_reports true"]

      {output, 0} =
        System.cmd("elixir", reports ++ ["-pa", ebin, "-e", program], stderr_to_stdout: true)

      assert output =~ "failed to start"
      assert output =~ "Start Call: Reactor.start_child(Mine, #Function<"
      refute output =~ "hunter2"
    end

    # What a supervisor knows of a child is in each of its reports.
    test "keeps passwords out of a supervisor's reports" do
      options = [ip: :loopback, env: "hunter2", secure: Reactor.Certificates.server()]
      options = put_in(options[:secure][:password], "hunter2")
      {:ok, supervisor} = Supervisor.start_link([{Echo, options}], strategy: :one_for_one)
      {:ok, spec} = :supervisor.get_childspec(supervisor, Echo)
      printed = inspect(spec, limit: :infinity) <> to_string(:io_lib.format("~p", [spec]))
      assert printed =~ "start_child"
      refute printed =~ "hunter2"
      refute printed =~ inspect(~c"hunter2", charlists: :as_lists)
      Supervisor.stop(supervisor)
    end

    test "makes a server a supervisor's child, which it restarts on its port" do
      {:ok, supervisor} =
        Supervisor.start_link([{Echo, ip: :loopback, name: :restarted}], strategy: :one_for_one)

      first = Process.whereis(:restarted)
      monitor = Process.monitor(first)
      Process.exit(first, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}

      assert [{:restarted, second, :supervisor, _}] = Supervisor.which_children(supervisor)
      assert is_pid(second) and second != first
      assert {:ok, connection} = Reactor.connect("localhost", Reactor.info(:restarted).port)
      Socket.send!(connection, "again")
      assert Socket.recv!(connection) == "again"
      Supervisor.stop(supervisor)
    end

    test "fails a supervisor's start with the reason" do
      Process.flag(:trap_exit, true)
      port = Reactor.info(start!()).port

      assert {:error, {:shutdown, {:failed_to_start_child, Echo, :eaddrinuse}}} =
               Supervisor.start_link([{Echo, ip: :loopback, port: port}], strategy: :one_for_one)
    end

    test "fails a supervisor's start with a text that can be read" do
      Process.flag(:trap_exit, true)

      {:error, reason} =
        Supervisor.start_link([{Echo, ip: :loopback, prot: 80}], strategy: :one_for_one)

      assert Exception.format_exit(reason) =~
               "(Reactor.ConfigError) unknown option :prot, did you mean :port?"
    end
  end

  describe "a time" do
    @longest 4_294_967_295
    @above @longest + 1

    test "may be the longest that a timer takes, and lets connections finish" do
      server = start!(drain_timeout: @longest)
      {:ok, connection} = Reactor.connect("localhost", port(server), timeout: @longest)
      Socket.send!(connection, "x")
      assert Socket.recv!(connection) == "x"
      assert {:ok, %{finished: 1, cut: 0}} = Reactor.drain(server, @longest)
      assert Reactor.stop(server, @longest) == :ok
    end

    test "above that is refused, and cuts nothing" do
      server = start!()
      {:ok, connection} = Reactor.connect("localhost", port(server))

      for call <- [&Reactor.stop/2, &Reactor.drain/2], wrong <- [@above, -1, 1.5, "1"] do
        error = assert_raise ArgumentError, fn -> call.(server, wrong) end
        assert error.message =~ "a number of milliseconds from 0 to 4294967295"
        assert error.message =~ "got: #{inspect(wrong)}"
      end

      assert_raise ArgumentError, fn -> Reactor.stop(server, :infinity) end
      assert {:error, %ConfigError{}} = Reactor.update(server, drain_timeout: @above)

      assert {:error, error} = Reactor.connect("localhost", port(server), timeout: @above)

      assert Exception.message(error) ==
               "option :timeout must be a number of milliseconds from 0 to 4294967295, " <>
                 "or :infinity, got: 4294967296"

      Socket.send!(connection, "x")
      assert Socket.recv!(connection) == "x"
    end

    defp port(server), do: Reactor.info(server).port
  end

  describe "a server that stops meanwhile" do
    # Its table is gone when its supervisor has just been asked for it.
    test "is not found, or ends who asks, but no table is missing" do
      for _ <- 1..20 do
        {:ok, server} = Reactor.start(Echo, ip: :loopback, acceptors: 2)

        tasks =
          for call <- [
                &Reactor.drain/1,
                &Reactor.info/1,
                &Reactor.connections/1,
                &Reactor.listener/1,
                &Reactor.suspend/1,
                &Reactor.stop/1
              ] do
            Task.async(fn ->
              try do
                call.(server)
              catch
                :exit, _reason -> :exit
              end
            end)
          end

        Process.sleep(:rand.uniform(3) - 1)
        Reactor.stop(server, 0)
        Enum.each(tasks, &Task.await/1)
      end
    end
  end

  describe "wait" do
    test "returns when the server stops" do
      server = start!()
      waiter = Task.async(fn -> Reactor.wait(server) end)
      assert Task.yield(waiter, 0) == nil
      Reactor.stop(server)
      assert Task.await(waiter) == :ok
    end

    test "returns at once for a server that does not run" do
      assert Reactor.wait(:nobody_has_this_name) == :ok
    end
  end

  describe "info" do
    test "is a map of what listens" do
      assert %{
               module: Echo,
               ip: {127, 0, 0, 1},
               transport: Reactor.Transport.TCP,
               acceptors: 7,
               connections: 0,
               options: %{packet: :line}
             } = Reactor.info(start!(acceptors: 7, packet: :line, transport: :tcp))
    end
  end

  describe "connect" do
    for transport <- Reactor.TransportCase.transports() do
      @transport Module.concat(Reactor.Transport, transport)

      test "to a name, an address and a text (#{transport})" do
        port = Reactor.info(start!()).port

        for host <- ["localhost", ~c"localhost", :localhost, {127, 0, 0, 1}, "127.0.0.1"] do
          assert {:ok, connection} = Reactor.connect(host, port, transport: @transport)
          assert {:ok, {{127, 0, 0, 1}, ^port}} = Socket.remote(connection)
          assert {:ok, {{127, 0, 0, 1}, _}} = Socket.local(connection)
          Socket.send!(connection, "x")
          assert Socket.recv!(connection) == "x"
          Socket.close(connection)
        end
      end

      test "fails where nobody listens (#{transport})" do
        server = start!()
        port = Reactor.info(server).port
        Reactor.stop(server)
        assert {:error, :econnrefused} = Reactor.connect("127.0.0.1", port, transport: @transport)
      end
    end

    test "names a wrong option" do
      assert {:error, %ConfigError{option: :pakcet, nearest: :packet}} =
               Reactor.connect("localhost", 1, pakcet: :line)

      for {host, port, options, option} <- [
            {"localhost", 1, [transport: :pigeon], :transport},
            {"localhost", 1, [transport: :tcp, secure: []], :transport},
            {"localhost", 1, [transport: :tcp, idle_timeout: 5], :idle_timeout},
            {"localhost", 1, [secure: [nothing: 1]], :nothing},
            {"localhost", 1, [timeout: -1], :timeout},
            {"localhost", 1, [timeout: nil], :timeout},
            {"localhost", 1, [high_watermark: 1], :low_watermark},
            {"localhost", 1, :none, :options},
            {"localhost", 0, [], :port},
            {"localhost", "80", [], :port},
            {"", 1, [], :host},
            {nil, 1, [], :host},
            {{1, 2}, 1, [], :host}
          ] do
        assert {:error, %ConfigError{option: ^option}} = Reactor.connect(host, port, options)
      end
    end

    test "does not show what may be a password" do
      for options <- [%{secure: [password: "hunter2"]}, [:active, secure: [password: "hunter2"]]] do
        assert {:error, %ConfigError{option: :options} = error} =
                 Reactor.connect("localhost", 1, options)

        refute inspect(error, structs: false) =~ "hunter2"
      end
    end

    test "says that a name does not exist" do
      assert {:error, :nxdomain} = Reactor.connect("nowhere.invalid", 1)
    end
  end
end
