for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Server.DrainTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    import Reactor.EventRelay

    alias Reactor.{Server, Socket}

    # Answers what it is asked when the test says so.
    defmodule Busy do
      use Reactor

      def handle(connection) do
        with {:ok, request} <- Socket.recv(connection) do
          send(connection.listener.env, {:request, request, self()})
          receive(do: (:answer -> :ok))
          Socket.send(connection, "answer to " <> request)
        end
      end
    end

    defp busy(server, request) do
      client = dial(server)
      put(client, request)
      assert_receive {:request, ^request, handler}
      {client, handler}
    end

    test "counts who finished and who was cut, and leaves the server suspended", context do
      server = serve(context, Busy)
      port = port(server)
      idle = dial(server)
      {first, handler} = busy(server, "one")
      {second, _handler} = busy(server, "two")
      assert eventually(fn -> Reactor.info(server).connections == 3 end)

      drain = Task.async(fn -> Reactor.drain(server, 60_000) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)
      send(handler, :answer)
      assert read_all(first) == "answer to one"
      assert read_all(idle) == ""
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      # The rest has no more time.
      assert {:ok, %{connections: 3, finished: 2, cut: 1}} = Reactor.drain(server, 0)
      assert {:ok, %{connections: 3, finished: 2, cut: 1}} = Task.await(drain)
      assert read_all(second) == ""

      assert %{state: :suspended, connections: 0, acceptors: 0} = Reactor.info(server)
      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])

      assert Reactor.resume(server) == :ok
      assert %{state: :running, port: ^port} = Reactor.info(server)
      {again, handler} = busy(server, "three")
      send(handler, :answer)
      assert read_all(again) == "answer to three"
    end

    test "of a server with nothing to do is over at once", context do
      server = serve(context, Busy)
      none = {:ok, %{connections: 0, finished: 0, cut: 0}}
      assert Reactor.drain(server, :infinity) == none
      assert Reactor.drain(server, :infinity) == none
      assert Reactor.resume(server) == :ok
      {client, handler} = busy(server, "hello")
      send(handler, :answer)
      assert read_all(client) == "answer to hello"
    end

    test "uses the server's timeout if none is given", context do
      server = serve(context, Busy, drain_timeout: 0)
      {client, _handler} = busy(server, "late")
      assert Reactor.drain(server) == {:ok, %{connections: 1, finished: 0, cut: 1}}
      assert read_all(client) == ""
    end

    test "also ends what a suspended server still had", context do
      server = serve(context, Busy)
      {client, handler} = busy(server, "one")
      assert Reactor.suspend(server) == :ok
      drain = Task.async(fn -> Reactor.drain(server, 60_000) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)
      send(handler, :answer)
      assert Task.await(drain) == {:ok, %{connections: 1, finished: 1, cut: 0}}
      assert read_all(client) == "answer to one"
    end

    test "is joined by who comes later, with the shorter timeout", context do
      server = serve(context, Busy)
      {_client, _handler} = busy(server, "stuck")
      first = Task.async(fn -> Reactor.drain(server, :infinity) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)
      assert Reactor.resume(server) == {:error, :draining}
      assert Reactor.suspend(server) == :ok
      counts = {:ok, %{connections: 1, finished: 0, cut: 1}}
      assert Reactor.drain(server, 0) == counts
      assert Task.await(first) == counts
    end

    test "does not hold up a stop", context do
      {:ok, server} = alone(context, Busy, drain_timeout: 50)
      {client, _handler} = busy(server, "stuck")
      drain = Task.async(fn -> Reactor.drain(server, :infinity) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)

      began = System.monotonic_time(:millisecond)
      assert Reactor.stop(server) == :ok
      assert System.monotonic_time(:millisecond) - began < 2_000
      assert Task.await(drain) == {:ok, %{connections: 1, finished: 0, cut: 1}}
      assert read_all(client) == ""
    end

    test "keeps a handler's last words", context do
      server = serve(context, Busy)
      {client, handler} = busy(server, String.duplicate("long ", 100))
      drain = Task.async(fn -> Reactor.drain(server, 60_000) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)
      send(handler, :answer)
      assert {:ok, %{finished: 1, cut: 0}} = Task.await(drain)
      assert read_all(client) =~ "answer to long long"
    end

    test "is refused by a server that is gone", context do
      {:ok, server} = alone(context, Busy, [])
      Reactor.stop(server)
      assert Reactor.drain(server) == {:error, :not_found}
      assert Reactor.drain(:nobody_has_this_name, 10) == {:error, :not_found}
    end

    test "is refused by a server that was killed after it was found", context do
      {:ok, server} = alone(context, Busy, [])
      board = Server.board(server)
      monitor = Process.monitor(server)
      Process.exit(server, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}

      for ask <- [
            &Server.Drain.drain(&1, 10),
            &Server.Control.suspend/1,
            &Server.Control.update(&1, [])
          ] do
        assert {:noproc, _} = catch_exit(ask.(board))
      end
    end

    describe "going_away" do
      # Tells of everything that it is sent.
      defmodule Told do
        use Reactor

        def handle(connection) do
          send(connection.listener.env, {:handler, self()})
          receive(do: (message -> send(connection.listener.env, {:told, message})))
        end
      end

      # The same with a process of its own.
      defmodule ToldServer do
        use Reactor
        def start(connection), do: GenServer.start(__MODULE__, connection)

        use GenServer

        def init(connection), do: {:ok, connection}

        def handle_info({Reactor, :ack}, connection) do
          send(connection.listener.env, {:handler, self()})
          {:noreply, connection}
        end

        def handle_info(message, connection) do
          send(connection.listener.env, {:told, message})
          {:stop, :normal, connection}
        end
      end

      test "is told to each handler, of either kind, once", context do
        for module <- [Told, ToldServer] do
          server = serve(context, module, going_away: true)
          clients = for _ <- 1..3, do: dial(server)
          for _ <- clients, do: assert_receive({:handler, _})
          assert {:ok, %{connections: 3, finished: 3}} = Reactor.drain(server, 5_000)
          for _ <- clients, do: assert_received({:told, {Reactor, :going_away}})
          refute_received {:told, _}
        end
      end

      # Says goodbye if it is told.
      defmodule Polite do
        use Reactor
        def start(connection), do: GenServer.start(__MODULE__, connection)

        use GenServer

        def init(connection), do: {:ok, connection}

        def handle_info({Reactor, :ack}, connection) do
          Socket.active(connection)
          send(connection.listener.env, {:handler, self()})
          {:noreply, connection}
        end

        def handle_info({Reactor, :going_away}, connection) do
          Socket.send(connection, "goodbye")
          Socket.close(connection)
          {:stop, :normal, connection}
        end

        def handle_info(_closed, connection), do: {:stop, :normal, connection}
      end

      # The loops have to hear of it; the others ask the descriptor.
      if transport == :Native do
        test "can be asked for later: an active owner has its last word", context do
          server = serve(context, Polite)
          assert Reactor.update(server, going_away: true) == :ok
          # A loop that does not know of it would be faster with some of them.
          clients = for _ <- 1..50, do: dial(server)
          for _ <- clients, do: assert_receive({:handler, _})
          assert {:ok, %{connections: 50, finished: 50}} = Reactor.drain(server, 5_000)
          for client <- clients, do: assert(read_all(client) == "goodbye")
        end
      end

      test "is told when the server stops", context do
        {:ok, server} = alone(context, Told, going_away: true, drain_timeout: 5_000)
        dial(server)
        assert_receive {:handler, _}
        assert Reactor.stop(server) == :ok
        assert_received {:told, {Reactor, :going_away}}
      end

      test "is told to nobody else", context do
        server = serve(context, Told)
        dial(server)
        assert_receive {:handler, handler}
        assert {:ok, %{cut: 1}} = Reactor.drain(server, 0)
        refute Process.alive?(handler)
        refute_received {:told, _}
      end
    end

    test "is reported", context do
      server = serve(context, Busy)
      attach(module: Busy)
      {_client, _handler} = busy(server, "stuck")
      assert {:ok, %{cut: 1}} = Reactor.drain(server, 0)
      {started, metadata} = assert_event([:reactor, :drain, :start])
      assert %{connections: 1} = started
      assert %{timeout: 0} = metadata
      {stopped, _} = assert_event([:reactor, :drain, :stop])
      assert %{connections: 1, finished: 0, cut: 1} = stopped
      assert_event([:reactor, :listener, :suspend])
      assert Reactor.resume(server) == :ok
      assert_event([:reactor, :listener, :resume])
    end

    # A server that the test itself stops.
    defp alone(context, module, options) do
      secure = if context.transport == :SSL, do: Reactor.Certificates.server(), else: false

      Reactor.start(
        module,
        [transport: option(context), ip: :loopback, env: self(), secure: secure] ++ options
      )
    end
  end
end
