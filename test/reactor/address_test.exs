defmodule Reactor.AddressTest do
  use ExUnit.Case, async: true

  alias Reactor.Address

  test "is written as people do" do
    for {address, text} <- [
          {{{127, 0, 0, 1}, 80}, "127.0.0.1:80"},
          {{{0, 0, 0, 0, 0, 0, 0, 1}, 80}, "[::1]:80"},
          {{:local, "/run/a.sock"}, "/run/a.sock"},
          {{{:local, "/run/a.sock"}, 0}, "/run/a.sock"},
          {{:local, "/run/a\nb"}, ~S("/run/a\nb")},
          {{:local, <<0, "name">>}, "@name"},
          {{:local, <<0, 255>>}, "@<<255>>"},
          {{:local, ""}, "a local client"},
          {nil, "an unknown address"}
        ] do
      assert Address.to_text(address) == text
    end
  end

  test "of a Unix socket may be text of either kind" do
    assert Address.local("/run/a.sock") == {:ok, {:local, "/run/a.sock"}}
    assert Address.local(~c"/run/a.sock") == {:ok, {:local, "/run/a.sock"}}
    assert Address.local([0, ?a]) == {:ok, {:local, <<0, ?a>>}}
  end
end

for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.AddressTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    # A client of this family, which is all that is asked: TLS comes after that.
    defp reaches?(server, ip) do
      family = if tuple_size(ip) == 8, do: :inet6, else: :inet

      case :gen_tcp.connect(ip, port(server), [family, active: false], 5_000) do
        {:ok, client} -> :gen_tcp.close(client) == :ok
        {:error, :econnrefused} -> false
      end
    end

    @four {127, 0, 0, 1}
    @six {0, 0, 0, 0, 0, 0, 0, 1}

    test "ip :any is every IPv4 address", context do
      server = serve(context, MyApp.Echo, ip: :any)
      assert Reactor.info(server).ip == {0, 0, 0, 0}
      assert {reaches?(server, @four), reaches?(server, @six)} == {true, false}
      assert reaches?(server, {127, 0, 0, 2})
    end

    test "ipv6_v6only: false lets IPv4 in by the same port", context do
      server = serve(context, MyApp.Echo, ip: "::", ipv6_v6only: false)
      assert Reactor.info(server).ip == {0, 0, 0, 0, 0, 0, 0, 0}
      assert {reaches?(server, @four), reaches?(server, @six)} == {true, true}
    end

    test "ipv6_v6only: true keeps it away, and leaves the port to others", context do
      server = serve(context, MyApp.Echo, ip: "::", ipv6_v6only: true)
      assert {reaches?(server, @four), reaches?(server, @six)} == {false, true}

      # Of IPv4 somebody may happen to have it.
      beside =
        Enum.find_value(1..20, fn _ ->
          six = serve(context, MyApp.Echo, ip: "::", ipv6_v6only: true)
          options = [transport: option(context), ip: :any, port: port(six)] ++ secure(context)

          case Reactor.start(MyApp.Echo, options) do
            {:ok, four} -> {four, six}
            {:error, :eaddrinuse} -> nil
          end
        end)

      assert {four, six} = beside
      assert port(four) == port(six)
      assert {reaches?(four, @four), reaches?(six, @six)} == {true, true}
      assert Reactor.stop(four) == :ok
    end

    test "ipv6_v6only is for IPv6", context do
      for {ip, only} <- [{:any, false}, {"127.0.0.1", true}] do
        options = [transport: option(context), ip: ip, ipv6_v6only: only]
        assert {:error, error} = Reactor.start(MyApp.Echo, options ++ secure(context))

        assert Exception.message(error) ==
                 ~s(option :ipv6_v6only must be left out where :ip is not an IPv6 address, as "::", ) <>
                   "got: #{only}"
      end
    end

    defp secure(%{transport: :SSL}), do: [secure: Reactor.Certificates.server()]
    defp secure(_context), do: []

    if transport not in [:Native, :NativeTLS] do
      test "what only the native transport has is refused, and that one is named", context do
        for {name, value, none} <- [
              {:fd, 3, "left out"},
              {:reuseport, true, "false"},
              {:num_listen_sockets, 2, "1"}
            ] do
          options = [{:transport, option(context)}, {name, value}]
          assert {:error, error} = Reactor.start(MyApp.Echo, options ++ secure(context))

          assert Exception.message(error) =~
                   ~r/^option :#{name} must be #{none} with transport :\w+ \(:native has it\), got/
        end
      end
    end
  end
end

