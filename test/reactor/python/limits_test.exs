for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.LimitsTest, isolation]) do
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.Diary

    alias Reactor.{Native, Server}

    defp listening_socket(server), do: Server.listener(Server.board(server)).socket

    # A client that was accepted.
    defp served(server) do
      client = dial_kept(server)
      assert echo(client, "here") == "here"
      client
    end

    describe "max_connections" do
      test "lets the next one in when one goes", context do
        server = serve_diary(context, max_connections: 2)
        [first, second] = [served(server), served(server)]
        third = dial(server)
        :ok = :gen_tcp.send(third, "at last")
        assert echo(second, "me") == "me"
        assert Reactor.info(server).connections == 2
        :gen_tcp.close(first)
        assert {:ok, "at last"} = :gen_tcp.recv(third, 7, 5_000)
      end

      test "is kept by all contexts together, and all are served in the end", context do
        _forgotten = peak()
        server = serve_diary(context, max_connections: 3, contexts: 2)

        1..30
        |> Enum.map(fn _ ->
          Task.async(fn ->
            client = dial(server)
            assert echo(client, "x") == "x"
            :gen_tcp.close(client)
          end)
        end)
        |> Task.await_many(30_000)

        assert peak() in 1..3
      end

      test "turns others away with overload: :reject", context do
        server = serve_diary(context, max_connections: 2, overload: :reject)
        [first, second] = [served(server), served(server)]
        assert turned_away?(dial(server))
        assert echo(first, "a") == "a"
        assert echo(second, "b") == "b"
        :gen_tcp.close(first)
        assert eventually(fn -> Reactor.info(server).connections == 1 end)
        assert echo(dial(server), "c") == "c"
      end
    end

    test "max_connections_per_ip turns away who has as many", context do
      server = serve_diary(context, max_connections_per_ip: 1)
      first = served(server)
      assert turned_away?(dial(server))
      other = dial(server, ip: {127, 0, 0, 2})
      assert echo(other, "from elsewhere") == "from elsewhere"
      assert echo(first, "still") == "still"
    end

    test "accept_rate spaces connections out", context do
      server = serve_diary(context, accept_rate: 20)
      begun = System.monotonic_time(:millisecond)
      for _ <- 1..10, do: served(server)
      # Two at once, then one every 50 ms.
      assert System.monotonic_time(:millisecond) - begun >= 300
    end

    describe "a deadline cuts a connection, whose protocol is told once:" do
      # In ms: longer than a machine stops for, since others are not to be cut.
      @deadline 600

      # Another connection, and new ones, go on.
      defp cut(server, victim, other) do
        talking = Task.async(fn -> talk(other) end)
        read_until_end(victim)
        assert_diary(victim, "made lost")
        send(talking.pid, :enough)
        assert Task.await(talking) == :ok
        assert echo(served(server), "and new ones") == "and new ones"
      end

      defp talk(client) do
        assert echo(client, :binary.copy("word", 1_000)) =~ "word"

        receive do
          :enough -> :ok
        after
          0 -> talk(client)
        end
      end

      # A cut connection may be reset.
      defp read_until_end(client) do
        case :gen_tcp.recv(client, 0, 10_000) do
          {:ok, _} -> read_until_end(client)
          {:error, reason} -> assert reason in [:closed, :econnreset]
        end
      end

      test "first_byte_timeout", context do
        server = serve_diary(context, first_byte_timeout: @deadline)
        cut(server, dial_kept(server), served(server))
      end

      test "idle_timeout", context do
        server = serve_diary(context, idle_timeout: @deadline)
        victim = served(server)
        cut(server, victim, served(server))
      end

      for protocol <- ["Keeps", "KeepsAndWrites"] do
        test "stall_timeout, of #{protocol}", context do
          server =
            serve_diary(context, stall_timeout: @deadline, python: "diary:" <> unquote(protocol))

          victim = served(server)
          # It does not read: what the protocol writes cannot go.
          :ok = :gen_tcp.send(victim, "pour 50000000")
          other = served(server)
          assert_diary(victim, "made lost")
          cut(server, victim, other)
        end
      end

      test "max_lifetime, whatever it does", context do
        server = serve_diary(context, max_lifetime: @deadline)
        victim = served(server)
        talking = Task.async(fn -> talk_until_end(victim) end)
        assert Task.await(talking) == :ok
        assert_diary(victim, "made lost")
        assert echo(served(server), "and new ones") == "and new ones"
      end

      defp talk_until_end(client) do
        with :ok <- :gen_tcp.send(client, "word"),
             {:ok, _} <- :gen_tcp.recv(client, 0, 5_000) do
          talk_until_end(client)
        else
          {:error, reason} when reason in [:closed, :econnreset, :epipe] -> :ok
        end
      end

      test "min_rate", context do
        server = serve_diary(context, min_rate: {1_000, @deadline})
        victim = served(server)
        cut(server, victim, served(server))
      end

      test "but not while the protocol is at work", context do
        server = serve_diary(context, idle_timeout: @deadline, first_byte_timeout: @deadline)
        waiting = served(server)
        gate = hoard(waiting)
        idle = served(server)
        # This one came later and waits for its peer: when it is cut, the first could have been.
        read_until_end(idle)
        assert_diary(waiting, "made")
        open(gate)
        assert {:ok, "answer"} = :gen_tcp.recv(waiting, 6, 5_000)
        # Now it waits for its peer too.
        read_until_end(waiting)
        assert_diary(waiting, "made lost")
      end
    end

    test "a cut ends every connection, whatever it waits for, and tells each protocol once",
         context do
      server = serve_diary(context, contexts: 2)
      idle = for _ <- 1..4, do: served(server)
      working = served(server)
      _closed = hoard(working)
      pouring = served(server)
      :ok = :gen_tcp.send(pouring, "pour 50000000")
      assert {:ok, "xxxx"} = :gen_tcp.recv(pouring, 4, 5_000)
      assert Native.listener_cut(listening_socket(server)) == 6

      for client <- [working, pouring | idle] do
        read_until_end(client)
        assert_diary(client, "made lost")
      end

      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      assert echo(served(server), "and new ones") == "and new ones"
    end

    # Closed at once; perhaps with a reset, when it had sent something.
    defp turned_away?(client) do
      match?(
        {:error, reason} when reason in [:closed, :econnreset],
        :gen_tcp.recv(client, 0, 5_000)
      )
    end
  end
end
