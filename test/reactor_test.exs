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
      assert %{id: Echo, type: :supervisor, start: {Reactor, :start_link, [Echo, [port: 0]]}} =
               Echo.child_spec(port: 0)

      assert Reactor.child_spec({Echo, port: 0}) == Echo.child_spec(port: 0)
      assert %{id: :named} = Reactor.child_spec({Echo, name: :named})
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

      assert {:error, %ConfigError{option: :transport}} =
               Reactor.connect("localhost", 1, transport: :pigeon)
    end

    test "says that a name does not exist" do
      assert {:error, :nxdomain} = Reactor.connect("nowhere.invalid", 1)
    end
  end
end
