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
