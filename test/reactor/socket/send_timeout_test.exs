for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Socket.SendTimeoutTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    test "a send to a peer that does not read gives up", context do
      {connection, client} = pair(context, sndbuf: 10_000, send_timeout: 30)
      before = System.monotonic_time(:millisecond)
      assert fill(connection) == :ok
      assert System.monotonic_time(:millisecond) - before >= 30
      hang_up(client)
    end

    test "it is an option of a connection", context do
      {connection, client} = pair(context, sndbuf: 10_000)
      assert {:ok, %{send_timeout: :infinity}} = Socket.options(connection)
      assert Socket.options(connection, send_timeout: 30) == :ok
      assert {:ok, %{send_timeout: 30, send_timeout_close: false}} = Socket.options(connection)
      assert fill(connection) == :ok
      hang_up(client)
    end

    # With :ssl it is never usable again.
    if transport != :SSL do
      test "the connection goes on when the peer does", context do
        {connection, client} = pair(context, sndbuf: 10_000, send_timeout: 30)
        assert fill(connection) == :ok
        # Nobody else's answer is taken for its own.
        assert Process.info(self(), :messages) == {:messages, []}
        reader = Task.async(fn -> receive(do: (:go -> byte_size(read_all(client)))) end)
        :ok = give(client, reader.pid)
        send(reader.pid, :go)
        assert eventually(fn -> Socket.send(connection, "more") == :ok end)
        Socket.close(connection)
        assert Task.await(reader) > 100_000
      end
    end

    test "with send_timeout_close the connection is closed", context do
      {connection, client} =
        pair(context, sndbuf: 10_000, send_timeout: 30, send_timeout_close: true)

      assert fill(connection) == :ok
      assert Socket.send(connection, "more") == {:error, :closed}
      hang_up(client)
    end

    test "nothing times out while the peer reads", context do
      {connection, client} = pair(context, sndbuf: 30_000, send_timeout: 2_000)
      data = :crypto.strong_rand_bytes(600_000)
      reader = Task.async(fn -> receive(do: (:go -> read_all(client))) end)
      :ok = give(client, reader.pid)
      send(reader.pid, :go)
      for <<part::binary-size(100_000) <- data>>, do: assert(Socket.send(connection, part) == :ok)
      Socket.close(connection)
      assert Task.await(reader) == data
    end

    if transport in [:Native, :NativeTLS] do
      # Timeout and answer meet: whichever is first, none is lost and none is left over.
      test "an answer that comes with the timeout is not left behind", context do
        {connection, client} =
          pair(context, sndbuf: 5_000, send_timeout: 1, high_watermark: 2, low_watermark: 1)

        reader = Task.async(fn -> receive(do: (:go -> byte_size(read_all(client)))) end)
        :ok = give(client, reader.pid)
        send(reader.pid, :go)
        results = for _ <- 1..3_000, do: Socket.send(connection, :binary.copy("x", 5_000))
        assert Enum.uniq(results) -- [:ok, {:error, :timeout}] == []
        assert Process.info(self(), :messages) == {:messages, []}
        Socket.close(connection)
        assert Task.await(reader) > 0
      end
    end
  end
end
