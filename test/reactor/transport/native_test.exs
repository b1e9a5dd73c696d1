defmodule Reactor.Transport.NativeTest do
  use Reactor.TransportCase, async: true, transport: :Native

  # Echoes; but whoever says "wait" is not answered until the test says so.
  defmodule Stubborn do
    use Reactor

    def handle(conn) do
      case Reactor.Socket.recv(conn) do
        {:ok, "wait"} ->
          send(conn.listener.env, {:waiting, self()})

          receive do
            :go_on -> :ok
          end

          Reactor.Socket.send!(conn, "wait")
          handle(conn)

        {:ok, data} ->
          Reactor.Socket.send!(conn, data)
          handle(conn)

        {:error, :closed} ->
          :ok
      end
    end
  end

  defmodule Active do
    use Reactor
    def start(connection), do: GenServer.start(__MODULE__, connection)

    use GenServer

    def init(connection), do: {:ok, connection}

    def handle_info({Reactor, :ack}, connection) do
      Reactor.Socket.active!(connection)
      {:noreply, connection}
    end

    def handle_info({:tcp, socket, data}, connection) do
      Reactor.Socket.send!(socket, data)
      {:noreply, connection}
    end

    def handle_info({:tcp_closed, _socket}, connection), do: {:stop, :normal, connection}
  end

  test "an active owner can answer a peer that has already ended its side", context do
    server = serve(context, Active)

    for _ <- 1..30 do
      client = dial(server)
      :ok = :gen_tcp.send(client, "all I have to say")
      :ok = :gen_tcp.shutdown(client, :write)
      assert read_all(client) == "all I have to say"
    end
  end

  # Under load the schedulers drive the loop, and some of their processes may be busy for long.
  test "handlers that do not come back do not keep the others waiting", context do
    server = serve(context, Stubborn)
    clients = for _ <- 1..24, do: dial(server)
    {stubborn, quick} = Enum.split(clients, 8)

    rounds = fn n ->
      for _ <- 1..n do
        for client <- quick, do: :ok = :gen_tcp.send(client, "ping")
        for client <- quick, do: assert({:ok, "ping"} = :gen_tcp.recv(client, 4, 5_000))
      end
    end

    rounds.(50)
    for client <- stubborn, do: :ok = :gen_tcp.send(client, "wait")

    handlers =
      for _ <- stubborn do
        assert_receive {:waiting, pid}
        pid
      end

    rounds.(50)
    for handler <- handlers, do: send(handler, :go_on)
    for client <- stubborn, do: assert({:ok, "wait"} = :gen_tcp.recv(client, 4, 5_000))
    for client <- clients, do: assert(echo(client, "still here") == "still here")
  end

  test "new connections and closed ones are seen while others keep the loop busy", context do
    server = serve(context, Stubborn)
    busy = for _ <- 1..8, do: dial(server)

    for n <- 1..100 do
      for client <- busy, do: :ok = :gen_tcp.send(client, "ping")
      new = dial(server)
      assert echo(new, "#{n}") == "#{n}"
      :gen_tcp.shutdown(new, :write)
      assert read_all(new) == ""
      for client <- busy, do: assert({:ok, "ping"} = :gen_tcp.recv(client, 4, 5_000))
    end
  end

  test "a handler that dies at work does not count as one that will come back", context do
    server = serve(context, Stubborn)

    for _ <- 1..50 do
      [client, other] = [dial(server), dial(server)]
      :ok = :gen_tcp.send(client, "wait")
      assert_receive {:waiting, pid}
      Process.exit(pid, :kill)
      assert read_all(client) == ""
      assert echo(other, "other") == "other"
    end
  end

  # Has everything sent to it, and takes nothing until it is told to.
  defmodule Slow do
    use Reactor

    def handle(conn) do
      Reactor.Socket.active!(conn)
      send(conn.listener.env, {:handler, self()})

      receive do
        :go_on -> gather(conn.listener.env, 0, 0)
      end
    end

    defp gather(test, bytes, crc) do
      receive do
        {:tcp, _socket, data} -> gather(test, bytes + byte_size(data), :erlang.crc32(crc, data))
        {:tcp_closed, _socket} -> send(test, {:took, bytes, crc})
      end
    end
  end

  test "an owner in active mode that takes nothing slows its peer down", context do
    server = serve(context, Slow)
    client = dial(server, send_timeout: 1_000)
    assert_receive {:handler, handler}
    chunk = :crypto.strong_rand_bytes(65_536)
    # Nothing went for a second; the last one is still under way.
    sends = Stream.repeatedly(fn -> :gen_tcp.send(client, chunk) end)
    sent = Enum.find_index(Stream.take(sends, 1_000), &(&1 == {:error, :timeout})) + 1
    # What was taken waits in its mailbox, and the rest in the buffers of the kernel.
    {:message_queue_len, waiting} = Process.info(handler, :message_queue_len)
    assert waiting <= 1_200
    assert [%{received: received}] = Reactor.connections(server)
    assert received <= 9_000_000
    send(handler, :go_on)
    :ok = :gen_tcp.shutdown(client, :write)
    size = sent * byte_size(chunk)
    crc = Enum.reduce(1..sent, 0, fn _, crc -> :erlang.crc32(crc, chunk) end)
    assert_receive {:took, ^size, ^crc}
  end
end
