for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Server.ControlTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    import Reactor.EventRelay

    alias Reactor.{ConfigError, Socket}

    # Says which one it is before it echoes.
    defmodule Old do
      use Reactor

      def handle(connection) do
        Socket.send(connection, "old")
        echo(connection)
      end

      def echo(connection) do
        with {:ok, data} <- Socket.recv(connection) do
          Socket.send(connection, data)
          echo(connection)
        end
      end
    end

    defmodule New do
      use Reactor

      def handle(connection) do
        Socket.send(connection, "new")
        Old.echo(connection)
      end
    end

    defp greeted(server, greeting) do
      client = dial(server)
      assert take(client, 3) == {:ok, greeting}
      client
    end

    describe "suspend and resume" do
      test "refuse clients, keep connections, and accept again on the same port", context do
        server = serve(context, Old)
        port = port(server)
        client = greeted(server, "old")

        for _ <- 1..3 do
          assert Reactor.suspend(server) == :ok
          assert Reactor.suspend(server) == :ok
          assert %{state: :suspended, connections: 1} = Reactor.info(server)
          assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
          assert eventually(fn -> Reactor.info(server).acceptors == 0 end)
          assert echo(client, "still here") == "still here"

          assert Reactor.resume(server) == :ok
          assert Reactor.resume(server) == :ok
          assert %{state: :running, port: ^port} = Reactor.info(server)
          assert echo(client, "and here") == "and here"
          assert eventually(fn -> Reactor.info(server).acceptors == 100 end)
          hang_up(greeted(server, "old"))
          assert eventually(fn -> Reactor.info(server).connections == 1 end)
        end

        assert %{accepted: 4} = Reactor.info(server)
      end

      test "with one acceptor", context do
        server = serve(context, Old, acceptors: 1)

        for _ <- 1..20 do
          assert Reactor.suspend(server) == :ok
          assert Reactor.resume(server) == :ok
        end

        assert eventually(fn -> Reactor.info(server).acceptors == 1 end)
        assert echo(greeted(server, "old"), "x") == "x"
      end

      test "do not forget acceptors that an update has just made too many", context do
        server = serve(context, Old)

        for _ <- 1..10 do
          assert Reactor.update(server, acceptors: 10) == :ok
          assert Reactor.suspend(server) == :ok
          assert Reactor.resume(server) == :ok
          assert eventually(fn -> Reactor.info(server).acceptors == 10 end)
          assert Reactor.update(server, acceptors: 50) == :ok
          assert eventually(fn -> Reactor.info(server).acceptors == 50 end)
        end

        # It is not on its way up or down.
        Process.sleep(100)
        assert Reactor.info(server).acceptors == 50
      end

      # Goes on when it is told to.
      defmodule Held do
        use Reactor

        def accept(listener) do
          {:links, [supervisor]} = Process.info(self(), :links)
          send(listener.env, {:held, self(), supervisor})

          receive do
            :go -> Reactor.Connection.accept(listener)
          end
        end

        def handle(connection), do: Old.echo(connection)
      end

      defp held(n) do
        for _ <- 1..n do
          assert_receive {:held, acceptor, supervisor}
          {supervisor, acceptor}
        end
      end

      defp await_waiting(server, n) do
        %{socket: socket} = Reactor.listener(server)
        assert eventually(fn -> Reactor.Native.listener_info(socket).waiting == n end)
      end

      defp release(acceptors), do: for({_, acceptor} <- acceptors, do: send(acceptor, :go))

      # Those of one supervisor wait in the loop, where they can be told to end; the others do not.
      test "leave as many acceptors as there are to be, wherever they are", context do
        server = serve(context, Held, acceptors: 40)
        [{first, _} | _] = acceptors = held(40)
        {here, elsewhere} = Enum.split_with(acceptors, &match?({^first, _}, &1))
        release(here)
        if is_reference(Reactor.listener(server).socket), do: await_waiting(server, length(here))

        assert Reactor.update(server, acceptors: 10) == :ok
        assert Reactor.suspend(server) == :ok
        assert Reactor.resume(server) == :ok
        release(elsewhere)
        # As many as have ended without being replaced are not to be had again.
        assert eventually(fn -> Reactor.info(server).acceptors == 10 end)
        release(held(10))
        assert echo(dial(server), "x") == "x"
      end

      # Reads before it is started.
      defmodule Negotiates do
        use Reactor

        def accept(listener) do
          with {:ok, connection} <- Reactor.Connection.accept(listener),
               send(listener.env, :negotiates),
               {:ok, "hello"} <- Socket.recv(connection, 5) do
            {:ok, connection}
          end
        end

        def handle(connection), do: Socket.send(connection, "agreed")
      end

      # With TLS there is no reading before the handshake, which comes later.
      if transport != :SSL do
        test "let an accept/1 finish that is in the middle of something", context do
          server = serve(context, Negotiates, acceptors: 2)
          client = dial(server)
          assert_receive :negotiates
          assert Reactor.suspend(server) == :ok
          Process.sleep(300)
          put(client, "hello")
          assert read_all(client) == "agreed"
        end
      end

      test "fail if somebody else has the port by then", context do
        server = serve(context, Old)
        port = port(server)
        Reactor.suspend(server)
        {:ok, thief} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, reuseaddr: true)
        assert Reactor.resume(server) == {:error, :eaddrinuse}
        assert Reactor.info(server).state == :suspended
        :gen_tcp.close(thief)
        assert Reactor.resume(server) == :ok
        greeted(server, "old")
      end

      test "exit for a server that does not run" do
        for ask <- [
              &Reactor.suspend/1,
              &Reactor.resume/1,
              &Reactor.update(&1, []),
              &Reactor.info/1
            ] do
          assert catch_exit(ask.(:nobody_has_this_name))
        end
      end

      test "are reported", context do
        server = serve(context, Old)
        attach(module: Old, port: port(server))
        Reactor.suspend(server)
        assert_event([:reactor, :listener, :suspend])
        Reactor.resume(server)
        assert_event([:reactor, :listener, :resume])
      end
    end

    describe "update of the module" do
      test "is for the next connection already; those in progress keep the old one", context do
        server = serve(context, Old, acceptors: 5)
        client = greeted(server, "old")

        assert Reactor.update(server, module: New) == :ok
        # More than acceptors that waited with the old one.
        for _ <- 1..10, do: greeted(server, "new")
        assert echo(client, "as before") == "as before"
        assert Reactor.info(server).module == New

        assert Reactor.update(server, module: Old) == :ok
        for _ <- 1..10, do: greeted(server, "old")
      end

      test "names what is wrong, and changes nothing", context do
        server = serve(context, Old)

        assert {:error, %ConfigError{option: :module}} =
                 Reactor.update(server, acceptors: 3, module: Enum)

        assert {:error, %ConfigError{option: :port}} =
                 Reactor.update(server, acceptors: 3, port: 1)

        assert %{module: Old, acceptors: 100} = Reactor.info(server)
      end
    end

    describe "update of the acceptors" do
      test "upwards", context do
        server = serve(context, Old, acceptors: 1)
        assert Reactor.update(server, acceptors: 33) == :ok
        assert eventually(fn -> Reactor.info(server).acceptors == 33 end)
        clients = for _ <- 1..40, do: greeted(server, "old")
        for client <- clients, do: assert(echo(client, "x") == "x")
        assert %{acceptors: 33, connections: 40} = Reactor.info(server)
      end

      # Others wait in a call that nothing but a connection ends.
      test "downwards, at once or as connections come", %{transport: transport} = context do
        server = serve(context, Old, acceptors: 20)
        assert eventually(fn -> Reactor.info(server).acceptors == 20 end)
        assert Reactor.update(server, acceptors: 3) == :ok

        assert eventually(fn ->
                 if transport != :Native, do: greeted(server, "old")
                 Reactor.info(server).acceptors == 3
               end)

        for _ <- 1..10, do: greeted(server, "old")
        # Those that have accepted may not have been replaced yet.
        assert eventually(fn -> Reactor.info(server).acceptors == 3 end)
      end

      test "up and down in any order ends with the last", context do
        server = serve(context, Old, acceptors: 10)
        for n <- [50, 2, 7, 1, 30, 4, 12], do: :ok = Reactor.update(server, acceptors: n)
        for _ <- 1..60, do: greeted(server, "old")
        assert eventually(fn -> Reactor.info(server).acceptors == 12 end)
        for n <- [2, 9], do: :ok = Reactor.update(server, acceptors: n)
        Reactor.suspend(server)
        Reactor.resume(server)
        assert eventually(fn -> Reactor.info(server).acceptors == 9 end)
      end
    end

    describe "update of options" do
      test "is for connections from then on", context do
        server = serve(context, Old, packet: :raw)
        raw = greeted(server, "old")
        assert Reactor.update(server, packet: :line, keepalive: true) == :ok
        assert %{packet: :line, keepalive: true} = Reactor.info(server).options

        line = dial(server)
        assert take(line, 3) == {:ok, "old"}
        put(line, "not yet a line")
        assert echo(raw, "anything") == "anything"
        put(line, "\n")
        assert take(line, 15) == {:ok, "not yet a line\n"}
      end

      test "holds after a suspension too", context do
        server = serve(context, Old)
        Reactor.suspend(server)
        assert Reactor.update(server, packet: :line, module: New) == :ok
        Reactor.resume(server)
        client = greeted(server, "new")
        put(client, "half")
        assert take(client, 0, 50) == {:error, :timeout}
        put(client, "\n")
        assert take(client, 5) == {:ok, "half\n"}
      end

      test "of the limits", context do
        server = serve(context, Old)
        clients = for _ <- 1..2, do: greeted(server, "old")
        assert Reactor.update(server, max_connections: 2, overload: :reject) == :ok
        {:ok, refused} = :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false])
        # Newer releases of OTP send an alert of TLS first.
        assert match?("", read_all(refused)) or context.transport == :SSL
        for client <- clients, do: assert(echo(client, "x") == "x")
        assert %{max_connections: 2, connections: 2, rejected: 1} = Reactor.info(server)
        assert Reactor.update(server, max_connections: :infinity) == :ok
        greeted(server, "old")
      end

      test "of the drain's timeout", context do
        server = serve(context, Old)
        assert Reactor.update(server, drain_timeout: 7, going_away: true) == :ok
        assert %{drain_timeout: 7, going_away: true} = Reactor.info(server)
      end

      defmodule Tells do
        def update(_socket, %{env: test, going_away: going_away}) do
          send(test, {:going_away, going_away})
          :ok
        end

        defdelegate close_listener(socket), to: Reactor.Transport.Native

        # Acceptors that come while it counts: one that failed would leave its socket in the log's heap.
        defdelegate accept(socket), to: Reactor.Transport.Native
        defdelegate address(socket), to: Reactor.Transport.Native
      end

      if transport == :Native do
        test "of what handlers are told is told to the transport", context do
          server = serve(context, Old)
          board = Reactor.Server.board(server)
          listener = Reactor.Server.listener(board)
          Reactor.Server.put_listener(board, %{listener | transport: Tells})
          assert Reactor.update(server, going_away: true) == :ok
          assert_received {:going_away, true}
          Reactor.Server.put_listener(board, listener)
        end
      end
    end

    describe "connections" do
      test "says who is connected, since when, and how much", context do
        server = serve(context, Old)
        assert Reactor.connections(server) == []
        client = greeted(server, "old")
        assert echo(client, "12345") == "12345"
        {:ok, address} = own_address(client)

        assert [connection] = Reactor.connections(server)
        assert %{remote: ^address, owner: owner, state: :open, queued: 0} = connection
        assert is_integer(connection.id) and Process.alive?(owner)
        assert DateTime.diff(DateTime.utc_now(), connection.since) in 0..60
        assert connection.received >= 5 and connection.sent >= 8

        hang_up(client)
        assert eventually(fn -> Reactor.connections(server) == [] end)
      end
    end

    describe "info" do
      test "counts", %{transport: transport} = context do
        server = serve(context, Old)
        for _ <- 1..3, do: server |> greeted("old") |> hang_up()
        client = greeted(server, "old")
        assert eventually(fn -> Reactor.info(server).connections == 1 end)
        assert %{accepted: 4, rejected: 0, state: :running} = info = Reactor.info(server)
        assert info.max_connections == :infinity and info.overload == :wait

        case transport do
          :Native ->
            assert %{sent: 12, received: 0} = info
            echo(client, "12345")
            assert %{sent: 17, received: 5} = Reactor.info(server)

          # Those of the wire.
          :NativeTLS ->
            echo(client, "12345")
            now = Reactor.info(server)
            assert now.sent > info.sent + 5 and now.received > info.received + 5

          _other ->
            assert %{sent: nil, received: nil} = info
        end
      end
    end
  end
end
