defmodule Reactor.Interop.TLSTest do
  use Reactor.TransportCase, async: true, transport: :NativeTLS

  # TLS of the native transport against other implementations: OpenSSL's programs, curl, and OTP's :ssl.

  alias Reactor.{Certificates, Socket}

  @moduletag :tmp_dir

  # script/setup installs both where it can.
  @missing for program <- ["openssl", "curl"],
               System.find_executable(program) == nil,
               into: %{},
               do: {program, [skip: "#{program} is not installed"]}

  defmodule Web do
    use Reactor

    # Answers each request with what it knows of the connection.
    def handle(connection) do
      case Socket.recv(connection) do
        {:ok, _request} ->
          {:ok, info} = Socket.tls_info(connection)

          peer =
            case Socket.peer_certificate(connection) do
              {:ok, _der} -> "known"
              {:error, :no_peercert} -> "unknown"
            end

          body =
            "#{info.version} #{info.alpn || "none"} #{info.sni || "none"} " <>
              "#{if info.resumed, do: "resumed", else: "new"} #{peer}\n"

          Socket.send!(connection, [
            "HTTP/1.1 200 OK\r\nContent-Length: #{byte_size(body)}\r\nConnection: close\r\n\r\n",
            body
          ])

        {:error, _closed} ->
          :ok
      end
    end
  end

  defp own(context, options \\ []), do: serve(context, Web, secure: secure(options))
  defp secure(options), do: options ++ Certificates.server()

  # A program and what it wrote; its input ends when it has sent `input`.
  defp run(program, arguments, input \\ "") do
    path =
      System.find_executable(program) || flunk("#{program} is not installed: make check does")

    file = Path.join(System.tmp_dir!(), "reactor_input_#{System.unique_integer([:positive])}")
    File.write!(file, input)
    on_exit(fn -> File.rm(file) end)
    script = ~s(exec "$@" < "$0")
    System.cmd("sh", ["-c", script, file, path | arguments], stderr_to_stdout: true)
  end

  @request "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

  defp s_client(server, arguments \\ []) do
    common = ["s_client", "-connect", "localhost:#{port(server)}", "-servername", "localhost"]
    trust = ["-CAfile", Certificates.get().cacertfile, "-verify_return_error", "-ign_eof"]
    run("openssl", common ++ trust ++ arguments, @request)
  end

  defp curl(server, arguments \\ []) do
    common = ["--silent", "--show-error", "--http1.1", "--max-time", "20"]
    trust = ["--cacert", Certificates.get().cacertfile]
    run("curl", common ++ trust ++ arguments ++ ["https://localhost:#{port(server)}/"])
  end

  defp files do
    %{client_certfile: cert, client_keyfile: key, cacertfile: ca} = Certificates.get()
    {cert, key, ca}
  end

  describe "openssl s_client" do
    @describetag Map.get(@missing, "openssl", [])

    test "speaks 1.2 and 1.3", context do
      server = own(context)

      for {flag, version} <- [{"-tls1_2", "tlsv1.2"}, {"-tls1_3", "tlsv1.3"}] do
        assert {output, 0} = s_client(server, [flag])
        assert output =~ "#{version} none localhost new unknown"
        assert output =~ "Verify return code: 0 (ok)"
      end
    end

    test "is refused below 1.2", context do
      assert {output, status} = s_client(own(context), ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
      assert status != 0 and output =~ "alert"
      refute output =~ "200 OK"
    end

    test "agrees on a protocol", context do
      server = own(context, alpn: ["http/1.1"])
      assert {output, 0} = s_client(server, ["-alpn", "h2,http/1.1"])
      assert output =~ "ALPN protocol: http/1.1" and output =~ "http/1.1 localhost"
      assert {output, status} = s_client(server, ["-alpn", "gopher"])
      assert status != 0 and output =~ "no application protocol"
    end

    test "gets the certificate of the name it asks for", context do
      root = Certificates.authority("Interop")
      other = Certificates.issue(root, names: ["other.test"])
      server = own(context, sni_hosts: [{"other.test", cert: other.cert, key: other.key}])
      ca = Certificates.certificates(context.tmp_dir, "other.pem", [root.cert])
      arguments = ["-servername", "other.test", "-verify_hostname", "other.test", "-CAfile", ca]
      assert {output, 0} = s_client(server, arguments)
      assert output =~ "none other.test new"
    end

    test "shows its certificate", context do
      {cert, key, ca} = files()
      asking = [verify: :verify_peer, cacertfile: ca, fail_if_no_peer_cert: true]
      server = own(context, asking)

      for version <- ["-tls1_2", "-tls1_3"] do
        assert {output, 0} = s_client(server, [version, "-cert", cert, "-key", key])
        assert output =~ "localhost new known"
        assert {output, _} = s_client(server, [version])
        refute output =~ "unknown\n"
        assert output =~ "alert"
      end
    end

    test "resumes its session", context do
      server = own(context)

      for version <- ["-tls1_2", "-tls1_3"] do
        file = Path.join(context.tmp_dir, "session#{version}")
        assert {output, 0} = s_client(server, [version, "-sess_out", file])
        assert output =~ " new "
        assert {output, 0} = s_client(server, [version, "-sess_in", file])
        assert output =~ " resumed "
      end
    end

    test "refuses a certificate of somebody else, and one that is over", context do
      for {root, days} <- [
            {Certificates.authority("Stranger"), {-1, 1}},
            {Certificates.get().root, {-20, -10}}
          ] do
        issued = Certificates.issue(root, names: ["localhost"], days: days)
        server = serve(context, Web, secure: [cert: issued.cert, key: issued.key])
        assert {output, 1} = s_client(server)
        assert output =~ "verify error" or output =~ "certificate verify failed"
      end
    end
  end

  describe "openssl s_server" do
    @describetag Map.get(@missing, "openssl", [])

    test "is spoken to by connect/3, in 1.2 and 1.3, with a certificate of its own" do
      {cert, key, ca} = files()

      for {flag, version} <- [{"-tls1_2", :"tlsv1.2"}, {"-tls1_3", :"tlsv1.3"}] do
        port = s_server([flag, "-Verify", "1", "-verify_return_error", "-alpn", "echo"])
        secure = [cacertfile: ca, certfile: cert, keyfile: key, alpn: ["echo"]]
        connection = reversed(port, secure)
        assert {:ok, %{version: ^version, alpn: "echo"}} = Socket.tls_info(connection)
        Socket.close(connection)
        assert {:error, _refused} = refused(port, cacertfile: ca)
      end
    end

    test "resumes the session of connect/3" do
      for {flag, version} <- [{"-tls1_2", :"tlsv1.2"}, {"-tls1_3", :"tlsv1.3"}] do
        port = s_server([flag])
        secure = [verify: :verify_none, versions: [version], session_tickets: :auto]

        resumed =
          for _ <- 1..2 do
            connection = reversed(port, secure)
            {:ok, %{resumed: resumed}} = Socket.tls_info(connection)
            Socket.close(connection)
            resumed
          end

        assert resumed == [false, true]
      end
    end

    # One that sends back what it gets, line by line, the other way round.
    defp s_server(arguments) do
      %{certfile: certfile, keyfile: keyfile, cacertfile: ca} = Certificates.get()
      port = free_port()

      common =
        ["s_server", "-accept", "#{port}", "-rev", "-cert", certfile] ++
          ["-key", keyfile, "-CAfile", ca]

      program =
        Port.open({:spawn_executable, System.find_executable("openssl")}, [
          :binary,
          :stderr_to_stdout,
          args: common ++ arguments
        ])

      {:os_pid, pid} = Port.info(program, :os_pid)
      on_exit(fn -> System.cmd("kill", ["#{pid}"], stderr_to_stdout: true) end)
      assert_receive {^program, {:data, _ready}}, 10_000
      port
    end

    defp reversed(port, secure) do
      connection = dialed(port, secure)
      Socket.send!(connection, "live\n")
      assert Socket.recv(connection, 5, 5_000) == {:ok, "evil\n"}
      connection
    end

    defp free_port do
      {:ok, socket} = :gen_tcp.listen(0, reuseaddr: true)
      {:ok, port} = :inet.port(socket)
      :gen_tcp.close(socket)
      port
    end

    # It says that it is ready a moment before it listens.
    defp dialed(port, secure) do
      case Reactor.connect("localhost", port, secure: secure) do
        {:ok, connection} -> connection
        {:error, :econnrefused} -> dialed(port, secure)
      end
    end

    defp refused(port, secure) do
      with {:ok, connection} <- Reactor.connect("localhost", port, secure: secure) do
        Socket.send(connection, "live\n")
        Socket.recv(connection, 5, 5_000)
      end
    end
  end

  describe "curl" do
    @describetag Map.get(@missing, "curl", [])

    test "speaks 1.2 and 1.3, with ALPN and SNI", context do
      server = own(context, alpn: ["http/1.1"])

      for {flags, version} <- [
            {["--tls-max", "1.2"], "tlsv1.2"},
            {["--tlsv1.3"], "tlsv1.3"}
          ] do
        assert {body, 0} = curl(server, flags)
        assert body == "#{version} http/1.1 localhost new unknown\n"
      end
    end

    test "shows its certificate", context do
      {cert, key, ca} = files()
      server = own(context, verify: :verify_peer, cacertfile: ca, fail_if_no_peer_cert: true)
      assert {body, 0} = curl(server, ["--cert", cert, "--key", key])
      assert body =~ "localhost new known"
      assert {_output, status} = curl(server)
      assert status in [35, 52, 55, 56]
    end

    test "refuses a certificate of somebody else, and one that is over", context do
      for {root, days} <- [
            {Certificates.authority("Stranger"), {-1, 1}},
            {Certificates.get().root, {-20, -10}}
          ] do
        issued = Certificates.issue(root, names: ["localhost"], days: days)
        server = serve(context, Web, secure: [cert: issued.cert, key: issued.key])
        assert {_output, 60} = curl(server)
      end
    end
  end

  describe ":ssl" do
    defp ssl(server, options \\ []) do
      trust = [verify: :verify_peer, cacertfile: Certificates.get().cacertfile]
      options = [:binary, active: false, log_level: :none] ++ options ++ trust
      :ssl.connect(~c"localhost", port(server), options, 5_000)
    end

    defp ask(client) do
      :ok = :ssl.send(client, @request)
      read_all(client)
    end

    test "speaks 1.2 and 1.3, with ALPN and SNI", context do
      server = own(context, alpn: ["echo"])

      for version <- [:"tlsv1.2", :"tlsv1.3"] do
        options = [versions: [version], alpn_advertised_protocols: ["echo"]]
        {:ok, client} = ssl(server, options)
        assert :ssl.negotiated_protocol(client) == {:ok, "echo"}
        assert ask(client) =~ "#{version} echo localhost new unknown"
      end
    end

    test "shows its certificate", context do
      {cert, key, ca} = files()
      server = own(context, verify: :verify_peer, cacertfile: ca, fail_if_no_peer_cert: true)
      {:ok, client} = ssl(server, certfile: cert, keyfile: key)
      assert ask(client) =~ "localhost new known"

      assert {:error, {:tls_alert, {_, _}}} = ssl(server, versions: [:"tlsv1.2"])
    end

    test "refuses a certificate of somebody else", context do
      issued = Certificates.issue(Certificates.authority("Stranger"), names: ["localhost"])
      server = serve(context, Web, secure: [cert: issued.cert, key: issued.key])
      assert {:error, {:tls_alert, {:unknown_ca, _}}} = ssl(server)
    end
  end
end
