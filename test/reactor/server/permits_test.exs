# Transports that do not count their connections themselves.
for transport <- Reactor.TransportCase.all_transports() -- [:Native] do
  defmodule Module.concat(Reactor.Server.PermitsTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    import Reactor.EventRelay

    alias Reactor.Socket

    # Counts itself, and the most that there ever were, in `env`.
    defmodule Counted do
      use Reactor

      @open 1
      @most 2

      def handle(%{listener: %{env: {counter, _}}} = connection) do
        note(counter, :atomics.add_get(counter, @open, 1))
        Socket.send(connection, "in")
        serve(connection)
        :atomics.sub(counter, @open, 1)
      end

      defp serve(connection) do
        with {:ok, data} <- Socket.recv(connection) do
          if data == "crash", do: leave(connection)
          Socket.send(connection, data)
          serve(connection)
        end
      end

      # Its count would otherwise stay.
      defp leave(%{listener: %{env: {counter, _}}}) do
        :atomics.sub(counter, @open, 1)
        Process.exit(self(), :kill)
      end

      defp note(counter, n) do
        most = :atomics.get(counter, @most)

        if n > most and :atomics.compare_exchange(counter, @most, most, n) != :ok do
          note(counter, n)
        end
      end

      def most(counter), do: :atomics.get(counter, @most)
    end

    setup context do
      counter = :atomics.new(2, [])

      start = fn options ->
        serve(context, Counted, [env: {counter, self()}, drain_timeout: 100] ++ options)
      end

      %{counter: counter, start: start}
    end

    defp admitted(server) do
      client = dial(server)
      assert take(client, 2) == {:ok, "in"}
      client
    end

    # It is in the backlog, or accepted and not served.
    defp waits?(client), do: take(client, 0, 50) == {:error, :timeout}

    # Closed without having been served. Newer releases of OTP say so by an alert of TLS.
    defp refused?(client) do
      case read_all(client) do
        "" -> true
        <<21, _alert::binary>> -> true
        _served -> false
      end
    end

    # With TLS a client that waits has not even its handshake.
    defp plain(server) do
      {:ok, client} =
        :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false], 5_000)

      client
    end

    test "with :wait the limit is never exceeded, and all are served in the end", context do
      %{start: start, counter: counter} = context
      server = start.(max_connections: 5, acceptors: 20)

      1..60
      |> Enum.map(fn n ->
        Task.async(fn ->
          client = admitted(server)
          assert echo(client, "hello #{n}") == "hello #{n}"
          assert Reactor.info(server).connections in 1..5
          # The first ones stay until there are as many as there may be.
          assert eventually(fn -> Counted.most(counter) >= 5 end)
          hang_up(client)
        end)
      end)
      |> Task.await_many(20_000)

      assert Counted.most(counter) == 5
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      assert %{accepted: 60, rejected: 0} = Reactor.info(server)
    end

    test "with :reject those beyond it are closed at once, and counted", context do
      %{start: start, counter: counter} = context
      server = start.(max_connections: 3, overload: :reject)
      clients = for _ <- 1..3, do: admitted(server)
      for _ <- 1..10, do: assert(refused?(plain(server)))
      assert %{connections: 3, rejected: 10, accepted: 3} = Reactor.info(server)

      clients |> hd() |> hang_up()
      assert eventually(fn -> Reactor.info(server).connections == 2 end)
      admitted(server)
      assert refused?(plain(server))
      assert Counted.most(counter) == 3
    end

    test "handlers that crash give their place back", context do
      server = context.start.(max_connections: 2, acceptors: 4)

      for _ <- 1..10 do
        client = admitted(server)
        put(client, "crash")
        assert refused?(client)
      end

      for _ <- 1..2, do: admitted(server)
      assert waits?(plain(server))
    end

    defmodule HandsOver do
      use Reactor
      def start(connection), do: GenServer.start(__MODULE__, connection)

      use GenServer

      def init(connection), do: {:ok, connection}

      def handle_info({Reactor, :ack}, connection) do
        Socket.send(connection, "in")
        Socket.active(connection)
        {:noreply, connection}
      end

      # The end of the stream, under either name.
      def handle_info(_closed, connection), do: {:stop, :normal, connection}
    end

    test "a process that start/1 returned holds the place", context do
      server = serve(context, HandsOver, max_connections: 1)

      for _ <- 1..3 do
        client = admitted(server)
        waiting = plain(server)
        assert waits?(waiting)
        :gen_tcp.close(waiting)
        hang_up(client)
      end

      assert eventually(fn -> Reactor.info(server).connections == 0 end)
    end

    test "a limit can be set, lowered, raised and lifted while the server runs", context do
      server = context.start.(acceptors: 10)
      first = for _ <- 1..3, do: admitted(server)

      # Acceptors wait without a place, and those that there are count.
      assert Reactor.update(server, max_connections: 4) == :ok
      fourth = admitted(server)
      fifth = plain(server)
      assert waits?(fifth)
      :gen_tcp.close(fifth)
      assert Reactor.info(server).connections == 4

      assert Reactor.update(server, max_connections: 2, overload: :reject) == :ok
      assert refused?(plain(server))
      for client <- [fourth | first], do: assert(echo(client, "still") == "still")
      Enum.each(first, &hang_up/1)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      admitted(server)
      assert refused?(plain(server))

      assert Reactor.update(server, max_connections: 3, overload: :wait) == :ok
      admitted(server)
      waiting = plain(server)
      assert waits?(waiting)

      assert Reactor.update(server, max_connections: :infinity) == :ok
      for _ <- 1..20, do: admitted(server)
      assert eventually(fn -> Reactor.info(server).connections in [23, 24] end)
    end

    test "those who wait for a place do not keep a server from closing", context do
      server = context.start.(max_connections: 1, acceptors: 10)
      client = admitted(server)
      assert Reactor.suspend(server) == :ok
      assert eventually(fn -> Reactor.info(server).acceptors == 0 end)
      assert echo(client, "x") == "x"
      assert Reactor.resume(server) == :ok
      assert eventually(fn -> Reactor.info(server).acceptors == 10 end)
      assert {:ok, %{connections: 1}} = Reactor.drain(server, 0)
      assert Reactor.resume(server) == :ok
      assert echo(admitted(server), "y") == "y"
      assert waits?(plain(server))
    end

    test "a partition that fails loses no place", context do
      server = context.start.(max_connections: 2)
      clients = for _ <- 1..2, do: admitted(server)
      board = Reactor.Server.board(server)

      for partition <- Reactor.Server.partitions(board) do
        monitor = Process.monitor(partition)
        Process.exit(partition, :kill)
        assert_down(monitor, :killed)

        assert eventually(fn ->
                 length(Reactor.Server.partitions(board)) == System.schedulers_online()
               end)
      end

      for client <- clients, do: assert(refused?(client))
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      for _ <- 1..2, do: admitted(server)
      assert waits?(plain(server))
    end

    test "is told once while it lasts", context do
      server = context.start.(max_connections: 1, overload: :reject)
      attach(module: Counted, port: port(server))
      client = admitted(server)
      for _ <- 1..5, do: assert(refused?(plain(server)))
      {_measurements, metadata} = assert_event([:reactor, :listener, :saturated])
      assert %{reason: :max_connections, limit: 1} = metadata
      {_measurements, metadata} = assert_event([:reactor, :connection, :rejected])
      assert %{reason: :max_connections} = metadata
      assert echo(client, "x") == "x"
      refute_received {[:reactor, :listener, :saturated], _, _}
    end
  end
end
