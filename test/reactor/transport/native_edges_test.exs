defmodule Reactor.Transport.NativeEdgesTest do
  # What went wrong once, where the loops, the schedulers and the kernel meet.
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{Native, Socket}
  alias Reactor.Transport.Native, as: Transport

  # A listening socket of the test's own, and a pair of its ends.
  defp listening(options \\ []) do
    limits = %{
      max_connections: :infinity,
      overload: :wait,
      max_connections_per_ip: :infinity,
      accept_rate: :infinity,
      going_away: false,
      report_to: self(),
      previous: nil,
      protocol: :tcp
    }

    place = %{
      ip: {127, 0, 0, 1},
      port: 0,
      ipv6_v6only: nil,
      fd: nil,
      unix: %{mode: nil, owner: nil, group: nil},
      backlog: 1024,
      reuseaddr: true,
      reuseport: false,
      num_listen_sockets: 1
    }

    {:ok, listening} =
      place
      |> Map.merge(Socket.Options.defaults())
      |> Map.merge(limits)
      |> Map.merge(Map.new(options))
      |> Native.listen()

    listening
  end

  defp client(listening, options \\ []) do
    {:ok, {ip, port}} = Native.listener_address(listening)
    {:ok, client} = :gen_tcp.connect(ip, port, [:binary, active: false] ++ options)
    client
  end

  defp ends(options \\ [], client_options \\ []) do
    listening = listening(options)
    client = client(listening, client_options)
    {:ok, socket} = Transport.accept(listening)
    {socket, client, listening}
  end

  defp file(context, size) do
    path = Path.join(context.tmp_dir, "#{size}")
    File.write!(path, :binary.copy("x", size))
    path
  end

  test "an owner that becomes active after the end of the stream is told of it" do
    {socket, client, _} = ends()
    assert Transport.recv(socket, 0, 0) == {:error, :timeout}
    :ok = :gen_tcp.shutdown(client, :write)
    assert Transport.recv(socket, 0, 5_000) == {:error, :closed}
    :ok = Transport.setopts(socket, %{active: true})
    assert_receive {:tcp_closed, ^socket}
  end

  # What a scheduler leaves to the loop's own thread.
  test "a handler that listens on another socket gets its connections" do
    for _ <- 1..20 do
      {socket, client, _} = ends()
      test = self()

      handler =
        Task.async(fn ->
          {:ok, "go"} = Transport.recv(socket, 0, 5_000)
          inner = listening()
          send(test, {:inner, inner})
          Transport.accept(inner)
        end)

      :ok = :gen_tcp.send(client, "go")
      assert_receive {:inner, inner}, 5_000
      client(inner)
      assert {:ok, _connection} = Task.await(handler)
    end
  end

  test "nobody is accepted for a process that died while it waited" do
    listening = listening()

    for _ <- 1..20 do
      {waiter, monitor} = spawn_monitor(fn -> Transport.accept(listening) end)
      assert eventually(fn -> Native.listener_info(listening).waiting > 0 end)
      Process.exit(waiter, :kill)
      assert_receive {:DOWN, ^monitor, :process, ^waiter, :killed}
      client = client(listening)
      # Sent by the loop after the connection came.
      assert :gen_tcp.recv(client, 0, 20) == {:error, :timeout}
      {:ok, socket} = Transport.accept(listening)
      assert Transport.send(socket, "at last") == :ok
      assert :gen_tcp.recv(client, 0, 5_000) == {:ok, "at last"}
    end
  end

  @tag :tmp_dir
  test "a file that had to wait leaves no deadline behind", context do
    {socket, client, _} = ends([stall_timeout: 500, sndbuf: 65_536], recbuf: 65_536)
    path = file(context, 4_000_000)
    sender = Task.async(fn -> Transport.file(socket, path, 0, :all) end)
    {:ok, _} = :gen_tcp.recv(client, 4_000_000, 10_000)
    assert Task.await(sender) == {:ok, 4_000_000}
    # Twice as long as the deadline: nothing is queued.
    assert :gen_tcp.recv(client, 0, 1_000) == {:error, :timeout}
    assert {:ok, _} = Transport.local(socket)
  end

  @tag :tmp_dir
  test "two processes send files on one socket, one after the other", context do
    {socket, client, _} = ends()
    large = file(context, 1_000_000)
    small = file(context, 5)

    for _ <- 1..20 do
      senders =
        for path <- [large, small], do: Task.async(Transport, :file, [socket, path, 0, :all])

      {:ok, _} = :gen_tcp.recv(client, 1_000_005, 10_000)
      assert Task.await_many(senders) == [{:ok, 1_000_000}, {:ok, 5}]
    end
  end

  @tag :tmp_dir
  test "a pipe is no file that could be sent", context do
    pipe = Path.join(context.tmp_dir, "pipe")
    {_, 0} = System.cmd("mkfifo", [pipe])
    {socket, _client, _} = ends()
    assert Transport.file(socket, pipe, 0, :all) == {:error, :einval}
  end

  test "an owner that is behind does not use up its peer's time" do
    {socket, client, _} = ends(idle_timeout: 300, recbuf: 65_536)
    :ok = Transport.setopts(socket, %{active: true})
    :ok = :inet.setopts(client, send_timeout: 1_000)
    chunk = :binary.copy("y", 65_536)
    # Until nothing goes for a second: more than the deadline.
    sends = Stream.repeatedly(fn -> :gen_tcp.send(client, chunk) end)
    assert Enum.find(Stream.take(sends, 1_000), &(&1 != :ok)) == {:error, :timeout}
    refute_received {:tcp_error, ^socket, _reason}
    assert {:ok, _} = Transport.local(socket)
  end

  test "a deadline that is set on a connection that is stuck already cuts it" do
    {socket, _client, _} = ends([sndbuf: 65_536], recbuf: 65_536)
    sender = Task.async(fn -> Transport.send(socket, :binary.copy("z", 20_000_000)) end)

    assert eventually(fn ->
             match?({:ok, %{queued: n}} when n > 0, Transport.statistics(socket))
           end)

    :ok = Transport.setopts(socket, %{stall_timeout: 300})
    assert Task.await(sender) == {:error, :timeout}
  end

  test "a limit for each address counts those who were there before it" do
    listening = listening()
    for _ <- 1..3, do: {client(listening), Transport.accept(listening)}
    :ok = Native.listener_update(listening, %{max_connections_per_ip: 3})
    acceptor = Task.async(fn -> Transport.accept(listening) end)
    assert :gen_tcp.recv(client(listening), 0, 5_000) == {:error, :closed}
    assert Native.listener_info(listening).rejected == 1
    Task.shutdown(acceptor, :brutal_kill)
  end

  test "connections that are closed at once are counted" do
    listening = listening()

    clients =
      for _ <- 1..200 do
        client = client(listening)
        {:ok, socket} = Transport.accept(listening)
        :ok = Transport.close(socket)
        client
      end

    assert %{accepted: 200, closed: 200, connections: 0} = Native.listener_info(listening)
    Enum.each(clients, &:gen_tcp.close/1)
  end

  test "data for a reader that was killed is for the next one" do
    {socket, client, _} = ends()
    test = self()

    {reader, monitor} =
      spawn_monitor(fn ->
        send(test, :reads)
        Transport.recv(socket, 0, :infinity)
      end)

    assert_receive :reads
    assert eventually(fn -> Transport.recv(socket, 0, 0) == {:error, :ealready} end)
    Process.exit(reader, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}
    :ok = :gen_tcp.send(client, "first")
    assert Transport.recv(socket, 0, 5_000) == {:ok, "first"}
  end

  test "a drain waits for the second answer of an owner that has given one" do
    {socket, client, listening} = ends()
    test = self()

    owner =
      spawn_link(fn ->
        receive(do: (:yours -> :ok))
        :ok = Transport.setopts(socket, %{active: true, packet: :line})
        receive(do: ({:tcp, ^socket, "one\n"} -> Transport.send(socket, "ONE\n")))
        receive(do: ({:tcp, ^socket, "two\n"} -> send(test, :at_work)))
        # As if it asked somebody else meanwhile.
        receive(do: ({:tcp_closed, ^socket} -> :ok))
        send(test, {:sent, Transport.send(socket, "TWO\n")})
      end)

    :ok = Transport.controlling_process(socket, owner)
    send(owner, :yours)
    :ok = :gen_tcp.send(client, "one\ntwo\n")
    assert_receive :at_work
    assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "ONE\n"}
    :ok = Native.listener_drain(listening)
    assert_receive {:sent, :ok}
    assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "TWO\n"}
  end

  test "what an owner left in its mailbox does not hold up the next one" do
    {socket, client, _} = ends(recbuf: 65_536)
    test = self()

    hoarder =
      spawn(fn ->
        receive(do: (:yours -> :ok))
        for _ <- 1..500, do: send(self(), :noise)
        :ok = Transport.setopts(socket, %{active: true})
        receive(do: (:pass_on -> :ok))
        send(test, {:passed, Transport.controlling_process(socket, test)})
        receive(do: (:never -> :ok))
      end)

    :ok = Transport.controlling_process(socket, hoarder)
    send(hoarder, :yours)
    data = :crypto.strong_rand_bytes(4_000_000)
    sender = Task.async(fn -> :gen_tcp.send(client, data) end)
    # It is behind: what it was sent waits.
    assert eventually(fn -> elem(Process.info(hoarder, :message_queue_len), 1) > 510 end)
    send(hoarder, :pass_on)
    assert_receive {:passed, :ok}
    assert gathered(socket, 4_000_000) == data
    assert Task.await(sender) == :ok
    Process.exit(hoarder, :kill)
  end

  defp gathered(socket, size, data \\ "") do
    if byte_size(data) == size do
      data
    else
      receive do
        {:tcp, ^socket, more} -> gathered(socket, size, data <> more)
      after
        5_000 -> data
      end
    end
  end
end
