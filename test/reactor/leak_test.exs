defmodule Reactor.LeakTest do
  # Counts what the whole VM has: nothing may run beside it.
  use Reactor.TransportCase, async: false, transport: :Native

  @python Path.expand("../support/python", __DIR__)

  # REACTOR_SOAK=1 makes it 1,000 connections with 200 messages each.
  @soak System.get_env("REACTOR_SOAK") == "1"
  @connections if @soak, do: 1_000, else: 40
  @messages if @soak, do: 200, else: 10
  @moduletag timeout: if(@soak, do: 900_000, else: 60_000)

  defmodule PyEcho do
    use Reactor, python: "plain_echo:PlainEcho"
  end

  defmodule PyWrites do
    use Reactor, python: "careful_echo"
  end

  defmodule Census do
    use Reactor, python: "census:Census"
  end

  defmodule Active do
    use Reactor
    def start(connection), do: GenServer.start(__MODULE__, connection)

    use GenServer

    def init(connection), do: {:ok, connection}

    def handle_info({Reactor, :ack}, connection) do
      Reactor.Socket.active!(connection, 10)
      {:noreply, connection}
    end

    def handle_info({:tcp, socket, data}, connection) do
      Reactor.Socket.send!(socket, data)
      {:noreply, connection}
    end

    def handle_info({:tcp_passive, socket}, connection) do
      Reactor.Socket.active!(socket, 10)
      {:noreply, connection}
    end

    def handle_info({:tcp_error, _socket, :timeout}, connection), do: {:noreply, connection}
    def handle_info({:tcp_closed, _socket}, connection), do: {:stop, :normal, connection}
  end

  # What a context of its own interpreter has left has ended with it.
  @pythons for isolation <- Reactor.Isolations.all(),
               {module, name} <- [
                 {PyEcho, "Python #{isolation}"},
                 {PyWrites, "Python #{isolation} that writes by itself"}
               ],
               do: {module, [isolation: isolation], name}

  for {module, options, name} <-
        [{MyApp.Echo, [], "handle/1"}, {Active, [], "a GenServer"}] ++ @pythons do
    test "#{name}: afterwards there is no more of anything than before" do
      assert_nothing_left(fn -> run(unquote(module), unquote(options)) end)
    end

    test "#{name}: nor of clients that were refused, cut by a deadline, or drained" do
      assert_nothing_left(fn -> refuse_cut_and_drain(unquote(module), unquote(options)) end)
    end
  end

  defmodule PyUdpEcho do
    use Reactor, python: "datagrams:Echo"
  end

  for {module, name} <- [{MyApp.UdpEcho, "Elixir"}, {PyUdpEcho, "Python"}] do
    test "datagrams in #{name}: afterwards there is no more of anything than before" do
      assert_nothing_left(fn -> exchange(unquote(module)) end)
    end
  end

  defp exchange(module) do
    {:ok, server} = Reactor.start(module, [protocol: :udp, ip: :loopback] ++ paths(module))
    {:ok, client} = :gen_udp.open(0, [:binary, active: false])
    address = {{127, 0, 0, 1}, Reactor.info(server).port}

    for n <- 1..@messages do
      for _ <- 1..@connections do
        :ok = :gen_udp.send(client, address, "hello")
        assert {:ok, {_, _, "hello"}} = :gen_udp.recv(client, 0, 5_000)
      end

      # With a handler, and a socket, of its own each time.
      if rem(n, 2) == 0 do
        :ok = Reactor.suspend(server)
      else
        assert {:ok, %{cut: 0}} = Reactor.drain(server, 5_000)
      end

      :ok = Reactor.resume(server)
    end

    :gen_udp.close(client)
    assert Reactor.stop(server) == :ok
  end

  test "several sockets, a Unix socket and an inherited one: nor of them" do
    {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, fd} = :inet.getfd(listening)
    path = Path.join(System.tmp_dir!(), "reactor-leak-#{System.pid()}.sock")

    assert_nothing_left(fn ->
      for module <- [MyApp.Echo, PyEcho],
          options <- [
            [ip: :loopback, reuseport: true, num_listen_sockets: 3],
            [ip: {:local, path}],
            [fd: fd]
          ] do
        {:ok, server} = Reactor.start(module, options ++ paths(module))
        assert converse_on(server)
        assert Reactor.suspend(server) == :ok
        assert Reactor.resume(server) == :ok
        assert converse_on(server)
        assert {:error, _reason} = Reactor.start(module, [fd: 1_000_000] ++ paths(module))
        assert Reactor.stop(server) == :ok
      end
    end)
  end

  defp converse_on(server) do
    {:ok, connection} =
      case Reactor.info(server) do
        %{ip: {:local, _path} = address} -> Reactor.connect(address, 0)
        %{port: port} -> Reactor.connect("127.0.0.1", port)
      end

    Reactor.Socket.send!(connection, "hello")
    assert Reactor.Socket.recv!(connection, 5) == "hello"
    Reactor.Socket.close(connection) == :ok
  end

  for {module, options, name} <- [{MyApp.Echo, [], "handle/1"}] ++ @pythons, module != PyWrites do
    test "#{name} with TLS: nor of handshakes, done, failed, late, or cut by a drain" do
      assert_nothing_left(fn -> greet(unquote(module), unquote(options)) end)
    end
  end

  defp greet(module, options) do
    secure = Reactor.Certificates.server() ++ [handshake_timeout: 200]
    options = [ip: :loopback, acceptors: 10, secure: secure] ++ options ++ paths(module)
    {:ok, server} = Reactor.start(module, options)
    port = Reactor.info(server).port

    1..@connections
    |> Enum.map(fn i -> Task.async(fn -> greeting(port, rem(i, 5)) end) end)
    |> Task.await_many(:infinity)

    plain = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], 5_000)
    assert {:ok, silent} = plain
    assert eventually(fn -> Reactor.info(server).connections > 0 end)
    assert {:ok, %{cut: 0}} = Reactor.drain(server, 5_000)
    assert read_all(silent) == ""
    hang_up(silent)
    assert Reactor.stop(server) == :ok
  end

  defp greeting(port, 0) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], 30_000)
    :ok = :gen_tcp.send(client, "GET / HTTP/1.0\r\n\r\n")
    assert <<21, _alert::binary>> = read_all(client)
    hang_up(client)
  end

  defp greeting(port, 1) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], 30_000)
    assert read_all(client) == ""
    hang_up(client)
  end

  # It trusts nobody that has signed this.
  defp greeting(port, 2),
    do: {:error, {:tls_alert, _}} = Reactor.connect("localhost", port, secure: true)

  defp greeting(port, _done) do
    secure = [secure: Reactor.Certificates.trusting(), timeout: 30_000]
    {:ok, connection} = Reactor.connect("localhost", port, secure)
    data = :crypto.strong_rand_bytes(100_000)
    sender = Task.async(fn -> Reactor.Socket.send(connection, data) end)
    assert Reactor.Socket.recv(connection, 100_000, 30_000) == {:ok, data}
    assert Task.await(sender) == :ok
    Reactor.Socket.close(connection)
  end

  defp assert_nothing_left(run) do
    # Once, so that what lives for ever is there: loops, the interpreter, loaded modules.
    run.()
    assert eventually(fn -> settled?(counts()) end), inspect(counts())
    before = counts()
    run.()

    assert eventually(fn -> counts() == before end),
           "before: #{inspect(before)}, after: #{inspect(counts())}"

    assert eventually(fn -> census() == "0" end)
  end

  # How many Python protocols are alive.
  defp census do
    {:ok, server} = Reactor.start(Census, ip: :loopback, paths: [@python])
    client = dial(server)
    :ok = :gen_tcp.send(client, "count")
    alive = read_all(client)
    assert Reactor.stop(server) == :ok
    alive
  end

  defp paths(module) do
    if module.__reactor__()[:python], do: [paths: [@python]], else: []
  end

  # What the first run, and the tests before this one, used is gone.
  defp settled?(counts) do
    Enum.all?([:connections, :listeners, :contexts, :handles, :open], &(counts[&1] == 0))
  end

  defp run(module, options) do
    options = [ip: :loopback, acceptors: 10] ++ options ++ paths(module)
    {:ok, server} = Reactor.start(module, options)
    port = Reactor.info(server).port

    1..@connections
    |> Enum.map(fn i -> Task.async(fn -> converse(port, i) end) end)
    |> Task.await_many(:infinity)

    # Some are left for the server to close.
    abandoned = for _ <- 1..5, do: dial(server)
    for client <- abandoned, do: assert(echo(client, "x") == "x")
    assert Reactor.stop(server) == :ok
    Enum.each(abandoned, &:gen_tcp.close/1)
  end

  defp refuse_cut_and_drain(module, options) do
    limits = [max_connections: 10, overload: :reject, first_byte_timeout: 100]
    {:ok, server} = Reactor.start(module, [ip: :loopback] ++ limits ++ options ++ paths(module))

    for _ <- 1..2 do
      clients = for _ <- 1..20, do: dial(server)
      # Ten are refused, ten say nothing in time.
      for client <- clients, do: assert(:gen_tcp.recv(client, 1, 5_000) == {:error, :closed})
      Enum.each(clients, &:gen_tcp.close/1)
      assert eventually(fn -> Reactor.info(server).connections == 0 end)

      clients = for _ <- 1..10, do: dial(server)
      for client <- clients, do: assert(echo(client, "x") == "x")
      assert {:ok, %{connections: 10, cut: 0}} = Reactor.drain(server, 5_000)
      Enum.each(clients, &:gen_tcp.close/1)
      assert Reactor.resume(server) == :ok
    end

    assert Reactor.stop(server) == :ok
  end

  defp converse(port, i) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false], 30_000)

    for _ <- 1..@messages do
      data = :crypto.strong_rand_bytes(:rand.uniform(65_536))
      assert echo_async(client, data) == data
    end

    # In turn: closed, closed halfway, reset.
    case rem(i, 3) do
      0 -> :gen_tcp.close(client)
      1 -> :gen_tcp.shutdown(client, :write) && read_all(client)
      2 -> :inet.setopts(client, linger: {true, 0}) && :gen_tcp.close(client)
    end
  end

  # Larger than the buffers may be: reading must not wait for the end of sending.
  defp echo_async(client, data) do
    sender = Task.async(fn -> :ok = :gen_tcp.send(client, data) end)
    {:ok, back} = :gen_tcp.recv(client, byte_size(data), 60_000)
    Task.await(sender)
    back
  end

  defp counts do
    :erlang.garbage_collect()

    # It gets what the VM logs of handlers that failed, with the arguments of the call that did, and keeps
    # the last of that until it gets more.
    :erlang.garbage_collect(Process.whereis(:logger_proxy))
    counters = Reactor.Native.counters()

    counters
    |> Map.take([:connections, :listeners, :contexts, :handles, :buffers])
    |> Map.merge(%{
      open: counters.fds_opened - counters.fds_closed,
      processes: length(Process.list()),
      ports: length(Port.list())
    })
  end
end
