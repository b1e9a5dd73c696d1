defmodule Reactor.Transport.NativeTLSTest do
  use Reactor.TransportCase, async: true, transport: :NativeTLS

  alias Reactor.{Certificates, ConfigError, Connection, EventRelay, Socket, Transport}

  @python Path.expand("../../support/python", __DIR__)

  defmodule Echo do
    use Reactor

    def handle(connection) do
      case Socket.recv(connection) do
        {:ok, "who"} ->
          send(connection.listener.env, {:connection, connection})
          Socket.send!(connection, "ok")
          handle(connection)

        {:ok, data} ->
          Socket.send!(connection, data)
          handle(connection)

        {:error, reason} ->
          send(connection.listener.env, {:ended, reason})
      end
    end
  end

  defmodule Reluctant do
    use Reactor

    def accept(listener) do
      send(listener.env, {:accepting, self()})
      receive(do: (:go -> Connection.accept(listener)))
    end

    def handle(connection), do: Echo.handle(connection)
  end

  defmodule Shout do
    use Reactor

    # In active mode from the start, and speaks first.
    def handle(connection) do
      Socket.send!(connection, "hello\n")
      loop(connection, connection.socket)
    end

    defp loop(connection, socket) do
      receive do
        {:tcp, ^socket, data} ->
          # The peer may be gone.
          Socket.send(connection, String.upcase(data))
          loop(connection, socket)

        {:tcp_closed, ^socket} ->
          :ok
      end
    end
  end

  defmodule Routes do
    use Reactor

    def route(_connection), do: {:python, "plain_echo:PlainEcho"}
  end

  defmodule Tells do
    use Reactor, python: "client_info:Tells"
  end

  defp connect(server, secure \\ [], options \\ []) do
    {host, options} = Keyword.pop(options, :host, "localhost")
    Reactor.connect(host, port(server), [secure: secure ++ Certificates.trusting()] ++ options)
  end

  defp plain(server) do
    {:ok, client} =
      :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false], 5_000)

    client
  end

  defp accepted(connection) do
    Socket.send!(connection, "who")
    assert_receive {:connection, accepted}, 5_000
    assert Socket.recv(connection, 2, 5_000) == {:ok, "ok"}
    accepted
  end

  describe "both ends" do
    test "speak TLS without :ssl", context do
      server = serve(context, Echo)
      {:ok, connection} = connect(server)
      Socket.send!(connection, "hello")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "hello"}
      assert Transport.of(connection.socket) == Transport.Native
      assert Connection.secure?(connection) and Connection.secure?(accepted(connection))
    end

    test "carry large messages whole, both ways at once", context do
      server = serve(context, Echo)
      {:ok, connection} = connect(server)
      data = :crypto.strong_rand_bytes(3_000_000)
      sender = Task.async(fn -> Socket.send(connection, data) end)
      assert Socket.recv(connection, 3_000_000, 20_000) == {:ok, data}
      assert Task.await(sender) == :ok
    end

    test "say what they have agreed on", context do
      secure = [alpn: ["h2", "echo"]] ++ Certificates.server()
      server = serve(context, Echo, secure: secure)
      {:ok, connection} = connect(server, alpn: ["echo"])

      for end_ <- [connection, accepted(connection)] do
        assert {:ok, %{version: :"tlsv1.3", cipher: "TLS_" <> _, alpn: "echo"} = info} =
                 Socket.tls_info(end_)

        assert info.sni == "localhost" and info.resumed == false
        assert Connection.negotiated_protocol(end_) == "echo"
      end

      cert = Certificates.get().cert
      assert Socket.peer_certificate(connection) == {:ok, cert}
      assert Socket.peer_certificates(connection) == {:ok, [cert]}
      assert Socket.peer_certificate(accepted(connection)) == {:error, :no_peercert}
      Socket.close(connection)
      assert Socket.tls_info(connection) == {:error, :closed}
      assert Socket.peer_certificates(connection) == {:error, :closed}
    end

    test "have none to tell of without TLS", context do
      {:ok, connection} = Reactor.connect("localhost", port(serve(context, Echo, secure: false)))
      assert Socket.tls_info(connection) == {:error, :not_secure}
      assert Socket.peer_certificates(connection) == {:error, :no_peercert}
      refute Connection.secure?(connection)
    end

    test "end one direction and go on with the other", context do
      server = serve(context, Reactor.TransportCase.Lend)
      {:ok, client} = connect(server)
      assert_receive {:lent, connection}, 5_000
      data = :crypto.strong_rand_bytes(500_000)

      for {one, other} <- [{client, connection}, {connection, client}] do
        unless one == connection do
          sender = Task.async(fn -> {Socket.send(one, data), Socket.shutdown(one, :write)} end)
          assert Socket.recv(other, 500_000, 10_000) == {:ok, data}
          assert Task.await(sender) == {:ok, :ok}
          assert Socket.recv(other, 0, 5_000) == {:error, :closed}
          assert Socket.send(one, "more") == {:error, :closed}
        end
      end

      Socket.send!(connection, data)
      assert Socket.recv(client, 500_000, 10_000) == {:ok, data}
      Socket.close(connection)
      assert Socket.recv(client, 0, 5_000) == {:error, :closed}
    end

    test "work in active mode and with packets", context do
      server = serve(context, Shout, active: true, packet: :line)
      {:ok, connection} = connect(server, [], packet: :line)
      assert Socket.recv(connection, 0, 5_000) == {:ok, "hello\n"}
      Socket.send!(connection, "one\ntwo\n")
      assert Socket.recv(connection, 0, 5_000) == {:ok, "ONE\n"}
      assert Socket.recv(connection, 0, 5_000) == {:ok, "TWO\n"}
    end

    test "resume a session, if the client wants to and the server is not told not to", context do
      for {client, resumes} <- [{[session_tickets: :auto], true}, {[], false}],
          version <- [:"tlsv1.2", :"tlsv1.3"] do
        secure = [versions: [version]] ++ Certificates.server()
        server = serve(context, Echo, secure: secure)
        # The client's keys are kept where its options have no files.
        options = [verify: :verify_none, alpn: []] ++ client
        dial = fn -> Reactor.connect("localhost", port(server), secure: options) end

        resumed =
          for _ <- 1..2 do
            {:ok, connection} = dial.()
            # The ticket comes behind the handshake.
            accepted(connection)
            {:ok, %{resumed: resumed, version: ^version}} = Socket.tls_info(connection)
            Socket.close(connection)
            resumed
          end

        assert List.last(resumed) == resumes
      end

      secure = [session_tickets: :disabled] ++ Certificates.server()
      server = serve(context, Echo, secure: secure)
      options = [secure: [verify: :verify_none, session_tickets: :auto]]

      for _ <- 1..2 do
        {:ok, connection} = Reactor.connect("localhost", port(server), options)
        accepted(connection)
        assert {:ok, %{resumed: false}} = Socket.tls_info(connection)
      end
    end
  end

  describe "a listener" do
    test "takes certificates and keys in every form", context do
      %{cert: cert, key: key, certfile: certfile, keyfile: keyfile} = Certificates.get()
      {:ECPrivateKey, der} = key
      pkcs8 = :public_key.der_encode(:PrivateKeyInfo, :public_key.der_decode(:ECPrivateKey, der))

      for secure <- [
            [cert: cert, key: key],
            [cert: [cert], key: fn -> key end],
            [cert: cert, key: {:PrivateKeyInfo, pkcs8}],
            [certs_keys: [%{cert: cert, key: key}]],
            [certs_keys: [%{certfile: certfile, keyfile: keyfile}]],
            [certfile: String.to_charlist(certfile), keyfile: keyfile]
          ] do
        {:ok, connection} = context |> serve(Echo, secure: secure) |> connect()
        assert Socket.peer_certificate(connection) == {:ok, cert}
      end
    end

    @tag :tmp_dir
    test "takes encrypted keys, and says which password is wrong", context do
      %{certfile: certfile, key: {type, der}} = Certificates.get()
      keyfile = Path.join(context.tmp_dir, "encrypted.key")
      cipher = {{~c"DES-EDE3-CBC", :crypto.strong_rand_bytes(8)}, ~c"open sesame"}
      entry = :public_key.pem_entry_encode(type, :public_key.der_decode(type, der), cipher)
      File.write!(keyfile, :public_key.pem_encode([entry]))
      files = [certfile: certfile, keyfile: keyfile]
      server = serve(context, Echo, secure: files ++ [password: fn -> "open sesame" end])
      assert {:ok, _connection} = connect(server)
      assert {:error, error} = Reactor.start(Echo, secure: files ++ [password: "shut sesame"])
      assert Exception.message(error) =~ "must be the one that #{inspect(keyfile)} is encrypted"
      refute Exception.message(error) =~ "sesame"
    end

    @tag :tmp_dir
    test "takes encrypted PKCS #8 keys of every kind", context do
      root = Certificates.authority("Kinds")

      for {name, kind} <- [
            rsa: {:rsa, 2048, 65_537},
            ec: {:namedCurve, :secp384r1},
            ed: {:namedCurve, :ed25519}
          ] do
        issued = Certificates.issue(root, key: kind, names: ["localhost"])
        certfile = Certificates.certificates(context.tmp_dir, "#{name}.pem", [issued.cert])
        plain = Path.join(context.tmp_dir, "#{name}.plain")
        keyfile = Path.join(context.tmp_dir, "#{name}.key")
        # What OTP 25 writes of an Ed25519 key others cannot read.
        pkcs8 = :public_key.der_encode(:PrivateKeyInfo, issued.signing)

        entry = {:PrivateKeyInfo, pkcs8, :not_encrypted}
        File.write!(plain, :public_key.pem_encode([entry]))

        {_, 0} =
          System.cmd(
            "openssl",
            ~w(pkcs8 -topk8 -in #{plain} -out #{keyfile} -v2 aes-128-cbc -passout pass:sesame),
            stderr_to_stdout: true
          )

        secure = [certfile: certfile, keyfile: keyfile, password: "sesame"]
        server = serve(context, Echo, secure: secure)

        {:ok, connection} =
          Reactor.connect("localhost", port(server), secure: [cacerts: [root.cert]])

        assert Socket.peer_certificate(connection) == {:ok, issued.cert}
      end
    end

    test "shows the certificate that belongs to a name, and that the client can check", context do
      root = Certificates.authority("Names")
      issued = fn names -> Certificates.issue(root, names: names) end
      [default, wild, exact] = for n <- ["localhost", "*.a.test", "www.a.test"], do: issued.([n])
      rsa = Certificates.issue(root, names: ["b.test"], key: {:rsa, 2048, 65_537})
      own = &Map.take(&1, [:cert, :key])

      secure = [
        cert: default.cert,
        key: default.key,
        sni_hosts: [
          {"*.a.test", Map.to_list(own.(wild))},
          {~c"WWW.a.test", Map.to_list(own.(exact))},
          {"b.test", [certs_keys: [own.(rsa), own.(exact)]]}
        ]
      ]

      server = serve(context, Echo, secure: secure)

      for {name, issued} <- [
            {"localhost", default},
            {"c.test", default},
            {"x.a.test", wild},
            {"www.a.test", exact},
            {"b.test", rsa}
          ] do
        options = [verify: :verify_none, server_name_indication: name]
        {:ok, connection} = Reactor.connect("localhost", port(server), secure: options)
        assert Socket.peer_certificate(connection) == {:ok, issued.cert}
        assert {:ok, %{sni: ^name}} = Socket.tls_info(accepted(connection))
      end
    end

    test "asks clients who they are, and refuses those who must say and do not", context do
      %{cacertfile: ca, client_certfile: certfile, client_keyfile: keyfile} = Certificates.get()
      asking = Certificates.server() ++ [verify: :verify_peer, cacertfile: ca]
      server = serve(context, Echo, secure: asking)
      {:ok, known} = connect(server, certfile: certfile, keyfile: keyfile)
      {:ok, [der]} = Reactor.Transport.SSL.Credentials.certificates(certfile)
      assert Socket.peer_certificates(accepted(known)) == {:ok, [der]}
      {:ok, unknown} = connect(server)
      assert Socket.peer_certificates(accepted(unknown)) == {:error, :no_peercert}

      server = serve(context, Echo, secure: asking ++ [fail_if_no_peer_cert: true])
      EventRelay.attach(port: port(server))
      {:ok, known} = connect(server, certfile: certfile, keyfile: keyfile)
      accepted(known)

      # With TLS 1.3 a client is done before the server has looked at it.
      {:ok, unknown} = connect(server)
      assert Socket.recv(unknown, 0, 5_000) == {:error, :tls_alert}
      EventRelay.assert_stopped(:handshake)

      assert {:error, {:tls_alert, {name, _text}}} = connect(server, versions: [:"tlsv1.2"])
      assert name in [:handshake_failure, :certificate_required]
    end

    test "speaks the versions it is told to", context do
      for version <- [:"tlsv1.2", :"tlsv1.3"],
          other = hd([:"tlsv1.2", :"tlsv1.3"] -- [version]) do
        server = serve(context, Echo, secure: [versions: [version]] ++ Certificates.server())
        {:ok, connection} = connect(server)
        assert {:ok, %{version: ^version}} = Socket.tls_info(connection)
        assert {:error, {:tls_alert, {:protocol_version, _}}} = connect(server, versions: [other])
      end
    end

    test "and a client must have a protocol in common, if both name any", context do
      server = serve(context, Echo, secure: [alpn: ["h2", "http/1.1"]] ++ Certificates.server())

      for {offered, agreed} <- [{["http/1.1", "h2"], "h2"}, {["http/1.1"], "http/1.1"}, {[], nil}] do
        {:ok, connection} = connect(server, alpn: offered)
        assert Connection.negotiated_protocol(connection) == agreed
      end

      assert {:error, {:tls_alert, {:no_application_protocol, _}}} =
               connect(server, alpn: ["gopher"])
    end

    test "gives a handshake only so long", context do
      server = serve(context, Echo, secure: [handshake_timeout: 50] ++ Certificates.server())
      EventRelay.attach(port: port(server))
      client = plain(server)
      assert take(client, 0) == {:error, :closed}
      EventRelay.assert_stopped(:handshake_timeout)
      client = plain(server)
      put(client, <<22, 3, 1, 0>>)
      assert take(client, 0) == {:error, :closed}
      assert {:ok, _} = connect(server)
    end

    test "is held up by nobody who is slow", context do
      server = serve(context, Echo, acceptors: 1)
      slow = for _ <- 1..50, do: plain(server)
      {:ok, connection} = connect(server)
      accepted(connection)
      assert eventually(fn -> Reactor.info(server).connections == 51 end)

      assert Enum.count(Reactor.connections(server), &(&1.state == :greeting)) == 50
      Enum.each(slow, &hang_up/1)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
    end

    test "counts those who greet among the open ones", context do
      server = serve(context, Echo, max_connections: 1, overload: :reject)
      slow = plain(server)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      assert {:error, _} = connect(server)
      hang_up(slow)
      assert eventually(fn -> match?({:ok, _}, connect(server)) end)
    end

    test "keeps who has greeted while no acceptor waited, for the next one", context do
      server = serve(context, Reluctant, acceptors: 1)
      assert_receive {:accepting, first}, 5_000
      send(first, :go)
      slow = plain(server)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      {:ok, quick} = connect(server)
      accepted(quick)
      # There is no other acceptor until the test says so.
      assert_receive {:accepting, second}, 5_000
      options = [verify: :verify_none, log_level: :none, active: false]
      {:ok, slow} = :ssl.connect(slow, options, 5_000)
      :ok = put(slow, "x")

      assert eventually(fn ->
               Enum.any?(Reactor.connections(server), &match?(%{state: :open, owner: nil}, &1))
             end)

      send(second, :go)
      assert {:ok, _} = take(slow, 1)
    end

    test "tells what came and was no TLS, and serves the others", context do
      server = serve(context, Echo)
      EventRelay.attach(port: port(server))
      {:ok, other} = connect(server)

      for {bytes, alert?} <- [
            {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", true},
            {:binary.copy(<<0>>, 10_000), true},
            # A record that says it is longer than one may be.
            {<<22, 3, 1, 0xFF, 0xFF, 1, 2, 3>>, true},
            # A greeting that ends in the middle.
            {<<22, 3, 1, 0, 100, 1, 0, 0, 96>>, false}
          ] do
        client = plain(server)
        put(client, bytes)
        unless alert?, do: shut(client, :write)
        answer = read_all(client)
        if alert?, do: assert(<<21, 3, _, 0, 2, 2, _alert>> = answer), else: assert(answer == "")
        EventRelay.assert_stopped(:handshake)
      end

      Socket.send!(other, "still here")
      assert Socket.recv(other, 10, 5_000) == {:ok, "still here"}
      refute_received {:ended, _reason}
    end

    test "tells a stream that was cut from one that ended", context do
      server = serve(context, Echo)
      EventRelay.attach(port: port(server))
      {:ok, client} = connect(server)
      accepted(client)
      Socket.close(client)
      assert_receive {:ended, :closed}, 5_000
      EventRelay.assert_stopped(:remote)

      # A client of :ssl whose socket goes without a word.
      client = dial(server)
      assert echo(client, "x") == "x"
      port = client |> Tuple.to_list() |> Enum.find_value(&socket_of/1)
      :ok = :prim_inet.shutdown(port, :write)
      assert_receive {:ended, :closed}, 5_000
      EventRelay.assert_stopped(:truncated)
    end

    defp socket_of(term) when is_port(term), do: term

    defp socket_of(term) when is_tuple(term),
      do: term |> Tuple.to_list() |> Enum.find_value(&socket_of/1)

    defp socket_of(_other), do: nil

    test "closes on a record that was tampered with, and says so", context do
      server = serve(context, Echo)
      EventRelay.attach(port: port(server))
      client = dial(server)
      assert echo(client, "x") == "x"
      port = client |> Tuple.to_list() |> Enum.find_value(&socket_of/1)
      :ok = :prim_inet.send(port, <<23, 3, 3, 0, 32, 0::256>>)
      assert_receive {:ended, :tls_alert}, 5_000
      EventRelay.assert_stopped(:tls_alert)
    end

    test "drains: who greets is closed, and who is done is told", context do
      server = serve(context, Echo)
      slow = plain(server)
      {:ok, client} = connect(server)
      accepted(client)
      assert eventually(fn -> Reactor.info(server).connections == 2 end)
      assert {:ok, %{connections: 2, cut: 0}} = Reactor.drain(server)
      assert read_all(slow) == ""
      assert Socket.recv(client, 0, 5_000) == {:error, :closed}
    end

    test "is suspended, and who has begun to greet is still served", context do
      server = serve(context, Echo)
      slow = plain(server)
      assert eventually(fn -> Reactor.info(server).connections == 1 end)
      assert Reactor.suspend(server) == :ok

      {:ok, client} =
        :ssl.connect(slow, [verify: :verify_none, log_level: :none, active: false], 5_000)

      assert echo(client, "x") in ["x", ~c"x"]
      assert Reactor.resume(server) == :ok
      assert {:ok, _} = connect(server)
    end

    test "refuses what the native transport does not have, and says who does" do
      files = Certificates.server()

      for {option, value, expected} <- [
            {:ciphers, [], "left out with transport :native (transport: :ssl takes it)"},
            {:depth, 1, "left out with transport :native (transport: :ssl takes it)"},
            {:verify_fun, 1, "left out with transport :native (transport: :ssl takes it)"},
            {:sni_fun, &is_list/1, "left out with transport :native"},
            {:session_tickets, :stateful, ":stateless or :disabled with transport :native"},
            {:sni_hosts, [{"a.test", [verify: :verify_none]}], "only certificates and keys"},
            {:sni_hosts, [{"a b", files}], "each name a host's"},
            {:sni_hosts, [{<<255>>, files}], "each name a host's"},
            {:sni_hosts, [{"a.test", []}], "each with :certfile and :keyfile"},
            # Else it would let everybody in.
            {:fail_if_no_peer_cert, true, "false without verify: :verify_peer"}
          ] do
        assert {:error, %ConfigError{option: ^option} = error} =
                 Reactor.start(Echo, secure: files ++ [{option, value}])

        assert Exception.message(error) =~ expected
      end

      key = fn -> %{algorithm: :rsa, engine: 1} end

      assert {:error, %ConfigError{option: :key} = error} =
               Reactor.start(Echo, secure: [certfile: files[:certfile], key: key])

      assert Exception.message(error) =~ "(transport: :ssl takes keys that live elsewhere)"
    end

    test "finds out at once what is wrong with its files" do
      %{certfile: certfile, keyfile: keyfile, client_keyfile: other} = Certificates.get()

      for {secure, option, message} <- [
            {[certfile: "/nowhere.pem", keyfile: keyfile], :certfile, "no such file"},
            {[certfile: certfile, keyfile: "/nowhere.pem"], :keyfile, "no such file"},
            {[certfile: certfile, keyfile: other], :keyfile, "the key of the certificate"},
            {[certfile: certfile, keyfile: keyfile, cacertfile: "/nowhere.pem"], :cacertfile,
             "no such file"},
            {[
               certfile: certfile,
               keyfile: keyfile,
               sni_hosts: [{"a.test", [certfile: certfile, keyfile: other]}]
             ], :keyfile, "the key of the certificate"},
            {[cert: "no DER", key: {:ECPrivateKey, "no DER"}], :cert, "a certificate in DER"}
          ] do
        assert {:error, %ConfigError{option: ^option} = error} =
                 Reactor.start(Echo, ip: :loopback, secure: secure)

        assert Exception.message(error) =~ message
      end
    end

    test "shows nobody its keys", context do
      %{cert: cert, key: {type, der}} = Certificates.get()
      server = serve(context, Echo, secure: [cert: cert, key: {type, der}])
      listener = Reactor.listener(server)
      shown = [inspect(listener, limit: :infinity, structs: false), inspect(Reactor.info(server))]
      printed = :io_lib.format("~p", [listener])
      for text <- [printed | shown], do: refute(IO.iodata_to_binary(text) =~ inspect(der))

      {:ok, {config, _timeout}} = Transport.Native.Secure.server(listener.secure)
      assert is_reference(config)
    end
  end

  describe "a client" do
    test "trusts only whom it is told to, by default the system", context do
      server = serve(context, Echo)

      for secure <- [true, []] do
        assert {:error, {:tls_alert, {:unknown_ca, text}}} =
                 Reactor.connect("localhost", port(server), secure: secure)

        assert is_list(text)
      end

      assert {:ok, _} = Reactor.connect("localhost", port(server), secure: [verify: :verify_none])

      ca = Certificates.get().root.cert
      assert {:ok, _} = Reactor.connect("localhost", port(server), secure: [cacerts: [ca]])
      assert {:ok, _} = Reactor.connect({127, 0, 0, 1}, port(server), secure: [cacerts: [ca]])
    end

    test "checks the name", context do
      server = serve(context, Echo)

      assert {:error, {:tls_alert, {:handshake_failure, text}}} =
               connect(server, server_name_indication: "example.org")

      assert to_string(text) =~ "not valid for name"
      assert {:ok, connection} = connect(server, server_name_indication: :disable)
      assert {:ok, %{sni: nil}} = Socket.tls_info(accepted(connection))

      assert {:error, %ConfigError{option: :server_name_indication}} =
               connect(server, server_name_indication: "no name")
    end

    test "refuses a certificate that is over, or not yet", context do
      root = Certificates.authority("Time")

      for days <- [{-20, -10}, {10, 20}] do
        issued = Certificates.issue(root, names: ["localhost"], days: days)
        server = serve(context, Echo, secure: [cert: issued.cert, key: issued.key])

        assert {:error, {:tls_alert, {:certificate_expired, _}}} =
                 Reactor.connect("localhost", port(server), secure: [cacerts: [root.cert]])
      end
    end

    test "sees the whole chain", context do
      root = Certificates.authority("Root")
      middle = Certificates.issue(root, authority: true, name: "Middle")
      issued = Certificates.issue(middle, names: ["localhost"])
      chain = [issued.cert, middle.cert]
      server = serve(context, Echo, secure: [cert: chain, key: issued.key])

      {:ok, connection} =
        Reactor.connect("localhost", port(server), secure: [cacerts: [root.cert]])

      assert Socket.peer_certificates(connection) == {:ok, chain}
    end

    test "gives up in time, and with what the network says", context do
      {:ok, listening} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listening)
      options = [secure: true, timeout: 50]
      assert Reactor.connect("localhost", port, options) == {:error, :timeout}
      :gen_tcp.close(listening)
      assert Reactor.connect("localhost", port, options) == {:error, :econnrefused}

      # A server that speaks something else, or ends.
      server = serve(context, Shout, secure: false, active: true)

      assert {:error, {:tls_alert, {_, _}}} =
               Reactor.connect("localhost", port(server), secure: true)
    end

    test "says what is wrong with its options" do
      for {secure, option} <- [
            {[cacertfile: "/nowhere.pem"], :cacertfile},
            {[session_tickets: :manual], :session_tickets},
            {[customize_hostname_check: []], :customize_hostname_check},
            {[cacerts: ["no DER"]], :cacerts},
            {[server_name_indication: <<255>>], :server_name_indication},
            {:yes, :secure}
          ] do
        assert {:error, %ConfigError{option: ^option}} =
                 Reactor.connect("localhost", 1, secure: secure)
      end

      assert {:error, %ConfigError{option: :server_name_indication} = error} =
               Reactor.connect({:local, "/nowhere"}, 0, secure: [verify: :verify_none])

      assert Exception.message(error) =~ "given (or :disable) for TLS on a Unix socket"

      assert {:error, %ConfigError{option: :transport} = error} =
               Reactor.connect("localhost", 1, transport: :tcp, secure: true)

      assert Exception.message(error) =~ ":native or :ssl where :secure is given"
    end
  end

  describe "certificates" do
    setup context do
      root = Certificates.authority("Reload")
      if directory = context[:tmp_dir], do: write(directory, root, "localhost")
      %{root: root}
    end

    defp write(directory, root, name) do
      issued = Certificates.issue(root, names: [name, "localhost"])
      Certificates.key(directory, "own.key", issued.key)
      Certificates.certificates(directory, "own.pem", [issued.cert])
      issued.cert
    end

    defp files(directory),
      do: [certfile: Path.join(directory, "own.pem"), keyfile: Path.join(directory, "own.key")]

    defp shown(server, root) do
      {:ok, connection} =
        Reactor.connect("localhost", port(server), secure: [cacerts: [root.cert]])

      {:ok, cert} = Socket.peer_certificate(connection)
      {connection, cert}
    end

    @tag :tmp_dir
    test "are read again, and the last good ones stay", %{tmp_dir: directory} = context do
      root = context.root
      server = serve(context, Echo, secure: files(directory))
      {old, before} = shown(server, root)
      new = write(directory, root, "new.test")
      assert {_, ^before} = shown(server, root)
      assert Reactor.reload_certificates(server) == :ok
      assert {_, ^new} = shown(server, root)

      # Those that there are keep what they have.
      Socket.send!(old, "x")
      assert Socket.recv(old, 1, 5_000) == {:ok, "x"}

      File.write!(Path.join(directory, "own.pem"), "nothing")

      assert {:error, %ConfigError{option: :certfile} = error} =
               Reactor.reload_certificates(server)

      assert Exception.message(error) =~ "a PEM file with a certificate"
      assert {_, ^new} = shown(server, root)

      # Nor does a listener fail that is opened again.
      assert Reactor.suspend(server) == :ok

      assert ExUnit.CaptureLog.capture_log(fn -> assert Reactor.resume(server) == :ok end) =~
               "The certificates stay as they were: option :certfile must be a PEM file"

      assert {_, ^new} = shown(server, root)
    end

    @tag :tmp_dir
    test "that are changed while a server is suspended are there when it resumes",
         %{tmp_dir: directory} = context do
      root = context.root
      server = serve(context, Echo, secure: files(directory))
      assert Reactor.suspend(server) == :ok
      new = write(directory, root, "new.test")
      assert Reactor.reload_certificates(server) == :ok
      File.rm!(Path.join(directory, "own.pem"))

      assert ExUnit.CaptureLog.capture_log(fn -> assert Reactor.resume(server) == :ok end) =~
               "The certificates stay as they were"

      assert {_, ^new} = shown(server, root)
    end

    @tag :tmp_dir
    test "are changed to others, or none of it is", %{tmp_dir: directory} = context do
      root = context.root
      server = serve(context, Echo, secure: files(directory))
      {_, before} = shown(server, root)
      issued = Certificates.issue(root, names: ["localhost"])
      good = [cert: issued.cert, key: issued.key, alpn: ["echo"]]
      bad = [cert: issued.cert, key: Certificates.get().key]

      assert {:error, %ConfigError{option: :key}} =
               Reactor.update(server, secure: bad, max_connections: 7)

      assert {_, ^before} = shown(server, root)
      assert Reactor.info(server).max_connections == :infinity
      assert Reactor.update(server, secure: good) == :ok
      assert {_, cert} = shown(server, root)
      assert cert == issued.cert

      assert {:error, %ConfigError{option: :secure}} = Reactor.update(server, secure: false)
    end

    test "are for servers that have them" do
      {:ok, server} = Reactor.start(Echo, ip: :loopback)
      assert {:error, %ConfigError{option: :secure}} = Reactor.reload_certificates(server)
      Reactor.stop(server)

      secure = [transport: :ssl, ip: :loopback, secure: Certificates.server()]
      {:ok, server} = Reactor.start(Echo, secure)
      assert {:error, %ConfigError{option: :secure} = error} = Reactor.reload_certificates(server)
      assert Exception.message(error) =~ "transport :ssl cannot change it for a running server"
      Reactor.stop(server)
    end

    @tag :tmp_dir
    test "are reloaded under load, good and bad, and no connection fails", context do
      %{root: root, tmp_dir: directory} = context
      server = serve(context, Echo, secure: files(directory))
      good = for file <- ~w(own.pem own.key), do: {file, File.read!(Path.join(directory, file))}

      clients =
        for _ <- 1..4 do
          Task.async(fn ->
            for _ <- 1..25 do
              {connection, cert} = shown(server, root)
              Socket.send!(connection, "hello")
              {:ok, "hello"} = Socket.recv(connection, 5, 5_000)
              Socket.close(connection)
              cert
            end
          end)
        end

      for n <- 1..10 do
        write(directory, root, "n#{n}.test")
        assert Reactor.reload_certificates(server) == :ok
        File.write!(Path.join(directory, "own.key"), "broken")
        assert {:error, %ConfigError{option: :keyfile}} = Reactor.reload_certificates(server)
      end

      seen = Enum.flat_map(clients, &Task.await(&1, 30_000))
      assert length(seen) == 100
      for {file, data} <- good, do: File.write!(Path.join(directory, file), data)
      assert Reactor.reload_certificates(server) == :ok
    end
  end

  describe "Python" do
    defp tell(client) do
      :ok = put(client, "who")
      {:ok, json} = take(client, 0)
      json
    end

    test "is told what was agreed on", context do
      %{cacertfile: ca} = files = Certificates.get()
      asking = [verify: :verify_peer, cacertfile: ca, alpn: ["echo"]]
      secure = Certificates.server() ++ asking
      server = serve(context, Tells, secure: secure, paths: [@python])
      client = dial(server)
      json = tell(client)

      for part <- [~s("version": "TLSv1.3"), ~s("cipher": "TLS_), ~s("alpn": null)],
          do: assert(json =~ part)

      assert json =~ ~s("sni": "localhost") and json =~ ~s("resumed": false)
      assert json =~ ~s("peer_certificate": null)

      own = [certfile: files.client_certfile, keyfile: files.client_keyfile, alpn: ["echo"]]
      {:ok, connection} = connect(server, own)
      Socket.send!(connection, "who")
      {:ok, json} = Socket.recv(connection, 0, 5_000)
      assert json =~ ~r/"peer_certificate": \d+/ and json =~ ~s("alpn": "echo")

      Socket.send!(connection, "by hand")
      assert Socket.recv(connection, 7, 5_000) == {:ok, "one two"}

      plain = serve(context, Tells, secure: false, paths: [@python])
      assert tell(dial(plain)) == "null"
    end

    test "never hears of a handshake that failed", context do
      server = serve(context, Tells, paths: [@python])
      EventRelay.attach(port: port(server))
      client = plain(server)
      put(client, "GET / HTTP/1.0\r\n\r\n")
      assert <<21, _::binary>> = read_all(client)
      EventRelay.assert_stopped(:handshake)
      assert tell(dial(server)) =~ "TLSv1.3"
    end

    test "gets a connection that a route gives it", context do
      server = serve(context, Routes, paths: [@python])
      {:ok, connection} = connect(server)
      data = :crypto.strong_rand_bytes(200_000)
      sender = Task.async(fn -> Socket.send(connection, data) end)
      assert Socket.recv(connection, 200_000, 10_000) == {:ok, data}
      assert Task.await(sender) == :ok
      assert {:ok, %{version: :"tlsv1.3"}} = Socket.tls_info(connection)
    end
  end

  test "many greet at once, and all are served", context do
    server = serve(context, Echo, acceptors: 5)

    1..200
    |> Enum.map(fn n ->
      Task.async(fn ->
        {:ok, connection} = connect(server, [], timeout: 60_000)
        Socket.send!(connection, "#{n}")
        assert Socket.recv(connection, 0, 60_000) == {:ok, "#{n}"}
      end)
    end)
    |> Task.await_many(60_000)
  end
end
