for transport <- Reactor.TransportCase.transports() do
  defmodule Module.concat(Reactor.ServerTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.{Server, Socket}

    # Echoes, and tells the test who handles.
    defmodule Echo do
      use Reactor

      def handle(%{listener: %{env: test}} = connection) do
        send(test, {:handler, self()})
        MyApp.Echo.handle(connection)
      end
    end

    describe "acceptors" do
      test "are replaced as soon as one accepts: one is enough for many connections", context do
        server = serve(context, Echo, acceptors: 1)
        clients = for _ <- 1..50, do: dial(server)
        for client <- clients, do: assert(echo(client, "here") == "here")
        assert %{acceptors: 1, connections: 50} = Reactor.info(server)
      end

      test "are as many as the option says", context do
        for n <- [1, 2, 3, 33] do
          server = serve(context, Echo, acceptors: n)
          assert eventually(fn -> Reactor.info(server).acceptors == n end)
          client = dial(server)
          assert echo(client, "x") == "x"
          assert %{acceptors: ^n, connections: 1} = Reactor.info(server)
        end
      end
    end

    describe "a handler that fails" do
      test "closes its connection and nothing else", context do
        server = serve(context, Echo)
        first = dial(server)
        assert echo(first, "1") == "1"
        assert_receive {:handler, handler}
        [second, third] = for _ <- 1..2, do: dial(server)
        assert echo(second, "2") == "2"
        assert echo(third, "3") == "3"

        Process.exit(handler, :kill)
        assert read_all(first) == ""
        assert echo(second, "2") == "2"
        assert echo(third, "3") == "3"
        assert echo(dial(server), "4") == "4"
        assert eventually(fn -> Reactor.info(server).connections == 3 end)
      end
    end

    describe "connection supervisors" do
      test "answer as supervisors do", context do
        server = serve(context, Echo, acceptors: 2)
        assert echo(dial(server), "x") == "x"
        assert_receive {:handler, handler}
        partitions = server |> Server.board() |> Server.partitions()

        children = Enum.flat_map(partitions, &Supervisor.which_children/1)
        assert length(children) == 3
        assert {:undefined, handler, :worker, [Echo]} in children

        counts = Enum.map(partitions, &Supervisor.count_children/1)
        assert counts |> Enum.map(& &1.active) |> Enum.sum() == 3
      end
    end

    describe "the listening process" do
      test "is restarted on its port when it fails", context do
        server = serve(context, Echo)
        port = port(server)
        board = Server.board(server)

        # More often than a supervisor restarts a child that cannot start.
        for _ <- 1..3 do
          listening = Server.whereis(board, :listening_socket)
          monitor = Process.monitor(listening)
          Process.exit(listening, :kill)
          assert_down(monitor, :killed)
          assert %{port: ^port} = Reactor.info(server)
          new? = &(is_pid(&1) and &1 != listening)
          assert eventually(fn -> new?.(Server.whereis(board, :listening_socket)) end)
          assert eventually(fn -> Reactor.info(server).acceptors > 0 end)
          assert echo(dial(server), "again") == "again"
        end
      end
    end

    describe "a listening process that fails" do
      test "leaves a suspended server suspended", context do
        server = serve(context, Echo)
        port = port(server)
        board = Server.board(server)
        assert Reactor.suspend(server) == :ok
        listening = Server.whereis(board, :listening_socket)
        Process.exit(listening, :kill)

        assert eventually(fn ->
                 Server.whereis(board, :listening_socket) not in [nil, listening]
               end)

        assert eventually(fn -> Server.whereis(board, :drain) != nil end)
        assert %{state: :suspended, port: ^port} = Reactor.info(server)
        assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
        assert Reactor.resume(server) == :ok
        assert echo(dial(server), "again") == "again"
      end

      defmodule CannotListen do
        def listen(_listener), do: {:error, :eacces}
        def close_listener(_socket), do: :ok
      end

      @tag :capture_log
      test "for good leaves nothing behind", context do
        {:ok, server} = start_alone(context, Echo, [])
        board = Server.board(server)
        Server.put_listener(board, %{Server.listener(board) | transport: CannotListen})
        monitor = Process.monitor(server)
        board |> Server.whereis(:listening_socket) |> Process.exit(:kill)
        assert_receive {:DOWN, ^monitor, _, _, _}, 5_000
        assert :persistent_term.get({Server, board}, nil) == nil
      end
    end

    describe "info" do
      # Does not finish by itself.
      defmodule Holds do
        use Reactor

        def handle(connection) do
          Socket.recv(connection)
          Process.sleep(:infinity)
        end
      end

      test "answers while the server stops", context do
        {:ok, server} = start_alone(context, Holds, drain_timeout: 60_000)
        client = dial(server)
        put(client, "x")
        assert eventually(fn -> Reactor.info(server).connections == 1 end)
        stop = Task.async(fn -> Reactor.stop(server, 1_000) end)

        asked =
          Task.async(fn -> eventually(fn -> Reactor.info(server).state == :draining end) end)

        assert {:ok, true} = Task.yield(asked, 900) || Task.shutdown(asked)
        assert Task.await(stop) == :ok
        assert {:noproc, _} = catch_exit(Reactor.info(server))
      end

      test "can be asked for by whoever listens to the end of a server", context do
        {:ok, server} = start_alone(context, Echo, [])
        id = make_ref()
        test = self()

        ask = fn _event, _measurements, %{port: port}, _config ->
          if port == port(server), do: send(test, :asked)
        end

        port(server)
        :ok = :telemetry.attach(id, [:reactor, :drain, :stop], ask, nil)
        on_exit(fn -> :telemetry.detach(id) end)
        Reactor.Telemetry.refresh()
        stop = Task.async(fn -> Reactor.stop(server) end)
        assert {:ok, :ok} = Task.yield(stop, 3_000) || Task.shutdown(stop)
        assert_receive :asked
      end

      test "of another supervisor exits, and leaves it alone" do
        supervisor = start_supervised!({DynamicSupervisor, strategy: :one_for_one})
        assert {:noproc, _} = catch_exit(Reactor.info(supervisor))
        assert Process.alive?(supervisor)
        assert Reactor.drain(supervisor) == {:error, :not_found}
        assert %{active: 0} = DynamicSupervisor.count_children(supervisor)
      end

      # One process for all connections.
      defmodule Hub do
        use Reactor
        def start(connection), do: {:ok, connection.listener.env}
      end

      test "counts each connection of a process that has several", context do
        for limit <- [:infinity, 8] do
          hub = spawn(fn -> receive(do: (:stop -> :ok)) end)
          server = serve(context, Hub, env: hub, max_connections: limit, acceptors: 2)
          clients = for _ <- 1..6, do: dial(server)
          six? = &match?(%{connections: 6, accepted: 6}, &1)
          assert eventually(fn -> server |> Reactor.info() |> six?.() end)
          owned? = fn -> Enum.count(Reactor.connections(server), &(&1.owner == hub)) == 6 end
          assert eventually(owned?)

          # What it had is free for others.
          send(hub, :stop)
          for client <- clients, do: assert(read_all(client) == "")
          assert eventually(fn -> Reactor.info(server).connections == 0 end)
          assert Reactor.connections(server) == []
          for _ <- 1..8, do: assert(read_all(dial(server)) == "")
        end
      end

      # Brings connections of another listening socket.
      defmodule Brings do
        use Reactor

        def accept(%{env: {listening, _test}} = listener) do
          with {:ok, socket} <- :gen_tcp.accept(listening),
               do: {:ok, Reactor.Connection.new(socket, listener)}
        end

        def handle(connection), do: MyApp.Echo.handle(connection)
      end

      test "still counts connections from elsewhere when they have ended", context do
        {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(listening)
        server = serve(context, Brings, env: {listening, self()}, acceptors: 2)

        for _ <- 1..3 do
          {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
          assert echo(client, "x") == "x"
          :gen_tcp.close(client)
        end

        assert eventually(fn -> Reactor.info(server).connections == 0 end)
        assert Reactor.info(server).accepted == 3
      end
    end

    describe "a handler that exits normally" do
      defmodule Leaves do
        use Reactor
        def handle(_connection), do: exit(:normal)
      end

      test "leaves nothing behind", context do
        server = serve(context, Leaves)
        Reactor.EventRelay.attach(module: Leaves, port: port(server))
        for _ <- 1..5, do: assert(read_all(dial(server)) == "")
        assert eventually(fn -> Reactor.info(server).connections == 0 end)

        for partition <- server |> Server.board() |> Server.partitions() do
          assert :sys.get_state(partition).failing == %{}
        end
      end
    end

    # That of the native one ends with its process alone.
    if transport != :Native do
      test "a listening socket that closes by itself is opened again", context do
        server = serve(context, Echo)
        port = port(server)
        board = Server.board(server)
        listening = Server.whereis(board, :listening_socket)
        monitor = Process.monitor(listening)
        server |> Reactor.listener() |> Map.fetch!(:socket) |> :gen_tcp.close()
        assert_receive {:DOWN, ^monitor, _, _, {:listener_closed, :normal}}

        assert eventually(fn ->
                 Server.whole?(board) and Reactor.info(server).acceptors == 100
               end)

        assert %{port: ^port} = Reactor.info(server)
        assert echo(dial(server), "again") == "again"
      end
    end

    test "serves IPv6", context do
      server = serve(context, Echo, ip: "::1")
      assert %{ip: {0, 0, 0, 0, 0, 0, 0, 1} = ip, port: port} = Reactor.info(server)
      {:ok, connection} = Reactor.connect(ip, port, transport: option(context))
      Socket.send!(connection, "six")
      assert Socket.recv!(connection) == "six"
      assert {:ok, {^ip, ^port}} = Socket.remote(connection)
    end

    describe "label" do
      if Code.ensure_loaded?(:proc_lib) and function_exported?(:proc_lib, :get_label, 1) do
        test "names each process of a server for tools", context do
          server = serve(context, Echo, acceptors: 1)
          assert :proc_lib.get_label(server) == {:server, Echo}

          labels =
            for {_id, pid, _type, _modules} <- Supervisor.which_children(server),
                do: :proc_lib.get_label(pid)

          for role <- [
                :listening_socket,
                :connection_supervisor,
                :acceptor_pool,
                :control,
                :drain
              ] do
            assert {role, Echo} in labels
          end

          assert eventually(fn -> Reactor.info(server).acceptors == 1 end)
          partitions = server |> Server.board() |> Server.partitions()
          [{_, acceptor, _, _}] = Enum.flat_map(partitions, &Supervisor.which_children/1)
          assert :proc_lib.get_label(acceptor) == {:handler, Echo}
        end
      else
        test "does nothing where OTP has none" do
          before = Process.info(self(), :dictionary)
          assert Server.label(:server, Echo) == :ok
          assert Process.info(self(), :dictionary) == before
        end
      end
    end

    describe "a connection supervisor" do
      test "that fails takes its connections along, and the server goes on", context do
        server = serve(context, Echo)
        board = Server.board(server)

        for partition <- Server.partitions(board) do
          clients = for _ <- 1..4, do: dial(server)
          for client <- clients, do: assert(echo(client, "x") == "x")
          monitor = Process.monitor(partition)
          Process.exit(partition, :kill)
          assert_down(monitor, :killed)
          whole? = fn -> Server.whole?(board) and Reactor.info(server).acceptors == 100 end
          assert eventually(whole?)
          assert Reactor.info(server).state == :running
          assert echo(dial(server), "again") == "again"
          Enum.each(clients, &:gen_tcp.close/1)
        end
      end
    end

    describe "a server that is killed" do
      test "takes its processes along without further failures", context do
        server = serve(context, Echo)

        monitors =
          for {_id, pid, _type, _modules} <- Supervisor.which_children(server),
              do: Process.monitor(pid)

        Process.exit(server, :kill)
        for monitor <- monitors, do: assert_down(monitor, :killed)
      end
    end

    describe "stop" do
      test "closes idle connections at once, and ends their handlers", context do
        {:ok, server} = start_alone(context, Echo, drain_timeout: 60_000)
        clients = for _ <- 1..5, do: dial(server)

        monitors =
          for client <- clients do
            assert echo(client, "x") == "x"
            assert_receive {:handler, handler}
            Process.monitor(handler)
          end

        assert Reactor.stop(server) == :ok
        for client <- clients, do: assert(read_all(client) == "")
        for monitor <- monitors, do: assert_down(monitor, :normal)
      end

      defmodule Busy do
        use Reactor

        # Reads a request, and answers it when the test says so.
        def handle(%{listener: %{env: test}} = connection) do
          {:ok, request} = Socket.recv(connection)
          send(test, {:request, self(), request})
          receive(do: (:answer -> :ok))
          Socket.send!(connection, "answer to " <> request)
        end
      end

      test "lets a handler finish what it does", context do
        {:ok, server} = start_alone(context, Busy, drain_timeout: 60_000)
        client = dial(server)
        port = port(server)
        :gen_tcp.send(client, "question")
        assert_receive {:request, handler, "question"}

        stopping = Task.async(fn -> Reactor.stop(server) end)
        # Draining has begun when nothing is accepted any more.
        assert eventually(fn ->
                 case :gen_tcp.connect({127, 0, 0, 1}, port, []) do
                   {:ok, socket} -> :gen_tcp.close(socket) != :ok
                   # Refused, or reset in the backlog.
                   {:error, _reason} -> true
                 end
               end)

        send(handler, :answer)
        assert read_all(client) == "answer to question"
        assert Task.await(stopping) == :ok
      end

      test "shuts the rest down after the timeout", context do
        {:ok, server} = start_alone(context, Busy, drain_timeout: 60_000)
        client = dial(server)
        :gen_tcp.send(client, "question")
        assert_receive {:request, handler, "question"}
        monitor = Process.monitor(handler)
        assert Reactor.stop(server, 0) == :ok
        assert_down(monitor, :shutdown)
        assert read_all(client) == ""
      end

      defmodule Stubborn do
        use Reactor

        def handle(%{listener: %{env: test}}) do
          Process.flag(:trap_exit, true)
          send(test, {:handler, self()})
          receive(do: (:never -> :ok))
        end
      end

      test "kills a handler that does not obey", context do
        {:ok, server} = start_alone(context, Stubborn, [])
        client = dial(server)
        assert_receive {:handler, handler}
        monitor = Process.monitor(handler)
        assert Reactor.stop(server, 0) == :ok
        assert_down(monitor, :killed)
        assert read_all(client) == ""
      end

      defmodule Sleeper do
        use Reactor
        def start(connection), do: GenServer.start(__MODULE__, connection)

        use GenServer

        def init(connection), do: {:ok, connection}

        def handle_info({Reactor, :ack}, connection) do
          send(connection.listener.env, {:handler, self()})
          {:noreply, connection}
        end
      end

      test "also ends handlers that start/1 returned", context do
        {:ok, server} = start_alone(context, Sleeper, [])
        _client = dial(server)
        assert_receive {:handler, handler}
        monitor = Process.monitor(handler)
        assert Reactor.stop(server, 0) == :ok
        assert_down(monitor, :shutdown)
      end

      test "frees the port", context do
        {:ok, server} = start_alone(context, Echo, [])
        port = port(server)
        assert echo(dial(server), "x") == "x"
        assert Reactor.stop(server) == :ok
        assert {:ok, again} = start_alone(context, Echo, port: port)
        assert Reactor.stop(again) == :ok
      end
    end

    describe "a reader that never reads" do
      test "is not waited for by others, and fills no memory", context do
        small = 32_768

        server =
          serve(context, Echo,
            sndbuf: small,
            recbuf: small,
            high_watermark: small,
            low_watermark: 1_024
          )

        lazy =
          dial(server, sndbuf: small, recbuf: small, high_watermark: small, send_timeout: 300)

        assert_receive {:handler, handler}
        written = write_until_blocked(lazy, :binary.copy("x", 16_384), 0)

        # The buffers of both ends, doubled by the kernel, and the queues: not what it would like to send.
        assert written < 2_000_000

        # The handler waits in its send: it has taken in no more than it can pass on.
        {:message_queue_len, queued} = Process.info(handler, :message_queue_len)
        assert queued <= 1
        {:memory, memory} = Process.info(handler, :memory)
        assert memory < 1_000_000

        other = dial(server)
        for _ <- 1..20, do: assert(echo(other, "quick") == "quick")

        # Nothing that was taken is lost.
        assert {:ok, _} = :gen_tcp.recv(lazy, written, 10_000)
      end

      defp write_until_blocked(_client, _data, written) when written > 20_000_000, do: written

      defp write_until_blocked(client, data, written) do
        case :gen_tcp.send(client, data) do
          :ok -> write_until_blocked(client, data, written + byte_size(data))
          {:error, :timeout} -> written
        end
      end
    end

    # A server that the test itself stops.
    defp start_alone(context, module, options) do
      Reactor.start(
        module,
        Keyword.merge([transport: option(context), ip: :loopback, env: self()], options)
      )
    end
  end
end
