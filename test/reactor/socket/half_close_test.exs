for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Socket.HalfCloseTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    # Reads to the end, and only then answers with all of it.
    defmodule Late do
      use Reactor

      def handle(connection, read \\ []) do
        case Socket.recv(connection) do
          {:ok, data} ->
            handle(connection, [read, data])

          {:error, :closed} ->
            send(connection.listener.env, {:sent, Socket.send(connection, read)})
        end
      end
    end

    test "of any other direction is not known", context do
      {connection, client} = pair(context)

      assert_raise ArgumentError, "expected :read, :write or :read_write, got: :sideways", fn ->
        Socket.shutdown(connection, :sideways)
      end

      Socket.send!(connection, "still here")
      assert take(client, 10) == {:ok, "still here"}
    end

    test "of a closed connection fails", context do
      {connection, _client} = pair(context)
      Socket.close(connection)
      assert Socket.shutdown(connection, :write) == {:error, :closed}
    end

    test "of both ends it for the peer, after what was sent", context do
      {connection, client} = pair(context)
      Socket.send!(connection, "bye")
      assert Socket.shutdown(connection) == :ok
      assert read_all(client) == "bye"
      assert Socket.recv(connection, 0, 5_000) == {:error, :closed}
    end

    test "of writing delivers everything that was sent before", context do
      {connection, client} = pair(context, sndbuf: 50_000)
      data = :crypto.strong_rand_bytes(1_000_000)

      sender =
        Task.async(fn ->
          for <<part::binary-size(50_000) <- data>>, do: :ok = Socket.send(connection, part)
          Socket.shutdown(connection, :write)
        end)

      assert read_all(client) == data
      assert Task.await(sender) == :ok
    end

    test "of writing ends sending", context do
      {connection, client} = pair(context)
      assert Socket.shutdown(connection, :write) == :ok
      assert Socket.send(connection, "more") == {:error, :closed}
      assert read_all(client) == ""
    end

    test "of reading ends a wait for data, also one that has begun", context do
      {connection, _client} = pair(context)
      test = self()

      reader =
        Task.async(fn ->
          send(test, :reading)
          Socket.recv(connection, 0, 5_000)
        end)

      assert_receive :reading
      assert Socket.shutdown(connection, :read) == :ok
      assert Task.await(reader) == {:error, :closed}
      assert Socket.recv(connection, 0, 5_000) == {:error, :closed}
    end

    # :ssl ends a connection with the first half, as server and as client.
    if transport not in [:SSL, :NativeTLS] do
      test "of writing lets reading go on, with much on its way", context do
        {connection, client} = pair(context)
        :inet.setopts(client, exit_on_close: false)
        data = :crypto.strong_rand_bytes(1_000_000)

        peer =
          Task.async(fn ->
            receive(do: (:go -> :ok))
            for <<part::binary-size(10_000) <- data>>, do: :ok = put(client, part)
            :ok = shut(client, :write)
            read_all(client)
          end)

        :ok = :gen_tcp.controlling_process(client, peer.pid)
        send(peer.pid, :go)
        assert {:ok, first} = Socket.recv(connection, 10_000)
        Socket.send!(connection, "bye")
        assert Socket.shutdown(connection, :write) == :ok
        assert {:ok, rest} = Socket.recv(connection, 990_000)
        assert first <> rest == data
        assert Socket.recv(connection) == {:error, :closed}
        assert Task.await(peer) == "bye"
      end
    end

    if transport != :SSL do
      test "of reading leaves sending as it was", context do
        {connection, client} = pair(context)
        put(client, "come")
        assert Socket.recv(connection, 4) == {:ok, "come"}
        assert Socket.shutdown(connection, :read) == :ok
        data = :crypto.strong_rand_bytes(1_000_000)

        sender =
          Task.async(fn ->
            for <<part::binary-size(50_000) <- data>>, do: :ok = Socket.send(connection, part)
            Socket.close(connection)
          end)

        assert read_all(client) == data
        assert Task.await(sender) == :ok
      end
    end

    # gen_tcp closes with the end of the stream what it has not been told to leave open.
    if transport == :Native do
      test "by the peer leaves the way back open", context do
        server = serve(context, Late)
        data = :crypto.strong_rand_bytes(300_000)

        for _ <- 1..10 do
          client = dial(server)
          :inet.setopts(client, exit_on_close: false)
          :ok = put(client, data)
          :ok = shut(client, :write)
          assert read_all(client) == data
          assert_receive {:sent, :ok}
        end
      end
    end

    test "by the peer comes after all its data", context do
      {connection, client} = pair(context)
      data = :crypto.strong_rand_bytes(300_000)

      sender =
        Task.async(fn -> receive(do: (:go -> {put(client, data), shut(client, :write)})) end)

      :ok = give(client, sender.pid)
      send(sender.pid, :go)
      assert Socket.recv(connection, 300_000) == {:ok, data}
      assert Socket.recv(connection) == {:error, :closed}
      Task.await(sender)
    end
  end
end
