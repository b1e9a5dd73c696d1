defmodule Reactor.Transport.SSLTest do
  use Reactor.TransportCase, async: true, transport: :SSL

  alias Reactor.{Certificates, Connection, Socket, Transport}

  # Echoes; but whoever says "wait" is not answered until the test says so.
  defmodule Echo do
    use Reactor

    def handle(connection) do
      case Socket.recv(connection) do
        {:ok, "wait"} ->
          send(connection.listener.env, {:waiting, self()})
          receive(do: (:go_on -> :ok))
          Socket.send!(connection, "waited")
          handle(connection)

        {:ok, data} ->
          Socket.send!(connection, data)
          handle(connection)

        {:error, reason} ->
          send(connection.listener.env, {:ended, reason})
      end
    end
  end

  defmodule Own do
    use Reactor

    # What it returns needs no handshake any more.
    def accept(listener) do
      with {:ok, connection} <- Connection.accept(listener),
           {:ok, socket} <- Transport.handshake(connection.socket, listener) do
        {:ok, %{connection | socket: socket}}
      end
    end

    def handle(connection), do: Echo.handle(connection)
  end

  defp connect(server, options \\ []) do
    secure = Keyword.get(options, :secure, Certificates.trusting())
    {host, options} = Keyword.pop(options, :host, "localhost")
    options = Keyword.merge([transport: :ssl, secure: secure], options)
    Reactor.connect(host, port(server), options)
  end

  defp connect_to(port, options),
    do: Reactor.connect("localhost", port, [transport: :ssl] ++ options)

  defp plain(server) do
    {:ok, client} =
      :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false], 5_000)

    client
  end

  describe "a listener" do
    test "speaks TLS, with both ends of this package", context do
      server = serve(context, Echo)
      {:ok, connection} = connect(server)
      Socket.send!(connection, "hello")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
      assert Transport.secure?(connection.socket)
      assert Transport.of(connection.socket) == Transport.SSL
      assert Reactor.info(server).transport == Transport.SSL
    end

    test "takes a certificate and key without files, and several", context do
      %{cert: cert, key: key, certfile: certfile, keyfile: keyfile} = Certificates.get()

      for secure <- [
            [cert: cert, key: key],
            [cert: [cert], key: fn -> key end],
            [certs_keys: [%{cert: cert, key: key}]],
            [certs_keys: [%{certfile: certfile, keyfile: keyfile}]]
          ] do
        {:ok, connection} = context |> serve(Echo, secure: secure) |> connect()
        assert Socket.peer_certificate(connection) == {:ok, cert}
      end
    end

    @tag :tmp_dir
    test "takes an encrypted key", %{tmp_dir: directory} = context do
      %{certfile: certfile, key: {type, der}} = Certificates.get()
      keyfile = Path.join(directory, "encrypted.key")
      cipher = {{~c"DES-EDE3-CBC", :crypto.strong_rand_bytes(8)}, ~c"open sesame"}
      key = :public_key.der_decode(type, der)
      entry = :public_key.pem_entry_encode(type, key, cipher)
      File.write!(keyfile, :public_key.pem_encode([entry]))
      files = [certfile: certfile, keyfile: keyfile]

      for password <- ["open sesame", ~c"open sesame", fn -> "open sesame" end] do
        server = serve(context, Echo, secure: files ++ [password: password])
        assert {:ok, _connection} = connect(server)
      end

      assert {:error, error} =
               Reactor.start(Echo, transport: :ssl, secure: files ++ [password: "shut sesame"])

      assert error.option == :password

      assert Exception.message(error) =~
               "must be the one that #{inspect(keyfile)} is encrypted with"

      refute Exception.message(error) =~ "sesame"

      assert {:error, error} = Reactor.start(Echo, transport: :ssl, secure: files)
      assert Exception.message(error) =~ "option :password must be given, since"
    end

    @tag :tmp_dir
    test "finds out at once what is wrong with its files", %{tmp_dir: directory} do
      %{certfile: certfile, keyfile: keyfile, client_keyfile: other} = Certificates.get()
      missing = Path.join(directory, "missing.pem")
      garbled = Path.join(directory, "garbled.pem")
      File.write!(garbled, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
      empty = Path.join(directory, "empty.pem")
      File.write!(empty, "")

      for {secure, option, message} <- [
            {[certfile: missing, keyfile: keyfile], :certfile, "no such file or directory"},
            {[certfile: garbled, keyfile: keyfile], :certfile, "a PEM file with a certificate"},
            {[certfile: empty, keyfile: keyfile], :certfile, "a PEM file with a certificate"},
            {[certfile: directory, keyfile: keyfile], :certfile,
             "illegal operation on a directory"},
            {[certfile: certfile], :keyfile,
             "a PEM file with a private key (there is none in it)"},
            {[certfile: certfile, keyfile: missing], :keyfile, "no such file or directory"},
            {[certfile: certfile, keyfile: certfile], :keyfile, "a PEM file with a private key"},
            {[certfile: certfile, keyfile: other], :keyfile, "the key of the certificate"},
            {[certs_keys: [%{certfile: certfile, keyfile: other}]], :keyfile,
             "the key of the certificate"},
            {[certfile: certfile, keyfile: keyfile, cacertfile: missing], :cacertfile,
             "no such file"},
            {[certfile: certfile, keyfile: keyfile, cacertfile: keyfile], :cacertfile,
             "a PEM file with a certificate"},
            {[certfile: certfile, keyfile: keyfile, ciphers: :strong], :ciphers,
             "what :ssl takes for it"},
            {[certfile: certfile, keyfile: keyfile, eccs: 7], :eccs, "what :ssl takes for it"}
          ] do
        assert {:error, %Reactor.ConfigError{option: ^option} = error} =
                 Reactor.start(Echo, transport: :ssl, ip: :loopback, secure: secure)

        assert Exception.message(error) =~ message
      end
    end

    test "negotiates a protocol", context do
      server = serve(context, Echo, secure: [alpn: ["h2", "http/1.1"]] ++ Certificates.server())
      trusting = Certificates.trusting()

      for {offered, agreed} <- [{["http/1.1", "h2"], "h2"}, {["http/1.1"], "http/1.1"}, {[], nil}] do
        {:ok, connection} = connect(server, secure: [alpn: offered] ++ trusting)
        assert Transport.negotiated_protocol(connection.socket) == agreed
      end

      assert {:error, {:tls_alert, {:no_application_protocol, _text}}} =
               connect(server, secure: [alpn: ["gopher"]] ++ trusting)
    end

    test "can ask for a client's certificate", context do
      files = Certificates.get()
      [certificate] = pem(files.client_certfile)

      secure =
        Certificates.server() ++
          Certificates.trusting() ++ [verify: :verify_peer, fail_if_no_peer_cert: true]

      server = serve(context, Reactor.TransportCase.Lend, secure: secure)
      own = [certfile: files.client_certfile, keyfile: files.client_keyfile]
      assert {:ok, _} = connect(server, secure: own ++ Certificates.trusting())
      assert_receive {:lent, connection}
      assert Socket.peer_certificate(connection) == {:ok, certificate}

      # With TLS 1.3 the client learns of it when it reads, if not only that it is over.
      versions = [versions: [:"tlsv1.3"]] ++ Certificates.trusting()
      {:ok, connection} = connect(server, secure: versions)
      assert {:error, _closed_or_alert} = Socket.recv(connection, 0, 5_000)
      versions = [versions: [:"tlsv1.2"]] ++ Certificates.trusting()

      assert {:error, {:tls_alert, {:handshake_failure, _text}}} =
               connect(server, secure: versions)

      refute_received {:lent, _}
    end

    test "without that has none", context do
      {connection, _client} = pair(context)
      assert Socket.peer_certificate(connection) == {:error, :no_peercert}
    end

    test "speaks the versions it is told to", context do
      for version <- [:"tlsv1.2", :"tlsv1.3"] do
        server = serve(context, Echo, secure: [versions: [version]] ++ Certificates.server())
        {:ok, %{socket: socket}} = connect(server)
        assert {:ok, [protocol: ^version]} = :ssl.connection_information(socket, [:protocol])
      end
    end

    test "is not held up by clients that do not begin", context do
      secure = [handshake_timeout: 300] ++ Certificates.server()
      server = serve(context, Echo, acceptors: 1, secure: secure)
      silent = for _ <- 1..10, do: plain(server)
      {:ok, connection} = connect(server)
      Socket.send!(connection, "hello")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
      # They have been given up.
      for client <- silent, do: assert({:error, :closed} = :gen_tcp.recv(client, 0, 5_000))
      Socket.send!(connection, "hello")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
    end

    test "survives what is no TLS at all", context do
      server = serve(context, Echo)

      for _ <- 1..5 do
        client = plain(server)
        :ok = :gen_tcp.send(client, "GET / HTTP/1.0\r\n\r\n")
        read_all(client)
      end

      assert {:ok, _connection} = connect(server)
    end

    test "accepts what its own accept/1 has greeted", context do
      {:ok, connection} = context |> serve(Own) |> connect()
      Socket.send!(connection, "hello")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
    end

    test "shows nobody its keys", context do
      %{cert: cert, key: {_type, der} = key} = Certificates.get()
      secure = [cert: cert, key: key, password: "open sesame"]
      {connection, _client} = pair(context, secure: secure)
      # As a crash report would print it, by either formatter, and whole.
      elixir = inspect(connection, structs: false, limit: :infinity, printable_limit: :infinity)
      erlang = :io_lib.format("~0p", [connection]) |> IO.iodata_to_binary()

      for printed <- [elixir, erlang] do
        # It does hold the certificate.
        assert printed =~ bytes(cert)
        refute printed =~ bytes(der)
        refute printed =~ "sesame"
      end
    end
  end

  describe "a client" do
    test "trusts nobody it does not know", context do
      server = serve(context, Echo)

      # The authorities of the system, who have not signed this.
      assert {:error, {:tls_alert, {:unknown_ca, _text}}} = connect(server, secure: [])
      assert {:ok, _connection} = connect(server, secure: [verify: :verify_none])
    end

    test "checks the name", context do
      server = serve(context, Echo)
      assert {:ok, _connection} = connect(server, host: "127.0.0.1")
      assert {:ok, _connection} = connect(server, host: {127, 0, 0, 1})
      trusting = Certificates.trusting()

      # The alert's name differs between OTP releases.
      assert {:error, {:tls_alert, {_name, text}}} =
               connect(server, secure: [server_name_indication: "example.org"] ++ trusting)

      assert to_string(text) =~ "hostname_check_failed"
    end

    test "gives up in time" do
      {:ok, listening} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}])
      {:ok, port} = :inet.port(listening)
      secure = Certificates.trusting()
      assert connect_to(port, secure: secure, timeout: 50) == {:error, :timeout}
      :gen_tcp.close(listening)
      assert connect_to(port, secure: secure) == {:error, :econnrefused}
    end

    test "names a file it cannot use", context do
      server = serve(context, Echo)
      assert {:error, error} = connect(server, secure: [cacertfile: "/nowhere/ca.pem"])

      assert Exception.message(error) ==
               "option :cacertfile must be a file that can be read (no such file or directory), " <>
                 "got: \"/nowhere/ca.pem\""
    end
  end

  describe "a server that stops" do
    test "ends what waits, and lets what works answer" do
      server = long_draining()
      {:ok, idle} = connect(server)
      {:ok, busy} = connect(server)
      Socket.send!(idle, "hello")
      assert Socket.recv(idle, 5, 5_000) == {:ok, "hello"}
      Socket.send!(busy, "wait")
      assert_receive {:waiting, handler}

      stopping = Task.async(fn -> Reactor.stop(server) end)

      # The one that waited is told first; the other one answers, and learns of it when it comes for more.
      assert_receive {:ended, :closed}
      assert Socket.recv(idle, 0, 5_000) == {:error, :closed}
      refute Task.yield(stopping, 0)
      send(handler, :go_on)
      assert Socket.recv(busy, 6, 5_000) == {:ok, "waited"}
      assert_receive {:ended, :closed}
      assert Socket.recv(busy, 0, 5_000) == {:error, :closed}
      assert Task.await(stopping, 5_000) == :ok
    end

    test "serves again when it is resumed" do
      server = long_draining()
      {:ok, idle} = connect(server)
      Socket.send!(idle, "hello")
      assert Socket.recv(idle, 5, 5_000) == {:ok, "hello"}
      assert {:ok, %{connections: 1, finished: 1, cut: 0}} = Reactor.drain(server, 5_000)
      assert connect(server) == {:error, :econnrefused}
      assert Reactor.resume(server) == :ok
      {:ok, connection} = connect(server)

      for _ <- 1..2 do
        Socket.send!(connection, "hello")
        assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
      end

      assert Reactor.stop(server) == :ok
    end

    test "does not wait for a client that does not begin" do
      server = long_draining()
      client = plain(server)
      # Its acceptor has it, and another one has taken that one's place.
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      assert Reactor.stop(server) == :ok
      assert read_all(client) == ""
    end

    # As long as a new version that already listens there is to be tried.
    test "leaves a server on the same port alone" do
      server = long_draining(ip: :any)
      port = port(server)
      assert {:ok, %{connections: 0}} = Reactor.drain(server, 0)
      {:ok, other} = Reactor.start(Echo, [ip: :loopback, port: port] ++ tls())
      {:ok, connection} = connect(other)

      for _ <- 1..2 do
        # It comes for more when the first wait of a draining one would be over.
        Process.sleep(100)
        Socket.send!(connection, "hello")
        assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
      end

      assert Reactor.stop(other) == :ok
      assert Reactor.stop(server) == :ok
    end

    # As when a new version has taken its port.
    test "tells those at work also if it was suspended before" do
      server = long_draining()
      {:ok, busy} = connect(server)
      Socket.send!(busy, "wait")
      assert_receive {:waiting, handler}
      assert Reactor.suspend(server) == :ok
      draining = Task.async(fn -> Reactor.drain(server) end)
      assert eventually(fn -> Reactor.info(server).state == :draining end)
      refute Task.yield(draining, 50)
      send(handler, :go_on)
      assert Socket.recv(busy, 6, 5_000) == {:ok, "waited"}
      assert {:ok, {:ok, %{finished: 1, cut: 0}}} = Task.yield(draining, 5_000)
      {:reactor_ssl, table, _port} = Reactor.listener(server).socket
      assert List.keymember?(marks(), table, 1)
      assert Reactor.stop(server) == :ok
      refute List.keymember?(marks(), table, 1)
    end

    test "leaves no mark behind" do
      server = long_draining()
      {:reactor_ssl, table, _port} = Reactor.listener(server).socket
      Reactor.drain(server, 0)
      assert List.keymember?(marks(), table, 1)
      # Nor does one that was killed, once another drains.
      killed = long_draining()
      {:reactor_ssl, killed_table, _port} = Reactor.listener(killed).socket
      Reactor.drain(killed, 0)
      monitor = Process.monitor(killed)
      Process.exit(killed, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      assert eventually(fn -> :ets.info(killed_table) == :undefined end)
      assert Reactor.resume(server) == :ok
      refute List.keymember?(marks(), table, 1)
      {:reactor_ssl, table, _port} = Reactor.listener(server).socket
      assert Reactor.stop(server) == :ok
      refute List.keymember?(marks(), table, 1)
      refute List.keymember?(marks(), killed_table, 1)
    end

    test "answers what has come meanwhile" do
      server = long_draining()
      {:ok, busy} = connect(server)
      Socket.send!(busy, "wait")
      assert_receive {:waiting, handler}
      Socket.send!(busy, "next")
      port = port(server)
      stopping = Task.async(fn -> Reactor.stop(server) end)
      assert eventually(fn -> refused?(port) end)
      send(handler, :go_on)
      assert Socket.recv(busy, 10, 5_000) == {:ok, "waitednext"}
      assert Task.await(stopping, 5_000) == :ok
    end
  end

  defp long_draining(options \\ []) do
    {:ok, server} = Reactor.start(Echo, [ip: :loopback] ++ tls() ++ options)
    server
  end

  defp marks do
    for {{Transport.SSL.Draining, key}, table} <- :persistent_term.get(), do: {key, table}
  end

  defp tls do
    [transport: :ssl, env: self(), secure: Certificates.server(), drain_timeout: 10_000]
  end

  defp refused?(port) do
    case :gen_tcp.connect({127, 0, 0, 1}, port, []) do
      {:error, :econnrefused} -> true
      {:ok, client} -> :gen_tcp.close(client) && false
      {:error, _} -> false
    end
  end

  defp pem(path) do
    for {:Certificate, der, _} <- :public_key.pem_decode(File.read!(path)), do: der
  end

  # Some of a binary, as it is printed.
  defp bytes(binary) do
    binary |> :binary.bin_to_list(20, 20) |> Enum.join(",\\s*") |> Regex.compile!()
  end
end
