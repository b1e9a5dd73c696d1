defmodule Reactor.Socket.DeadlinesTest do
  # What each deadline does; what they do to thousands of slow clients is in slow_clients_test.exs.
  use Reactor.TransportCase, transport: :Native, async: true

  alias Reactor.Socket

  # Long enough for a machine at work, in ms.
  @long 60_000
  @short 40

  defp since(start), do: System.monotonic_time(:millisecond) - start
  defp now, do: System.monotonic_time(:millisecond)

  # Of a connection that was cut nothing is left.
  defp assert_cut(connection, client) do
    assert Socket.recv(connection, 0, 1_000) == {:error, :closed}
    assert Socket.send(connection, "x") == {:error, :closed}
    assert_cut_off(client)
  end

  defp assert_cut_off(client) do
    assert {:error, reason} = :gen_tcp.recv(client, 0, 5_000)
    assert reason in [:closed, :econnreset]
  end

  describe "first_byte_timeout" do
    test "cuts a connection that says nothing", context do
      start = now()
      {connection, client} = pair(context, first_byte_timeout: @short)
      assert Socket.recv(connection, 0, @long) == {:error, :timeout}
      assert since(start) >= @short
      assert_cut(connection, client)
    end

    test "is over with the first byte", context do
      {connection, client} = pair(context, first_byte_timeout: @short)
      put(client, "x")
      assert Socket.recv(connection) == {:ok, "x"}
      # Its own timeout, and the connection is as good as before.
      assert Socket.recv(connection, 0, 3 * @short) == {:error, :timeout}
      put(client, "y")
      assert Socket.recv(connection) == {:ok, "y"}
    end

    test "is not for a server that does not read", context do
      {connection, client} = pair(context, first_byte_timeout: @short)
      refute_receive _, 3 * @short
      Socket.send!(connection, "welcome")
      assert take(client, 7) == {:ok, "welcome"}
    end
  end

  describe "idle_timeout" do
    test "cuts a connection that falls silent while it is read", context do
      {connection, client} = pair(context, idle_timeout: @short)
      put(client, "x")
      assert Socket.recv(connection) == {:ok, "x"}
      start = now()
      assert Socket.recv(connection, 0, @long) == {:error, :timeout}
      assert since(start) >= @short - 1
      assert_cut(connection, client)
    end

    test "tells an active owner", context do
      {%{socket: socket} = connection, client} = pair(context, idle_timeout: @short)
      Socket.active!(connection)
      assert_receive {:tcp_error, ^socket, :timeout}
      assert_receive {:tcp_closed, ^socket}
      assert_cut(connection, client)
    end

    test "begins anew with everything that comes", context do
      {connection, client} = pair(context, idle_timeout: 10 * @short)
      start = now()
      reader = Task.async(fn -> Socket.recv(connection, 15, @long) end)

      for i <- 1..15 do
        refute_receive _, @short
        put(client, <<i>>)
      end

      assert Task.await(reader) == {:ok, <<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>>}
      assert since(start) >= 15 * @short
    end

    test "does not run while the server is at work", context do
      {connection, client} = pair(context, idle_timeout: @short)
      put(client, "x")
      assert Socket.recv(connection) == {:ok, "x"}
      refute_receive _, 3 * @short
      Socket.send!(connection, "done")
      assert take(client, 4) == {:ok, "done"}
    end

    test "can be set on a connection that is waited for", context do
      {connection, client} = pair(context)
      reader = Task.async(fn -> Socket.recv(connection, 0, @long) end)
      assert eventually(fn -> Process.info(reader.pid, :status) == {:status, :waiting} end)
      assert Socket.options(connection, idle_timeout: @short) == :ok
      assert Task.await(reader) == {:error, :timeout}
      assert_cut(connection, client)
    end

    test "is for connections that were dialed, too", context do
      server = serve(context, Reactor.TransportCase.Lend)
      {:ok, connection} = Reactor.connect("127.0.0.1", port(server), idle_timeout: @short)
      assert Socket.recv(connection, 0, @long) == {:error, :timeout}
      assert Socket.recv(connection, 0, @long) == {:error, :closed}
    end
  end

  describe "stall_timeout" do
    test "cuts a connection whose peer takes nothing", context do
      {connection, client} = pair(context, stall_timeout: @short, sndbuf: 10_000)
      assert fill(connection) == :ok
      assert Socket.send(connection, "x") == {:error, :closed}
      # What was in the kernel may still come, and then the end.
      assert {:error, _} = drained(client)
    end

    test "does not cut one that is slow, but takes something", context do
      options = [stall_timeout: 10 * @short, sndbuf: 10_000, high_watermark: 1_000_000]
      # A small buffer, or its kernel would open the window in steps that take as long.
      client = context |> serve(Reactor.TransportCase.Lend, options) |> dial(recbuf: 5_000)
      assert_receive {:lent, connection}
      data = :binary.copy("x", 120_000)
      assert Socket.send(connection, data) == :ok
      start = now()
      assert slowly(client, 0, byte_size(data)) == byte_size(data)
      assert since(start) > 10 * @short
      assert {:ok, %{queued: 0}} = Socket.statistics(connection)
    end
  end

  describe "max_lifetime" do
    test "cuts a connection however busy it is", context do
      start = now()
      {connection, client} = pair(context, max_lifetime: 3 * @short)

      talk = fn talk ->
        with :ok <- put(client, "x"),
             {:ok, "x"} <- Socket.recv(connection, 1, @long),
             :ok <- Socket.send(connection, "x"),
             {:ok, "x"} <- take(client, 1) do
          talk.(talk)
        end
      end

      assert {:error, _} = talk.(talk)
      assert since(start) >= 3 * @short
      assert_cut(connection, client)
    end

    test "cuts one that nobody reads", context do
      {connection, client} = pair(context, max_lifetime: @short)
      assert_cut_off(client)
      assert Socket.recv(connection, 0, 1_000) == {:error, :closed}
    end

    test "cuts one that was dialed", context do
      server = serve(context, Reactor.TransportCase.Lend)
      {:ok, connection} = Reactor.connect("127.0.0.1", port(server), max_lifetime: @short)
      assert Socket.recv(connection, 0, @long) == {:error, :timeout}
    end
  end

  describe "min_rate" do
    test "cuts a connection that sends too little", context do
      {connection, client} = pair(context, min_rate: {100, 2 * @short})
      dribbler = Task.async(fn -> receive(do: (:go -> dribble(client))) end)
      :ok = give(client, dribbler.pid)
      send(dribbler.pid, :go)
      assert Socket.recv(connection, 1_000, @long) == {:error, :timeout}
      assert Socket.recv(connection, 1_000, @long) == {:error, :closed}
      assert {:error, _} = Task.await(dribbler)
    end

    test "leaves alone one that sends enough", context do
      {connection, client} = pair(context, min_rate: {10, 5 * @short})
      start = now()
      reader = Task.async(fn -> Socket.recv(connection, 200, @long) end)

      for _ <- 1..20 do
        refute_receive _, div(@short, 2)
        put(client, "0123456789")
      end

      assert {:ok, data} = Task.await(reader)
      assert byte_size(data) == 200
      assert since(start) >= 10 * @short
    end

    test "cuts one that takes too little", context do
      {connection, _client} = pair(context, min_rate: {1_000, 2 * @short}, sndbuf: 10_000)
      assert fill(connection) == :ok
      assert Socket.send(connection, "x") == {:error, :closed}
    end

    test "does not run while the server is at work", context do
      {connection, client} = pair(context, min_rate: {1_000, @short})
      refute_receive _, 4 * @short
      Socket.send!(connection, "done")
      assert take(client, 4) == {:ok, "done"}
    end
  end

  # A byte now and then, until that fails.
  defp dribble(client) do
    refute_receive _, 10
    with :ok <- put(client, "x"), do: dribble(client)
  end

  # Some, and a pause, and so on.
  defp slowly(_client, taken, all) when taken >= all, do: taken

  defp slowly(client, taken, all) do
    refute_receive _, div(@short, 2)

    case :gen_tcp.recv(client, min(all - taken, 5_000), 5_000) do
      {:ok, data} -> slowly(client, taken + byte_size(data), all)
      {:error, _} -> taken
    end
  end

  defp drained(client) do
    with {:ok, _data} <- :gen_tcp.recv(client, 0, 5_000), do: drained(client)
  end
end