defmodule Reactor.AddressTest.Several do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{ConfigError, Connection, Server}

  @python Path.expand("../support/python", __DIR__)

  defmodule PyEcho do
    use Reactor, python: "plain_echo:PlainEcho"
  end

  # How many sockets listen on a port, as the kernel counts them.
  defp listening(port) do
    hex = port |> Integer.to_string(16) |> String.pad_leading(4, "0")

    "/proc/net/tcp"
    |> File.stream!()
    |> Enum.count(&(&1 =~ ~r/^\s*\d+: [0-9A-F]{8}:#{hex} 00000000:0000 0A /))
  end

  defp many(server, module) do
    clients = for _ <- 1..64, do: dial(server)
    for client <- clients, do: assert({module, echo(client, "hello")} == {module, "hello"})
    assert Reactor.info(server).connections == 64
    Enum.each(clients, &:gen_tcp.close/1)
  end

  test "reuseport lets two servers have one port; without it the second is refused", context do
    first = serve(context, MyApp.Echo, reuseport: true)
    second = serve(context, MyApp.Echo, reuseport: true, port: port(first))
    assert listening(port(first)) == 2

    # The kernel chooses by the client's address: that all of 200 go to one does not happen.
    clients = for _ <- 1..200, do: dial(first)
    for client <- clients, do: assert(echo(client, "x") == "x")
    counts = for server <- [first, second], do: Reactor.info(server).connections
    assert Enum.sum(counts) == 200
    refute 0 in counts

    alone = [ip: :loopback, port: port(first)]
    assert Reactor.start(MyApp.Echo, alone) == {:error, :eaddrinuse}
    other = serve(context, MyApp.Echo)
    options = [ip: :loopback, reuseport: true, port: port(other)]
    assert Reactor.start(MyApp.Echo, options) == {:error, :eaddrinuse}
  end

  for {module, options} <- [{MyApp.Echo, []}, {PyEcho, [contexts: 2, paths: [@python]]}] do
    describe "num_listen_sockets for #{inspect(module)}:" do
      @describetag handler: module, own: options

      test "so many have the port that the first was given, and all are accepted from", context do
        options = [reuseport: true, num_listen_sockets: 4, max_connections: 64] ++ context.own
        server = serve(context, context.handler, options)
        assert listening(port(server)) == 4
        many(server, context.handler)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      test "the limits are as exact as with one", context do
        limits = [max_connections: 10, overload: :reject]
        options = [reuseport: true, num_listen_sockets: 4] ++ limits ++ context.own
        server = serve(context, context.handler, options)
        clients = for _ <- 1..40, do: dial(server)
        assert eventually(fn -> Reactor.info(server).rejected == 30 end)
        assert Reactor.info(server).connections == 10
        Enum.each(clients, &:gen_tcp.close/1)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
        many = for _ <- 1..10, do: dial(server)
        for client <- many, do: assert(echo(client, "x") == "x")
      end

      test "who waits for room in the backlog of any gets it", context do
        limits = [max_connections: 1, overload: :wait]
        options = [reuseport: true, num_listen_sockets: 4] ++ limits ++ context.own
        server = serve(context, context.handler, options)

        1..40
        |> Enum.map(fn _ ->
          Task.async(fn ->
            client = dial(server)
            assert echo(client, "x") == "x"
            :gen_tcp.close(client)
          end)
        end)
        |> Task.await_many(30_000)

        assert %{accepted: 40, rejected: 0} = Reactor.info(server)
      end

      test "all are closed and opened again together", context do
        options = [reuseport: true, num_listen_sockets: 4] ++ context.own
        server = serve(context, context.handler, options)
        port = port(server)
        client = dial(server)
        assert echo(client, "before") == "before"
        assert Reactor.suspend(server) == :ok
        assert listening(port) == 0
        assert :gen_tcp.connect({127, 0, 0, 1}, port, []) == {:error, :econnrefused}
        assert Reactor.resume(server) == :ok
        assert {listening(port), port(server)} == {4, port}
        assert echo(client, "after") == "after"
        :gen_tcp.close(client)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
        many(server, context.handler)
        assert {:ok, %{cut: 0}} = Reactor.drain(server, 5_000)
        assert listening(port) == 0
      end
    end
  end

  test "a listening process that is killed leaves no socket of several behind", context do
    server = serve(context, MyApp.Echo, reuseport: true, num_listen_sockets: 4)
    port = port(server)

    for _ <- 1..2 do
      listening = server |> Server.board() |> Server.whereis(:listening_socket)
      Process.exit(listening, :kill)

      assert eventually(fn ->
               now = server |> Server.board() |> Server.whereis(:listening_socket)
               now not in [nil, listening] and listening(port) == 4
             end)
    end

    assert Reactor.info(server).port == port
    client = dial(server)
    assert echo(client, "hello") == "hello"
  end

  test "several need a port that may be shared" do
    assert {:error, %ConfigError{} = error} = Reactor.start(MyApp.Echo, num_listen_sockets: 2)

    assert Exception.message(error) ==
             "option :reuseport must be true where :num_listen_sockets is above 1, got: false"
  end

  describe "fd" do
    # Somebody else's listening socket.
    defp foreign(options \\ [ip: {127, 0, 0, 1}]) do
      {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false] ++ options)
      {:ok, fd} = :inet.getfd(listening)
      {:ok, port} = :inet.port(listening)
      {listening, fd, port}
    end

    defp take_over(module, fd, options) do
      # Not one that is started again when it is stopped.
      {:ok, server} = Reactor.start(module, [fd: fd] ++ options)
      on_exit(fn -> Reactor.stop(server) end)
      server
    end

    for {module, options} <- [{MyApp.Echo, []}, {PyEcho, [contexts: 2, paths: [@python]]}] do
      test "is served by #{inspect(module)}, suspended and resumed, and never closed" do
        {listening, fd, port} = foreign()
        server = take_over(unquote(module), fd, unquote(options))
        assert %{ip: {127, 0, 0, 1}, port: ^port} = Reactor.info(server)
        many(server, unquote(module))

        # The same number again for the same socket.
        for _ <- 1..3 do
          assert Reactor.suspend(server) == :ok
          assert Reactor.resume(server) == :ok
          for _ <- 1..3, do: assert(echo(dial(server), "hello") == "hello")
        end

        for round <- 1..3 do
          assert Reactor.suspend(server) == :ok
          # Who comes meanwhile waits in the backlog, which is still there.
          client = dial(server)
          :ok = :gen_tcp.send(client, "round #{round}")
          assert Reactor.resume(server) == :ok
          assert :gen_tcp.recv(client, 7, 5_000) == {:ok, "round #{round}"}
        end

        assert eventually(fn -> match?({:ok, %{cut: 0}}, Reactor.drain(server, 5_000)) end)
        assert Reactor.resume(server) == :ok
        assert echo(dial(server), "at last") == "at last"
        assert Reactor.update(server, max_connections: 5) == :ok
        assert Reactor.stop(server, 0) == :ok

        # It is as it was, for whoever has it.
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        {:ok, theirs} = :gen_tcp.accept(listening, 5_000)
        :ok = :gen_tcp.send(theirs, "mine")
        assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "mine"}
      end
    end

    test "may be of IPv6 or a Unix socket, whose path stays" do
      {_listening, fd, port} = foreign([:inet6, ip: {0, 0, 0, 0, 0, 0, 0, 1}])
      server = take_over(MyApp.Echo, fd, [])
      assert %{ip: {0, 0, 0, 0, 0, 0, 0, 1}, port: ^port} = Reactor.info(server)

      path = Path.join(System.tmp_dir!(), "reactor-#{System.unique_integer([:positive])}.sock")
      {_listening, fd, _port} = foreign([:local, ip: {:local, path}])
      on_exit(fn -> File.rm(path) end)
      {:ok, server} = Reactor.start(MyApp.Echo, fd: fd)
      assert %{ip: {:local, ^path}, port: 0} = Reactor.info(server)
      {:ok, client} = :gen_tcp.connect({:local, path}, 0, [:binary, :local, active: false])
      assert echo(client, "hello") == "hello"
      assert Reactor.stop(server) == :ok
      assert File.exists?(path)
    end

    test "that is something else is refused by its name" do
      {:ok, udp} = :gen_udp.open(0)
      {:ok, datagrams} = :inet.getfd(udp)
      {_listening, _fd, port} = foreign()
      {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
      {:ok, connection} = :inet.getfd(client)

      for {fd, what} <- [
            {datagrams, "a datagram socket"},
            {connection, "a connection, it does not listen"},
            {1_000_000, "not open"}
          ] do
        assert {:error, %ConfigError{option: :fd} = error} = Reactor.start(MyApp.Echo, fd: fd)

        assert Exception.message(error) ==
                 "option :fd must be a descriptor of a listening stream socket (it is #{what}), " <>
                   "got: #{fd}"
      end
    end

    test "has an address already" do
      for {name, value} <- [
            ip: {127, 0, 0, 1},
            port: 80,
            unix: [mode: 0o600],
            reuseport: true,
            num_listen_sockets: 2
          ] do
        assert {:error, %ConfigError{option: ^name} = error} =
                 Reactor.start(MyApp.Echo, [{:fd, 3}, {name, value}])

        assert Exception.message(error) =~
                 "must be left out with :fd, whose socket is open already"
      end
    end
  end

  test "a connection tells its peer's address whatever the family", context do
    server = serve(context, Reactor.TransportCase.Lend, ip: "::", ipv6_v6only: false)
    client = dial(server)
    {:ok, {_ip, port}} = :inet.sockname(client)
    assert_receive {:lent, %Connection{} = connection}
    mapped = {{0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1}, port}
    assert Reactor.Socket.remote(connection) == {:ok, mapped}
    assert [%{remote: ^mapped}] = Reactor.connections(server)
  end
end
