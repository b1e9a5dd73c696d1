for transport <- Reactor.TransportCase.transports() do
  defmodule Module.concat(Reactor.BehaviourTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    describe "handle/1" do
      defmodule Echo do
        use Reactor

        def handle(connection) do
          if data = connection |> Socket.recv!() do
            connection |> Socket.send!(data)
            handle(connection)
          end
        end
      end

      test "serves a connection until it returns", context do
        client = context |> serve(Echo) |> dial()
        assert echo(client, "one") == "one"
        assert echo(client, "two") == "two"
        :ok = :gen_tcp.shutdown(client, :write)
        assert read_all(client) == ""
      end

      test "serves every byte, in order", context do
        client = context |> serve(Echo) |> dial()
        data = :crypto.strong_rand_bytes(1_000_000)

        sender =
          Task.async(fn ->
            :ok = :gen_tcp.send(client, data)
            :gen_tcp.shutdown(client, :write)
          end)

        assert read_all(client) == data
        Task.await(sender)
      end
    end

    describe "start/1 that returns a process" do
      # Echoes, with how many messages there were.
      defmodule EchoServer do
        use Reactor

        def start(connection), do: GenServer.start(__MODULE__, {connection, 0}, [])

        use GenServer

        def init(state), do: {:ok, state}

        def handle_info({Reactor, :ack}, {connection, 0} = state) do
          send(connection.listener.env, {:acknowledged, self()})
          connection |> Socket.active!()
          {:noreply, state}
        end

        def handle_info({:tcp, socket, data}, {%{socket: socket} = connection, n}) do
          connection |> Socket.send!([data, Integer.to_string(n + 1)])
          {:noreply, {connection, n + 1}}
        end

        def handle_info({:tcp_closed, _socket}, state), do: {:stop, :normal, state}
      end

      test "makes it the owner, and acknowledges once", context do
        server = serve(context, EchoServer)
        client = dial(server)
        assert_receive {:acknowledged, handler}
        :ok = :gen_tcp.send(client, "hello")
        assert {:ok, "hello1"} = :gen_tcp.recv(client, 6, 5_000)
        assert Reactor.info(server).connections == 1

        monitor = Process.monitor(handler)
        :gen_tcp.close(client)
        assert_down(monitor, :normal)
        refute_received {:acknowledged, _}
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      test "is started through Reactor, with one acceptor for all", context do
        server = serve(context, EchoServer, acceptors: 1)

        for client <- [dial(server), dial(server)] do
          :ok = :gen_tcp.send(client, "a")
          assert {:ok, "a1"} = :gen_tcp.recv(client, 2, 5_000)
        end
      end
    end

    describe "start/1 that links" do
      defmodule Linked do
        use Reactor

        def start(connection), do: GenServer.start_link(__MODULE__, connection)

        use GenServer

        def init(connection) do
          # The end of its parent, the acceptor, would now end a process that is linked to it.
          Process.flag(:trap_exit, true)
          {:ok, connection}
        end

        def handle_info({Reactor, :ack}, connection) do
          Socket.active!(connection, :once)
          {:noreply, connection}
        end

        def handle_info({:tcp, socket, data}, connection) do
          Socket.send!(socket, data)
          Socket.active!(socket, :once)
          {:noreply, connection}
        end

        def handle_info({:tcp_closed, _socket}, connection), do: {:stop, :normal, connection}
      end

      test "outlives its acceptor", context do
        client = context |> serve(Linked) |> dial()
        assert echo(client, "1") == "1"
        assert echo(client, "2") == "2"
      end
    end

    describe "start/1 that does not serve" do
      defmodule Refuse do
        use Reactor
        def start(_connection), do: {:error, :not_today}
      end

      @tag capture_log: true
      test "an error closes the connection and is logged", context do
        server = serve(context, Refuse)
        assert read_all(dial(server)) == ""
        assert read_all(dial(server)) == ""
      end

      defmodule Done do
        use Reactor

        def start(connection) do
          Socket.send(connection, "bye")
          :ok
        end
      end

      test ":ok closes the connection after what was sent", context do
        assert context |> serve(Done) |> dial() |> read_all() == "bye"
      end

      defmodule Wrong do
        use Reactor
        def start(_connection), do: :never_mind
      end

      test "any other answer closes the connection and names what is right", context do
        server = serve(context, Wrong, acceptors: 2)
        Reactor.EventRelay.attach(port: port(server))
        for _ <- 1..4, do: assert(read_all(dial(server)) == "")
        {_, %{reason: error}} = Reactor.EventRelay.assert_event([:reactor, :handler, :exit])

        assert Exception.message(error) ==
                 inspect(Wrong) <>
                   ".start/1 must return :ok, {:ok, pid} or {:error, reason}, got: :never_mind"
      end

      defmodule Crash do
        use Reactor
        def start(_connection), do: raise("no")
      end

      test "a crash closes that connection alone", context do
        server = serve(context, Crash, acceptors: 2)
        for _ <- 1..10, do: assert(read_all(dial(server)) == "")
      end

      defmodule Nothing do
        use Reactor
      end

      test "a module without handle/1 closes its connections", context do
        assert context |> serve(Nothing) |> dial() |> read_all() == ""
      end
    end

    describe "accept/1" do
      defmodule Greeting do
        use Reactor

        def accept(listener) do
          with {:ok, connection} <- Reactor.Connection.accept(listener) do
            Socket.send(connection, "welcome to #{listener.port}\n")
            {:ok, connection}
          end
        end

        def handle(connection), do: MyApp.Echo.handle(connection)
      end

      test "can be overridden", context do
        server = serve(context, Greeting)
        client = dial(server)
        greeting = "welcome to #{port(server)}\n"
        assert {:ok, ^greeting} = :gen_tcp.recv(client, byte_size(greeting), 5_000)
        assert echo(client, "hi") == "hi"
      end

      defmodule Picky do
        use Reactor

        # Refuses every other connection, with an error that is not the listener's.
        def accept(listener) do
          with {:ok, connection} <- Reactor.Connection.accept(listener) do
            if :counters.get(listener.env, 1) |> rem(2) == 0 do
              :counters.add(listener.env, 1, 1)
              Socket.close(connection)
              {:error, :closed}
            else
              :counters.add(listener.env, 1, 1)
              {:ok, connection}
            end
          end
        end

        def handle(connection), do: MyApp.Echo.handle(connection)
      end

      test "may fail, and is tried again", context do
        server = serve(context, Picky, env: :counters.new(1, []), acceptors: 1)

        for _ <- 1..2 do
          refused = dial(server)
          assert read_all(refused) == ""
          assert echo(dial(server), "taken") == "taken"
        end
      end
    end

    describe "accept/1 with sockets of its own" do
      # Takes its connections from a listening socket of :gen_tcp, and one of the event loops.
      defmodule Elsewhere do
        use Reactor

        def accept(%{env: {:tcp, listening}} = listener) do
          with {:ok, socket} <- :gen_tcp.accept(listening) do
            {:ok, Reactor.Connection.new(socket, listener)}
          end
        end

        def accept(%{env: {:native, listening}}) do
          with {:ok, socket} <- Reactor.Transport.Native.accept(listening) do
            {:ok, Reactor.Connection.new(socket)}
          end
        end

        # The listener is that of the server in either case.
        def handle(%{listener: %{env: {_kind, _socket}}} = connection) do
          MyApp.Echo.handle(connection)
        end
      end

      test "serves, counts, lists and drains those of gen_tcp", context do
        {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(listening)
        check_elsewhere(context, {:tcp, listening}, port, 2)
      end

      test "serves those of another native listener", context do
        {:ok, listener} = Reactor.Listener.new(Elsewhere, ip: :loopback)
        {:ok, listening} = Reactor.Transport.Native.listen(listener)
        {:ok, {_ip, port}} = Reactor.Transport.Native.address(listening)
        check_elsewhere(context, {:native, listening}, port, 0)
      end

      # Another native listener counts its connections itself.
      defp check_elsewhere(context, env, port, counted) do
        server = serve(context, Elsewhere, env: env, acceptors: 2)

        clients =
          for _ <- 1..2 do
            {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
            assert echo(client, "hello") == "hello"
            client
          end

        if context.transport == :Native do
          assert %{connections: ^counted} = Reactor.info(server)
          assert length(Reactor.connections(server)) == counted
        end

        Enum.each(clients, &:gen_tcp.close/1)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)

        # Its acceptors do not wait for what is closed then.
        assert {:ok, %{connections: 0}} = Reactor.drain(server, :infinity)
        assert %{acceptors: 0, state: :suspended} = Reactor.info(server)
        assert Reactor.resume(server) == :ok
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        assert echo(client, "again") == "again"
      end
    end

    describe "use" do
      defmodule Defaults do
        use Reactor.Behaviour, acceptors: 3, packet: :line
        def handle(_connection), do: :ok
      end

      test "takes options, which start/2 overrides", context do
        assert %{acceptors: 3, options: %{packet: :line}} = Reactor.info(serve(context, Defaults))
        assert %{acceptors: 4} = Reactor.info(serve(context, Defaults, acceptors: 4))
      end
    end
  end
end

defmodule Reactor.BehaviourTest.TLS do
  use Reactor.TransportCase, transport: :SSL, async: true

  import Reactor.LogRelay

  alias Reactor.{Connection, Socket}

  # Speaks before it is started.
  defmodule Greeting do
    use Reactor

    def accept(listener) do
      with {:ok, connection} <- Connection.accept(listener),
           {:ok, connection} <- Connection.handshake(connection) do
        Socket.send(connection, "welcome")
        {:ok, connection}
      end
    end

    def handle(connection), do: MyApp.Echo.handle(connection)
  end

  test "accept/1 may make the handshake itself", context do
    client = context |> serve(Greeting) |> dial()
    assert take(client, 7) == {:ok, "welcome"}
    assert echo(client, "hi") == "hi"
  end

  # Takes connections of an :ssl socket of its own.
  defmodule Elsewhere do
    use Reactor

    def accept(%{env: listening} = listener) do
      with {:ok, socket} <- :ssl.transport_accept(listening),
           {:ok, socket} <- :ssl.handshake(socket) do
        {:ok, Connection.new(socket, listener)}
      end
    end

    def handle(connection) do
      Socket.send(connection, if(Connection.secure?(connection), do: "secure", else: "plain!"))
      MyApp.Echo.handle(connection)
    end
  end

  test "accept/1 may return a socket of :ssl of its own", context do
    options = [:binary, active: false, ip: {127, 0, 0, 1}] ++ Reactor.Certificates.server()
    {:ok, listening} = :ssl.listen(0, options)
    {:ok, {_ip, port}} = :ssl.sockname(listening)
    serve(context, Elsewhere, env: listening, transport: :native, secure: false)

    {:ok, client} =
      :ssl.connect(
        ~c"localhost",
        port,
        [:binary, active: false] ++ Reactor.Certificates.trusting()
      )

    assert take(client, 6) == {:ok, "secure"}
    assert echo(client, "hi") == "hi"
  end

  test "a failed handshake ends that connection alone, and holds up no acceptor", context do
    attach()
    server = serve(context, MyApp.Echo, acceptors: 1)
    {:ok, silent} = :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false])
    {:ok, wrong} = :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false])
    :ok = :gen_tcp.send(wrong, "GET / HTTP/1.0\r\n\r\n")
    assert echo(dial(server), "served") == "served"
    :gen_tcp.close(silent)
    # In any order: some releases of OTP see a close only when the handshake has taken too long.
    texts = for _ <- 1..2, do: elem(assert_logged(~r/^MyApp.Echo: a handshake failed: /), 1)
    assert Enum.any?(texts, &(&1 =~ "tls_alert"))
    assert Enum.any?(texts, &(&1 =~ ~r/failed: :(closed|timeout)/))
    assert eventually(fn -> Reactor.info(server).connections == 1 end)
  end
