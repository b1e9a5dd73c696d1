for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.LifeTest, isolation]) do
    use Reactor.TransportCase, async: true, transport: :Native

    @moduletag isolation: isolation

    import Reactor.Diary

    alias Reactor.{Python, Server}

    defp served(server) do
      client = dial_kept(server)
      assert echo(client, "here") == "here"
      client
    end

    defp contexts(server) do
      server |> Server.board() |> Server.whereis(:contexts) |> Python.Supervisor.contexts()
    end

    test "drain tells protocols, waits, cuts the rest, and counts them", context do
      server = serve_diary(context, contexts: 2)
      idle = for _ <- 1..3, do: served(server)
      [leaves, stays] = [served(server), served(server)]
      for client <- [leaves, stays], do: echo(client, "farewell stay")

      draining = Task.async(fn -> Reactor.drain(server, 3_000) end)
      for client <- [leaves, stays], do: assert({:ok, "going"} = :gen_tcp.recv(client, 5, 5_000))
      :ok = :gen_tcp.send(leaves, "done")
      assert Task.await(draining, 20_000) == {:ok, %{connections: 5, finished: 4, cut: 1}}

      assert read_all(leaves) == "farewell"
      for client <- [leaves, stays | idle], do: assert_diary(client, "made away lost")
      assert length(contexts(server)) == 2

      assert Reactor.resume(server) == :ok
      for _ <- 1..4, do: served(server)
    end

    test "suspend refuses clients and leaves connections; resume serves again", context do
      server = serve_diary(context, contexts: 2)
      port = port(server)
      old = served(server)
      assert Reactor.suspend(server) == :ok
      assert {:error, :econnrefused} = :gen_tcp.connect({127, 0, 0, 1}, port, [], 5_000)
      assert echo(old, "still") == "still"

      assert Reactor.resume(server) == :ok
      assert port(server) == port
      new = for _ <- 1..4, do: served(server)
      for client <- [old | new], do: assert(echo(client, "all") == "all")
      assert Reactor.info(server).connections == 5
      assert_diary(old, "made")
    end

    test "a context that dies while the server is suspended serves when it is resumed", context do
      server = serve_diary(context)
      assert Reactor.suspend(server) == :ok
      [process] = contexts(server)
      monitor = Process.monitor(process)
      Process.exit(process, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      # The supervisor answers when it has started another.
      assert [_another] = contexts(server)
      assert Reactor.resume(server) == :ok
      served(server)
    end

    describe "update" do
      test "changes the factory for new connections", context do
        server = serve_diary(context, contexts: 2)
        old = served(server)
        assert Reactor.update(server, python: "manners:Greets") == :ok
        assert Reactor.info(server).python == "manners:Greets"
        for _ <- 1..4, do: assert({:ok, "welcome"} = :gen_tcp.recv(dial(server), 7, 5_000))
        assert echo(old, "still") == "still"
      end

      test "holds for a context that is started anew", context do
        server = serve_diary(context)
        assert Reactor.update(server, python: "manners:Greets") == :ok
        [process] = contexts(server)
        monitor = Process.monitor(process)
        Process.exit(process, :kill)
        assert_receive {:DOWN, ^monitor, _, _, :killed}
        assert [_another] = contexts(server)
        assert {:ok, "welcome"} = :gen_tcp.recv(dial(server), 7, 5_000)
      end

      test "of a suspended server holds when it is resumed", context do
        server = serve_diary(context)
        assert Reactor.suspend(server) == :ok
        assert Reactor.update(server, python: "manners:Greets") == :ok
        assert Reactor.resume(server) == :ok
        assert {:ok, "welcome"} = :gen_tcp.recv(dial(server), 7, 5_000)
      end

      @tag :tmp_dir
      @tag :capture_log
      test "in which a context dies is undone in all", %{tmp_dir: tmp_dir} = context do
        server = serve_diary(context, contexts: 2, paths: [python(), tmp_dir])
        {slow, gate} = slow_module(tmp_dir)
        update = Task.async(fn -> Reactor.update(server, python: slow) end)
        [_first, last] = contexts(server)
        gate = reached(gate)
        Process.exit(last, :kill)
        open(gate)
        assert {:error, %Python.Error{message: "the context ended"}} = Task.await(update, 20_000)
        assert Reactor.info(server).python == "diary:Keeps"
        assert length(contexts(server)) == 2
        for _ <- 1..8, do: served(server)
        assert Reactor.update(server, python: "manners:Greets") == :ok
        for _ <- 1..8, do: assert({:ok, "welcome"} = :gen_tcp.recv(dial(server), 7, 5_000))
      end

      @tag :tmp_dir
      test "does not hold up a suspend", %{tmp_dir: tmp_dir} = context do
        server = serve_diary(context, paths: [python(), tmp_dir])
        {slow, gate} = slow_module(tmp_dir)
        update = Task.async(fn -> Reactor.update(server, python: slow) end)
        gate = reached(gate)
        assert Reactor.suspend(server) == :ok
        assert Task.yield(update, 0) == nil
        assert Reactor.info(server).state == :suspended
        open(gate)
        assert Task.await(update, 20_000) == :ok
        assert Reactor.info(server).state == :suspended
        assert Reactor.resume(server) == :ok
        assert read_all(dial(server)) == "slow"
      end

      test "to what is not there changes nothing, and says what is wrong", context do
        server = serve_diary(context)

        assert {:error, %Python.Error{type: "ModuleNotFoundError"}} =
                 Reactor.update(server, python: "no_such_module:Factory")

        assert Reactor.info(server).python == "diary:Keeps"
        served(server)
      end
    end

    describe "route/1" do
      defmodule Routes do
        use Reactor

        def route(connection), do: connection.listener.env

        def handle(connection), do: Reactor.Socket.send(connection, "Elixir")
      end

      test "chooses between Elixir and Python, connection by connection", context do
        server = serve(context, Routes, paths: [python()], env: {:python, "diary:Keeps"})
        client = served(server)
        assert_diary(client, "made")
        assert Reactor.info(server).connections == 1
        assert Reactor.stop(server, 5_000) == :ok
        assert read_all(client) == ""
        assert_diary(client, "made away lost")

        server = serve(context, Routes, paths: [python()], env: :elixir)
        assert read_all(dial(server)) == "Elixir"
      end
    end
  end
end
