defmodule Reactor.Transport.Native.ProxyTest do
  use Reactor.TransportCase, transport: :Native, async: true

  alias Reactor.{Certificates, ConfigError, Connection, EventRelay, Socket}

  # Answers the first data with what it knows, and then echoes.
  defmodule Teller do
    use Reactor

    def handle(connection) do
      with {:ok, data} <- Socket.recv(connection) do
        send(connection.listener.env, {:proxy, Connection.proxy(connection), data})
        Socket.send(connection, "told")
        MyApp.Echo.handle(connection)
      end
    end
  end

  defmodule PyTeller do
    use Reactor,
      python: "client_info:Who",
      paths: [Path.expand("../../../support/python", __DIR__)]
  end

  @line "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n"
  @signature "\r\n\r\n\0\r\nQUIT\n"
  @binary @signature <> <<0x21, 0x11, 12::16, 192, 0, 2, 1, 198, 51, 100, 2, 4711::16, 443::16>>

  @source {{192, 0, 2, 1}, 4711}
  @destination {{198, 51, 100, 2}, 443}

  defp trusting(context, options \\ []) do
    {proxy, options} = Keyword.pop(options, :proxy, trusted: ["127.0.0.0/8"])
    {module, options} = Keyword.pop(options, :module, Teller)
    serve(context, module, [proxy: proxy, env: self()] ++ options)
  end

  defp connect(server, data) do
    client = dial(server)
    put(client, data)
    client
  end

  defp told(client) do
    assert take(client, 4) == {:ok, "told"}
    assert_receive {:proxy, proxy, data}, 5_000
    {proxy, data}
  end

  describe "a listener that trusts its peer" do
    test "reads a header of either version, and what is behind it is the handler's", context do
      server = trusting(context)

      for {header, version} <- [{@line, 1}, {@binary, 2}] do
        client = connect(server, header <> "hello")
        {proxy, "hello"} = told(client)

        assert %{
                 version: ^version,
                 command: :proxy,
                 source: @source,
                 destination: @destination
               } = proxy

        assert echo(client, "more") == "more"
      end

      assert Enum.map(Reactor.connections(server), & &1.proxy.source) == [@source, @source]
    end

    test "reads one that comes byte by byte", context do
      server = trusting(context)

      for header <- [@line, @binary] do
        client = dial(server, nodelay: true)
        for <<byte::binary-1 <- header>>, do: put(client, byte)
        put(client, "x")
        assert {%{source: @source}, "x"} = told(client)
      end
    end

    test "knows the proxy's own connections, and those that it says nothing of", context do
      server = trusting(context)
      local = connect(server, @signature <> <<0x20, 0, 0::16>> <> "x")
      assert {%{command: :local, source: nil, transport: nil}, "x"} = told(local)
      unknown = connect(server, "PROXY UNKNOWN\r\nx")
      assert {%{command: :proxy, source: nil, version: 1}, "x"} = told(unknown)
    end

    test "tells a Python protocol", context do
      server = trusting(context, module: PyTeller)
      client = connect(server, @line <> "who")
      put(client, "")
      assert {:ok, answer} = take(client, 0)
      assert answer =~ ~s("proxy": {"version": 1, "command": "proxy")
      assert answer =~ ~s("source": ["192.0.2.1", 4711], "destination": ["198.51.100.2", 443])
    end

    test "closes what begins in another way, says why, and nothing else", context do
      server = trusting(context)
      good = connect(server, @line <> "x")
      told(good)
      EventRelay.attach(port: port(server))

      bad = [
        "GET / HTTP/1.1\r\n\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 04711 443\r\n",
        "PROXY " <> String.duplicate("x", 200),
        @signature <> <<0x31, 0x11, 12::16, 0::96>>,
        # A length that lies, and one that is beyond the bound.
        @signature <> <<0x21, 0x11, 11::16, 0::88>>,
        @signature <> <<0x21, 0x11, 65_535::16>>
      ]

      for bytes <- bad do
        assert bytes |> then(&connect(server, &1)) |> read_all() == ""
        EventRelay.assert_stopped(:proxy)
      end

      # One that ends in the middle.
      for cut <- [1, 12, byte_size(@binary) - 1] do
        client = connect(server, binary_part(@binary, 0, cut))
        shut(client, :write)
        assert read_all(client) == ""
        EventRelay.assert_stopped(:proxy)
      end

      refute_received {:proxy, _proxy, _data}
      assert echo(good, "still") == "still"
    end

    test "does not wait for ever, nor keep others waiting", context do
      server = trusting(context, proxy: [trusted: ["127.0.0.1"], timeout: 200], acceptors: 1)
      EventRelay.attach(port: port(server))
      silent = for _ <- 1..5, do: dial(server)
      slow = connect(server, "PROXY TCP4 ")
      assert {%{source: @source}, "x"} = told(connect(server, @line <> "x"))
      for client <- [slow | silent], do: assert(read_all(client) == "")
      for _ <- 1..6, do: EventRelay.assert_stopped(:proxy_timeout)
    end

    test "speaks TLS behind the header, together with it or later", context do
      server = trusting(context, secure: Certificates.server())
      trusted = [cacertfile: Certificates.get().cacertfile]

      {:ok, later} = :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false])
      :ok = :gen_tcp.send(later, @binary)

      {:ok, tls} =
        :ssl.connect(
          later,
          trusted ++ [verify: :verify_peer, server_name_indication: ~c"localhost"]
        )

      :ok = :ssl.send(tls, "later")
      assert {%{source: @source}, "later"} = told(tls)

      # The header and the handshake in one segment, mostly.
      proxy = [version: 2, source: @source, destination: @destination]
      options = [secure: trusted, proxy: proxy, nodelay: false]
      {:ok, connection} = Reactor.connect("localhost", port(server), options)
      assert Connection.secure?(connection)
      Socket.send!(connection, "together")
      assert Socket.recv(connection, 4, 5_000) == {:ok, "told"}
      assert_receive {:proxy, %{source: @source, destination: @destination}, "together"}
    end

    test "drains those that have not said anything yet", context do
      server = trusting(context)
      client = dial(server)
      assert eventually(fn -> match?([%{state: :greeting}], Reactor.connections(server)) end)
      assert {:ok, %{connections: 1, cut: 0}} = Reactor.drain(server, 5_000)
      assert read_all(client) == ""
    end

    test "trusts the peers of its Unix socket if it is told to", context do
      path = Path.join(System.tmp_dir!(), "reactor-proxy-#{System.unique_integer([:positive])}")
      server = trusting(context, proxy: [trusted: [:local]], ip: {:local, path})
      proxy = [source: @source, destination: @destination]
      {:ok, connection} = Reactor.connect({:local, path}, 0, proxy: proxy)
      Socket.send!(connection, "x")
      assert_receive {:proxy, %{source: @source, version: 2}, "x"}, 5_000

      assert {:error, %ConfigError{option: :proxy}} =
               Reactor.connect({:local, path}, 0, proxy: [source: @source])

      assert Reactor.stop(server) == :ok
    end
  end

  describe "a listener that does not trust its peer" do
    test "takes what looks like a header for data", context do
      server = trusting(context, proxy: [trusted: ["10.0.0.0/8", "::1", :local]])

      for header <- [@line, @binary] do
        assert {nil, ^header} = told(connect(server, header))
      end

      assert [%{proxy: nil}, %{proxy: nil}] = Reactor.connections(server)
    end

    test "nor does one that expects none", context do
      server = serve(context, Teller, env: self())
      assert {nil, @line} = told(connect(server, @line))
    end

    test "nor do handlers in Python", context do
      server = trusting(context, module: PyTeller, proxy: [trusted: ["10.0.0.0/8"]])
      assert {:ok, answer} = server |> connect(@line) |> take(0)
      assert answer =~ ~s("proxy": null)
    end
  end

  describe "connect" do
    test "says whose connection it is, in either version", context do
      server = trusting(context)

      for version <- [1, 2] do
        proxy = [version: version, source: {"192.0.2.1", 4711}, destination: @destination]
        {:ok, connection} = Reactor.connect("127.0.0.1", port(server), proxy: proxy)
        Socket.send!(connection, "x")
        assert Socket.recv(connection, 4, 5_000) == {:ok, "told"}
        assert_receive {:proxy, %{version: ^version, source: @source} = told, "x"}
        assert told.destination == @destination
      end
    end

    test "says its own addresses if it is not told others", context do
      server = trusting(context)
      {:ok, connection} = Reactor.connect("127.0.0.1", port(server), proxy: [])
      Socket.send!(connection, "x")
      assert_receive {:proxy, %{version: 2} = told, "x"}, 5_000
      assert {:ok, told.source} == Socket.local(connection)
      assert {:ok, told.destination} == Socket.remote(connection)
    end
  end
end