end

defmodule Reactor.BehaviourTest.Route do
  use Reactor.TransportCase, transport: :Native, async: true

  @python Path.expand("../support/python", __DIR__)

  # Asks the test where each connection goes.
  defmodule Routes do
    use Reactor

    def route(connection) do
      send(connection.listener.env, {:route, self(), connection})
      receive(do: ({:to, answer} -> answer))
    end

    def handle(connection) do
      Reactor.Socket.send(connection, "elixir")
      MyApp.Echo.handle(connection)
    end
  end

  defp routed(server, answer) do
    client = dial(server)
    assert_receive {:route, acceptor, _connection}
    send(acceptor, {:to, answer})
    client
  end

  test "chooses for each connection who handles it", context do
    server = serve(context, Routes, paths: [@python], contexts: 2, acceptors: 2)
    assert %{contexts: 2, python: nil} = Reactor.info(server)

    for _ <- 1..3 do
      elixir = routed(server, :elixir)
      assert take(elixir, 6) == {:ok, "elixir"}
      assert echo(elixir, "one") == "one"
      python = routed(server, {:python, "manners:Greets"})
      assert take(python, 7) == {:ok, "welcome"}
      :ok = :gen_tcp.send(python, "bye")
      assert read_all(python) == "goodbye"
    end

    python = for _ <- 1..3, do: routed(server, {:python, "plain_echo:PlainEcho"})
    for client <- python, do: assert(echo(client, "two") == "two")
    assert Reactor.info(server).connections == 6

    owners = Enum.frequencies_by(Reactor.connections(server), &is_pid(&1.owner))
    assert owners == %{true => 3, false => 3}
  end

  test "drains both kinds", context do
    server = serve(context, Routes, paths: [@python])
    elixir = routed(server, :elixir)
    python = routed(server, {:python, "plain_echo:PlainEcho"})
    assert echo(python, "x") == "x"
    assert {:ok, %{connections: 2, finished: 2, cut: 0}} = Reactor.drain(server, 10_000)
    assert read_all(elixir) == "elixir"
    assert read_all(python) == ""

    assert Reactor.resume(server) == :ok
    assert echo(routed(server, {:python, "plain_echo:PlainEcho"}), "again") == "again"
  end

  test "a slow choice holds up no acceptor", context do
    server = serve(context, Routes, paths: [@python], acceptors: 1)
    clients = for _ <- 1..3, do: dial(server)
    choosers = for _ <- clients, do: assert_receive({:route, _pid, _connection})
    for {:route, pid, _} <- choosers, do: send(pid, {:to, :elixir})
    for client <- clients, do: assert(take(client, 6) == {:ok, "elixir"})
  end

  test "a wrong answer closes that connection alone, and is named", context do
    server = serve(context, Routes, paths: [@python], acceptors: 1)
    Reactor.EventRelay.attach(port: port(server))

    for wrong <- [:python, nil, {:python, :echo}, {:ruby, "echo"}] do
      assert read_all(routed(server, wrong)) == ""
      {_, %{reason: error}} = Reactor.EventRelay.assert_event([:reactor, :handler, :exit])

      assert Exception.message(error) ==
               inspect(Routes) <>
                 ~s(.route/1 must return :elixir or {:python, "module:factory"}, got: ) <>
                 inspect(wrong)
    end

    assert take(routed(server, :elixir), 6) == {:ok, "elixir"}
  end

  test "a module that cannot be imported closes that connection alone", context do
    server = serve(context, Routes, paths: [@python], acceptors: 1)
    assert read_all(routed(server, {:python, "there.is.no.such:Thing"})) == ""
    assert echo(routed(server, {:python, "plain_echo:PlainEcho"}), "fine") == "fine"
  end
end
