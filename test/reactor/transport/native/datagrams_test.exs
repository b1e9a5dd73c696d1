defmodule Reactor.Transport.Native.DatagramsTest do
  use Reactor.TransportCase, async: true, transport: :Native

  import ExUnit.CaptureLog

  alias MyApp.UdpEcho
  alias Reactor.{Connection, EventRelay, Listener, Socket}

  defmodule LendUdp do
    @moduledoc false

    # Gives the socket to the test, which gives it back by closing it.
    use Reactor

    def handle(connection) do
      %{socket: socket, listener: %{env: test}} = connection
      # One that gets it when the test is over has nobody to give it to.
      _ = Reactor.Transport.of(socket).controlling_process(socket, test)
      send(test, {:lent, connection, self()})
      monitor = Process.monitor(test)

      receive do
        {:DOWN, ^monitor, _, _, _} -> :ok
        :done -> :ok
      end
    end
  end

  defmodule Server do
    @moduledoc false

    use Reactor

    def start(connection), do: GenServer.start(__MODULE__, connection)

    use GenServer

    def init(connection), do: {:ok, connection}

    def handle_info({Reactor, :ack}, connection) do
      Socket.active!(connection, true)
      send(connection.listener.env, {:started, self()})
      {:noreply, connection}
    end

    def handle_info({:udp, socket, peer, "crash"}, _connection) do
      :ok = Socket.send_to(socket, peer, "crashing")
      raise "a bad datagram"
    end

    def handle_info({:udp, socket, peer, data}, connection) do
      :ok = Socket.send_to(socket, peer, String.upcase(data))
      {:noreply, connection}
    end

    def handle_info({:udp_closed, _socket} = message, connection) do
      send(connection.listener.env, message)
      {:stop, :normal, connection}
    end

    def handle_info(message, connection) do
      send(connection.listener.env, message)
      {:noreply, connection}
    end
  end

  defp udp(context, module, options \\ []),
    do: serve(context, module, [protocol: :udp] ++ options)

  defp client(options \\ []) do
    {:ok, client} = :gen_udp.open(0, [:binary, active: false, ip: {127, 0, 0, 1}] ++ options)
    client
  end

  defp put_to(client, server, data), do: :gen_udp.send(client, {127, 0, 0, 1}, port(server), data)

  defp take_from(client) do
    {:ok, {_ip, _port, data}} = :gen_udp.recv(client, 0, 5_000)
    data
  end

  defp address(client) do
    {:ok, address} = :inet.sockname(client)
    address
  end

  # A socket that the test has, and a client.
  defp lent(context, options \\ []) do
    server = udp(context, LendUdp, options)
    assert_receive {:lent, connection, handler}
    %{server: server, connection: connection, handler: handler, client: client()}
  end

  describe "protocol" do
    defp message(options, module \\ UdpEcho) do
      {:error, %Reactor.ConfigError{} = error} = Listener.new(module, [protocol: :udp] ++ options)
      Exception.message(error)
    end

    test "is :tcp, or :udp with the transport :native" do
      assert {:ok, %{protocol: :tcp, acceptors: 100}} = Listener.new(UdpEcho, [])
      assert {:ok, %{protocol: :udp, acceptors: 1}} = Listener.new(UdpEcho, protocol: :udp)
      assert {:ok, %{acceptors: 3}} = Listener.new(UdpEcho, protocol: :udp, acceptors: 3)

      for wrong <- [nil, :sctp, "udp"] do
        assert message(protocol: wrong) ==
                 "option :protocol must be :tcp or :udp, got: #{inspect(wrong)}"
      end

      for transport <- [:tcp, :ssl] do
        assert message(transport: transport) ==
                 "option :transport must be :native with protocol :udp, got: #{inspect(transport)}"
      end
    end

    test "of datagrams goes with no option of connections" do
      for {name, value, default} <- [
            {:backlog, 10, "1024"},
            {:max_connections, 10, ":infinity"},
            {:overload, :reject, ":wait"},
            {:max_connections_per_ip, 1, ":infinity"},
            {:accept_rate, 1, ":infinity"},
            {:proxy, [trusted: ["::1"]], "false"}
          ] do
        assert message([{name, value}]) =~
                 "option #{inspect(name)} must be #{default} with protocol :udp, which has no connections"
      end

      assert message(ip: {:local, "/tmp/a.sock"}) =~
               "option :ip must be an IPv4 or IPv6 address with protocol :udp"

      for {options, expected} <- [
            {[fd: 3], "option :fd must be nil with protocol :udp, which has one socket, its own"},
            {[num_listen_sockets: 2, reuseport: true],
             "option :num_listen_sockets must be 1 with protocol :udp, which has one socket, its own"}
          ] do
        assert message(options) =~ expected
      end

      for {name, value, default} <- [
            {:packet, :line, ":raw"},
            {:packet_size, 10, "0"},
            {:nodelay, false, "true"},
            {:keepalive, true, "false"},
            {:high_watermark, 100_000, "65536"},
            {:low_watermark, 1, "32768"},
            {:send_timeout_close, true, "false"},
            {:idle_timeout, 1, ":infinity"},
            {:min_rate, {1, 1}, "nil"}
          ] do
        assert message([{name, value}]) =~
                 "option #{inspect(name)} must be #{default} with protocol :udp, whose data is no stream"
      end
    end

    test "of datagrams is not for a module that routes" do
      defmodule Routes do
        use Reactor
        def route(_connection), do: :elixir
      end

      assert message([], Routes) =~ "option :protocol must be :tcp for a module with route/1"
    end

    test "cannot be changed while the server runs", context do
      server = udp(context, UdpEcho)
      assert {:error, error} = Reactor.update(server, protocol: :tcp)
      assert Exception.message(error) =~ "option :protocol must be left alone"
      assert {:error, error} = Reactor.update(server, max_connections: 5)
      assert Exception.message(error) =~ "option :max_connections must be :infinity"
    end
  end

  # Before anybody else asks: who comes second is refused.
  defp waits?(pid), do: eventually(fn -> Process.info(pid, :status) == {:status, :waiting} end)

  describe "recv_from and send_to" do
    test "carry datagrams of any size, empty ones too", context do
      server = udp(context, UdpEcho)
      client = client(buffer: 65_536, recbuf: 200_000)

      for size <- [0, 1, 1_000, 9_000, 65_507] do
        data = :crypto.strong_rand_bytes(size)
        :ok = put_to(client, server, data)
        assert take_from(client) == data
      end
    end

    test "say from whom, and answer whom they are told", context do
      %{connection: connection, server: server, client: client} = lent(context)
      other = client()
      :ok = put_to(client, server, "one")
      :ok = put_to(other, server, "two")

      for _ <- 1..2 do
        {:ok, peer, data} = Socket.recv_from(connection, 5_000)
        expected = %{"one" => address(client), "two" => address(other)}
        assert peer == expected[data]
        :ok = Socket.send_to(connection, peer, ["for ", data])
      end

      assert {take_from(client), take_from(other)} == {"for one", "for two"}
    end

    test "wait for what comes, for a time", context do
      %{connection: connection, server: server, client: client} = lent(context)
      assert Socket.recv_from(connection, 0) == {:error, :timeout}
      assert Socket.recv_from(connection, 10) == {:error, :timeout}
      reader = Task.async(fn -> Socket.recv_from(connection, 5_000) end)
      assert waits?(reader.pid)
      assert Socket.recv_from(connection, 0) == {:error, :ealready}
      :ok = put_to(client, server, "late")
      assert {:ok, _peer, "late"} = Task.await(reader)
    end

    test "leave a datagram to the next when its reader was killed", context do
      %{connection: connection, server: server, client: client} = lent(context)
      reader = spawn(fn -> Socket.recv_from(connection) end)
      assert waits?(reader)
      assert Socket.recv_from(connection, 0) == {:error, :ealready}
      monitor = Process.monitor(reader)
      Process.exit(reader, :kill)
      assert_down(monitor, :killed)
      :ok = put_to(client, server, "kept")
      assert {:ok, _peer, "kept"} = Socket.recv_from(connection, 5_000)
    end

    test "answer errors that do not end it", context do
      %{connection: connection, server: server, client: client} = lent(context)
      peer = address(client)
      assert Socket.send_to(connection, peer, :binary.copy("x", 65_508)) == {:error, :emsgsize}
      assert Socket.send_to(connection, peer, :binary.copy("x", 70_000)) == {:error, :emsgsize}

      assert Socket.send_to(connection, {{0, 0, 0, 0, 0, 0, 0, 1}, 9}, "x") ==
               {:error, :eafnosupport}

      assert Socket.send_to(connection, {{255, 255, 255, 255}, 9}, "x") == {:error, :eacces}

      # Nobody is there: what the network says about that is for nobody.
      gone = client()
      nobody = address(gone)
      :gen_udp.close(gone)
      for _ <- 1..3, do: assert(Socket.send_to(connection, nobody, "x") == :ok)

      :ok = put_to(client, server, "still here")
      assert {:ok, ^peer, "still here"} = Socket.recv_from(connection, 5_000)
    end

    test "name a wrong argument", context do
      %{connection: connection, client: client} = lent(context)
      peer = address(client)

      for wrong <- [{{127, 0, 0, 1}, 0}, {{127, 0, 0, 1}, 65_536}, {"localhost", 9}, :peer, nil] do
        assert_raise ArgumentError, ~r/expected {ip, port} with an address tuple/, fn ->
          Socket.send_to(connection, wrong, "x")
        end
      end

      for wrong <- [:x, 1, [:x], %{}] do
        assert_raise ArgumentError, ~r/expected data that is iodata/, fn ->
          Socket.send_to(connection, peer, wrong)
        end
      end

      assert_raise ArgumentError, ~r/expected a timeout/, fn ->
        Socket.recv_from(connection, -1)
      end

      assert_raise ArgumentError, ~r/expected a Reactor.Connection/, fn ->
        Socket.recv_from({:udp, make_ref()})
      end
    end

    test "are for datagrams, and recv and send for streams", context do
      {stream, _client} = pair(context)
      assert Socket.recv_from(stream) == {:error, :eopnotsupp}
      assert Socket.send_to(stream, {{127, 0, 0, 1}, 9}, "x") == {:error, :eopnotsupp}

      %{connection: connection} = lent(context)
      assert Socket.recv(connection) == {:error, :eopnotsupp}
      assert Socket.send(connection, "x") == {:error, :edestaddrreq}
      assert Socket.remote(connection) == {:error, :enotconn}
      assert Socket.shutdown(connection) == {:error, :eopnotsupp}
      assert Socket.file(connection, "mix.exs") == {:error, :eopnotsupp}
      assert Socket.peer_certificate(connection) == {:error, :no_peercert}
    end

    test "work over IPv6", context do
      server = udp(context, UdpEcho, ip: "::1")
      {:ok, client} = :gen_udp.open(0, [:binary, :inet6, active: false])
      :ok = :gen_udp.send(client, {0, 0, 0, 0, 0, 0, 0, 1}, port(server), "six")
      assert take_from(client) == "six"
    end
  end

  describe "active mode" do
    test "once sends one", context do
      %{connection: connection, server: server, client: client} = lent(context)
      socket = connection.socket
      peer = address(client)
      Socket.active!(connection, :once)
      :ok = put_to(client, server, "one")
      :ok = put_to(client, server, "two")
      assert_receive {:udp, ^socket, ^peer, "one"}
      assert {:ok, ^peer, "two"} = Socket.recv_from(connection, 5_000)
      refute_received {:udp, _, _, _}
    end

    test "n sends n, and says that it is passive", context do
      %{connection: connection, server: server, client: client} = lent(context)
      socket = connection.socket
      for n <- 1..3, do: :ok = put_to(client, server, "#{n}")
      Socket.active!(connection, 2)
      assert_receive {:udp_passive, ^socket}
      assert_received {:udp, ^socket, _, "1"}
      assert_received {:udp, ^socket, _, "2"}
      assert {:ok, _, "3"} = Socket.recv_from(connection, 5_000)
      assert {:ok, %{active: false}} = Socket.options(connection)
    end

    test "true sends all, and recv_from is refused", context do
      %{connection: connection, server: server, client: client} = lent(context)
      Socket.active!(connection, true)
      assert Socket.recv_from(connection, 0) == {:error, :einval}

      for n <- 1..100 do
        :ok = put_to(client, server, <<n>>)
        assert_receive {:udp, _, _, <<^n>>}
      end

      Socket.passive!(connection)
      assert Socket.recv_from(connection, 0) == {:error, :timeout}
    end

    test "can be what a listener's sockets begin with", context do
      %{server: server, client: client} = lent(context, active: :once)
      # It was for the handler, until the test got the socket.
      :ok = put_to(client, server, "first")
      assert_receive {:udp, _, _, "first"}
    end

    test "does not fill the mailbox of an owner that takes nothing", context do
      %{connection: connection, server: server, client: client} = lent(context)
      test = self()

      owner =
        spawn_link(fn ->
          receive(do: (:take -> :ok))
          send(test, {:took, take_all(0)})
          receive(do: ({:udp, _, _, data} -> send(test, {:more, data})))
        end)

      Socket.active!(connection, true)
      Socket.process!(connection, owner)
      length = fn -> Process.info(owner, :message_queue_len) |> elem(1) end

      assert eventually(fn ->
               :ok = put_to(client, server, "x")
               length.() == 1_024
             end)

      for _ <- 1..2_000, do: :ok = put_to(client, server, "y")
      assert length.() == 1_024
      send(owner, :take)
      assert_receive {:took, 1_024}
      assert_receive {:more, _data}, 5_000
    end

    defp take_all(1_024), do: 1_024
    defp take_all(n), do: receive(do: ({:udp, _, _, _} -> take_all(n + 1)))
  end

  test "without demand the kernel keeps what fits into its buffer, and drops the rest", context do
    %{connection: connection, server: server, client: client} = lent(context, recbuf: 4_096)
    for _ <- 1..1_000, do: :ok = put_to(client, server, :binary.copy("x", 500))
    assert {:ok, %{received: 0, reads: 0}} = Socket.statistics(connection)
    count = count(connection, 0)
    assert count in 1..100
    assert {:ok, %{reads: ^count}} = Socket.statistics(connection)
    # And it goes on.
    :ok = put_to(client, server, "next")
    assert {:ok, _, "next"} = Socket.recv_from(connection, 5_000)
  end

  defp count(connection, n) do
    case Socket.recv_from(connection, 0) do
      {:ok, _, _} -> count(connection, n + 1)
      {:error, :timeout} -> n
    end
  end

  describe "a handler" do
    test "is a process that start/1 started", context do
      server = udp(context, Server)
      assert_receive {:started, _pid}
      client = client()
      :ok = put_to(client, server, "hello")
      assert take_from(client) == "HELLO"
    end

    test "that fails on a datagram is followed by another, on the same port", context do
      server = udp(context, Server)
      client = client()
      port = port(server)

      capture_log(fn ->
        for _ <- 1..20 do
          assert_receive {:started, pid}
          monitor = Process.monitor(pid)
          :ok = put_to(client, server, "crash")
          assert take_from(client) == "crashing"
          assert_receive {:DOWN, ^monitor, _, _, _}
        end

        assert_receive {:started, _pid}
      end)

      :ok = put_to(client, server, "good")
      assert take_from(client) == "GOOD"
      assert %{port: ^port, accepted: 21, connections: 1} = Reactor.info(server)
    end

    test "finds what came while there was none", context do
      %{connection: connection, server: server, client: client, handler: handler} = lent(context)
      :ok = put_to(client, server, "one")
      assert {:ok, _, "one"} = Socket.recv_from(connection, 5_000)
      :ok = put_to(client, server, "two")
      Socket.close(connection)
      assert Socket.recv_from(connection) == {:error, :closed}
      assert Socket.send_to(connection, address(client), "x") == {:error, :closed}
      assert Socket.local(connection) == {:error, :closed}
      assert Socket.statistics(connection) == {:error, :closed}
      assert Socket.active(connection, true) == {:error, :closed}
      assert Socket.close(connection) == :ok
      assert_receive {:lent, next, _handler}
      assert next.id != connection.id
      assert {:ok, _, "two"} = Socket.recv_from(next, 5_000)
      # Its end is not that of the one who has the socket now.
      send(handler, :done)
      :ok = put_to(client, server, "three")
      assert {:ok, _, "three"} = Socket.recv_from(next, 5_000)
    end

    defmodule Useless do
      use Reactor

      def handle(connection) do
        send(connection.listener.env, {:here, System.monotonic_time(:millisecond)})
      end
    end

    test "that does nothing does not spin", context do
      udp(context, Useless)
      times = for _ <- 1..6, do: receive(do: ({:here, time} -> time))
      # 10 ms, and twice as long each time.
      assert List.last(times) - hd(times) >= 10 + 20 + 40 + 80 + 160
    end

    test "waits while another has the socket, and gets it when that one is killed", context do
      udp(context, Server, acceptors: 3)
      assert_receive {:started, first}
      refute_received {:started, _}
      Process.exit(first, :kill)
      assert_receive {:started, second}
      assert second != first
    end

    test "keeps an environment with it, and finds its listener's", context do
      %{connection: connection} = lent(context)
      assert Connection.env(connection) == self()
      Connection.env(connection, :mine)
      assert Connection.env(connection) == :mine
      refute Connection.secure?(connection)
      assert Connection.negotiated_protocol(connection) == nil
      assert Connection.listener(connection).protocol == :udp
    end

    test "gives it to another process with the messages that wait", context do
      %{connection: connection, server: server, client: client} = lent(context)
      test = self()
      Socket.active!(connection, 2)
      :ok = put_to(client, server, "one")
      assert eventually(fn -> match?({:messages, [_]}, Process.info(test, :messages)) end)

      other =
        spawn_link(fn ->
          for _ <- 1..3, do: receive(do: (message -> send(test, {:relayed, message})))
          receive(do: (:done -> :ok))
        end)

      Socket.process!(connection, other)
      :ok = put_to(client, server, "two")
      assert_receive {:relayed, {:udp, _, _, "one"}}
      assert_receive {:relayed, {:udp, _, _, "two"}}
      assert_receive {:relayed, {:udp_passive, _}}
      assert_raise Socket.Error, ~r/not_owner/, fn -> Socket.process!(connection, test) end
      send(other, :done)
      assert_receive {:lent, _next, _handler}
    end

    test "sets the options that a datagram socket has", context do
      %{connection: connection} = lent(context, recbuf: 100_000, send_timeout: 70)
      assert {:ok, options} = Socket.options(connection)
      assert Enum.sort(Map.keys(options)) == [:active, :recbuf, :send_timeout, :sndbuf]
      assert %{active: false, send_timeout: 70} = options
      assert options.recbuf >= 100_000
      :ok = Socket.options(connection, sndbuf: 50_000, send_timeout: :infinity)
      assert {:ok, %{send_timeout: :infinity, sndbuf: sndbuf}} = Socket.options(connection)
      assert sndbuf >= 50_000 and sndbuf != options.sndbuf
      assert {:error, error} = Socket.options(connection, idle_timeout: 10)

      assert Exception.message(error) =~
               "option :idle_timeout must be :infinity with protocol :udp"

      assert {:error, error} = Socket.packet(connection, :line)
      assert Exception.message(error) =~ "option :packet must be :raw with protocol :udp"
    end
  end

  test "info, connections and statistics count datagrams and bytes", context do
    %{connection: connection, server: server, client: client} = lent(context)
    :ok = put_to(client, server, "hello")
    :ok = put_to(client, server, "")
    {:ok, peer, "hello"} = Socket.recv_from(connection, 5_000)
    {:ok, ^peer, ""} = Socket.recv_from(connection, 5_000)
    :ok = Socket.send_to(connection, peer, "hi")

    assert {:ok, %{received: 5, reads: 2, sent: 2, writes: 1, queued: 0}} =
             Socket.statistics(connection)

    id = connection.id
    test = self()

    assert [%{id: ^id, owner: ^test, received: 5, sent: 2, remote: nil, state: :open}] =
             Reactor.connections(server)

    assert %{protocol: :udp, connections: 1, accepted: 1, received: 5, sent: 2} =
             Reactor.info(server)

    Socket.close(connection)
    assert_receive {:lent, _next, _handler}
    assert %{connections: 1, accepted: 2, received: 5, sent: 2} = Reactor.info(server)
  end

  test "a server reports each handler's time with the socket as a connection", context do
    EventRelay.attach(module: LendUdp, name: __MODULE__)
    %{connection: connection, server: server, client: client} = lent(context, name: __MODULE__)
    {_, %{id: id, remote: nil}} = EventRelay.assert_event([:reactor, :connection, :start])
    assert id == connection.id
    :ok = put_to(client, server, "hello")
    {:ok, peer, _} = Socket.recv_from(connection, 5_000)
    :ok = Socket.send_to(connection, peer, "hi")
    Socket.close(connection)
    {measured, metadata} = EventRelay.assert_event([:reactor, :connection, :stop])
    assert %{received: 5, sent: 2} = measured
    assert %{id: ^id, reason: :local} = metadata
  end

  describe "suspend" do
    test "closes the port, and resume opens it again", context do
      server = udp(context, UdpEcho)
      port = port(server)
      client = client()
      :ok = :gen_udp.connect(client, {127, 0, 0, 1}, port)
      :ok = :gen_udp.send(client, "one")
      assert {:ok, {_, _, "one"}} = :gen_udp.recv(client, 0, 5_000)
      :ok = Reactor.suspend(server)
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      :ok = :gen_udp.send(client, "two")
      assert :gen_udp.recv(client, 0, 5_000) == {:error, :econnrefused}
      :ok = Reactor.resume(server)
      assert Reactor.info(server).port == port
      :ok = :gen_udp.send(client, "three")
      assert {:ok, {_, _, "three"}} = :gen_udp.recv(client, 0, 5_000)
    end

    test "is told to an owner in active mode", context do
      %{connection: connection, server: server} = lent(context)
      socket = connection.socket
      Socket.active!(connection, true)
      :ok = Reactor.suspend(server)
      assert_receive {:udp_closed, ^socket}
      assert Socket.active(connection, true) == {:error, :closed}
    end
  end

  describe "drain" do
    test "ends a handler that waits, and leaves the server suspended", context do
      server = udp(context, UdpEcho)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      assert Reactor.drain(server, 5_000) == {:ok, %{connections: 1, finished: 1, cut: 0}}
      assert Reactor.info(server).state == :suspended
      :ok = Reactor.resume(server)
      client = client()
      :ok = put_to(client, server, "again")
      assert take_from(client) == "again"
    end

    test "stops reading, and lets the handler send until it ends", context do
      %{connection: connection, server: server, client: client, handler: handler} = lent(context)
      :ok = put_to(client, server, "first")
      {:ok, peer, "first"} = Socket.recv_from(connection, 5_000)
      drain = Task.async(fn -> Reactor.drain(server, 5_000) end)
      assert eventually(fn -> Socket.recv_from(connection, 0) == {:error, :closed} end)
      :ok = put_to(client, server, "too late")
      assert Socket.recv_from(connection) == {:error, :closed}
      assert Socket.send_to(connection, peer, "goodbye") == :ok
      assert take_from(client) == "goodbye"
      Socket.close(connection)
      send(handler, :done)
      assert Task.await(drain) == {:ok, %{connections: 1, finished: 1, cut: 0}}
    end

    test "tells an owner in active mode", context do
      server = udp(context, Server)
      assert_receive {:started, _pid}
      assert {:ok, %{finished: 1, cut: 0}} = Reactor.drain(server, 5_000)
      assert_received {:udp_closed, _socket}
    end

    test "with going_away tells it that instead", context do
      server = udp(context, Server, going_away: true)
      assert_receive {:started, pid}
      drain = Task.async(fn -> Reactor.drain(server, 5_000) end)
      assert_receive {Reactor, :going_away}
      refute_received {:udp_closed, _}
      GenServer.stop(pid)
      assert Task.await(drain) == {:ok, %{connections: 1, finished: 1, cut: 0}}
    end

    test "cuts a handler that does not end in time", context do
      %{connection: connection, server: server} = lent(context)
      assert {:ok, %{connections: 1, finished: 0, cut: 1}} = Reactor.drain(server, 50)
      assert Socket.send_to(connection, {{127, 0, 0, 1}, 9}, "x") == {:error, :closed}
    end

    test "is what a stop does", context do
      EventRelay.attach(module: UdpEcho, name: __MODULE__.Stop)
      options = [protocol: :udp, ip: :loopback, name: __MODULE__.Stop]
      {:ok, server} = Reactor.start(UdpEcho, options)
      EventRelay.assert_event([:reactor, :connection, :start])
      port = port(server)
      assert Reactor.stop(server) == :ok
      {_, %{reason: :drained}} = EventRelay.assert_event([:reactor, :connection, :stop])
      {:ok, again} = :gen_udp.open(port, ip: {127, 0, 0, 1})
      :gen_udp.close(again)
      _ = context
    end
  end

  test "two servers cannot have one port, unless they share it", context do
    server = udp(context, UdpEcho)
    options = [protocol: :udp, ip: :loopback, port: port(server)]
    assert Reactor.start(UdpEcho, options) == {:error, :eaddrinuse}

    first = udp(context, UdpEcho, reuseport: true)
    second = udp(context, UdpEcho, reuseport: true, port: port(first))
    # The kernel chooses by the client's port.
    assert eventually(fn ->
             client = client()
             :ok = put_to(client, first, "hello")
             "hello" = take_from(client)
             :gen_udp.close(client)
             Enum.all?([first, second], &(Reactor.info(&1).received > 0))
           end)
  end

  test "one port takes IPv4 and IPv6, and answers both", context do
    server = udp(context, UdpEcho, ip: "::", ipv6_v6only: false)
    client = client()
    :ok = put_to(client, server, "four")
    assert take_from(client) == "four"
    {:ok, client} = :gen_udp.open(0, [:binary, :inet6, active: false])
    :ok = :gen_udp.send(client, {0, 0, 0, 0, 0, 0, 0, 1}, port(server), "six")
    assert take_from(client) == "six"
  end
end
