for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.GoingAwayTest, isolation]) do
    use Reactor.TransportCase, async: true, transport: :Native

    @moduletag isolation: isolation

    import Reactor.{Diary, LogRelay}

    alias Reactor.{Native, Server}

    # The server stops while the test goes on.
    defp stop(server), do: Task.async(fn -> Reactor.stop(server, 60_000) end)

    defp start(context, options \\ []) do
      {:ok, server} =
        Reactor.start(
          Reactor.Diary.Keeps,
          [ip: :loopback, paths: [python()], isolation: context.isolation] ++ options
        )

      server
    end

    # A client whose protocol will say goodbye in this way.
    defp dial_for(server, farewell) do
      client = dial_kept(server)
      assert echo(client, "farewell #{farewell}") == "farewell #{farewell}"
      client
    end

    for {farewell, protocol, last} <- [
          {"none", "Keeps", ""},
          {"continue", "Keeps", ""},
          {"write_pending", "Keeps", "bye"},
          {"later", "Keeps", "bye"},
          {"close", "Keeps", "bye"},
          {"none", "KeepsAndWrites", ""},
          {"write_pending", "KeepsAndWrites", "bye"},
          {"later", "KeepsAndWrites", "bye"},
          # One that writes by itself has written what it wants to be sent.
          {"close", "KeepsAndWrites", ""}
        ] do
      test "#{protocol}: a protocol that answers #{farewell} is told once, and ends when it is idle",
           context do
        server = start(context, python: "diary:#{unquote(protocol)}")
        clients = for _ <- 1..3, do: dial_for(server, unquote(farewell))
        assert Task.await(stop(server)) == :ok

        for client <- clients do
          assert read_all(client) == unquote(last)
          assert_diary(client, "made away lost")
        end
      end
    end

    for protocol <- ["Keeps", "KeepsAndWrites"] do
      test "#{protocol}: a protocol that answers read_pending stays until it is done", context do
        server = start(context, python: "diary:#{unquote(protocol)}")
        client = dial_for(server, "stay")
        stopping = stop(server)
        assert {:ok, "going"} = :gen_tcp.recv(client, 5, 5_000)
        assert echo(client, "one more") == "one more"
        assert_diary(client, "made away")
        assert Task.yield(stopping, 0) == nil
        :ok = :gen_tcp.send(client, "done")
        assert read_all(client) in ["farewell", ""]
        assert Task.await(stopping) == :ok
        assert_diary(client, "made away lost")
      end
    end

    test "a protocol that stays is cut when the time is over", context do
      server = start(context)
      client = dial_for(server, "stay")
      assert Reactor.stop(server, 1_500) == :ok
      assert read_all(client) == "going"
      assert_diary(client, "made away lost")
    end

    test "a protocol whose answer is still to come says goodbye, and is waited for", context do
      server = start(context)
      client = dial_for(server, "write_pending")
      gate = hoard(client)
      stopping = stop(server)
      assert {:ok, "bye"} = :gen_tcp.recv(client, 3, 5_000)
      assert Task.yield(stopping, 0) == nil
      open(gate)
      assert read_all(client) == "answer"
      assert Task.await(stopping) == :ok
      assert_diary(client, "made away lost")
    end

    for protocol <- ["Keeps", "KeepsAndWrites"] do
      test "#{protocol}: a goodbye comes after what was written before", context do
        server = start(context, python: "diary:#{unquote(protocol)}")
        client = dial_for(server, "write_pending")
        :ok = :gen_tcp.send(client, "pour 8000000")
        # Its protocol has begun: the rest is on the way, or waits.
        assert {:ok, "xxxx"} = :gen_tcp.recv(client, 4, 5_000)
        stopping = stop(server)
        assert_diary(client, "made away")
        assert read_all(client) == String.duplicate("x", 7_999_996) <> "bye"
        assert Task.await(stopping) == :ok
      end
    end

    test "one that raises is closed, with a traceback in the log; the others are told", context do
      attach()
      server = start(context)
      [failing, other] = [dial_for(server, "raise"), dial_for(server, "write_pending")]
      assert Task.await(stop(server)) == :ok
      assert read_all(failing) == ""
      assert read_all(other) == "bye"
      assert {:error, text, _} = assert_logged("RuntimeError: no goodbyes")
      assert text =~ "in going_away"
      assert_diary(failing, "made away lost")
    end

    test "one that answers something else is closed, and the log says what is right", context do
      attach()
      server = start(context)
      client = dial_for(server, "dance")
      assert Task.await(stop(server)) == :ok
      assert read_all(client) == ""
      assert {:error, text, _} = assert_logged("Keeps.going_away returned 'dance'")
      assert text =~ "'read_pending'"
    end

    test "draining twice tells once", context do
      server = serve_diary(context)
      client = dial_for(server, "stay")
      %{socket: socket} = server |> Server.board() |> Server.listener()
      :ok = Native.listener_drain(socket)
      assert {:ok, "going"} = :gen_tcp.recv(client, 5, 5_000)
      :ok = Native.listener_drain(socket)
      assert echo(client, "x") == "x"
      assert_diary(client, "made away")
    end

    defmodule Routes do
      use Reactor
      def route(_connection), do: {:python, "diary:Keeps"}
    end

    test "who comes after a drain is told nothing, also where connections are routed", context do
      server = serve(context, Routes, paths: [python()], contexts: 1)
      before = dial_for(server, "write_pending")
      assert {:ok, %{finished: 1}} = Reactor.drain(server)
      assert read_all(before) == "bye"
      assert Reactor.resume(server) == :ok
      client = dial_for(server, "write_pending")
      for _ <- 1..3, do: assert(echo(client, "x") == "x")
      assert_diary(client, "made")
    end
  end
end
