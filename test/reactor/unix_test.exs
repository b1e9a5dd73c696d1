defmodule Reactor.UnixTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{ConfigError, Connection, Server, Socket, Transport}

  @python Path.expand("../support/python", __DIR__)

  # Gives its connection to the test, then echoes.
  defmodule Show do
    use Reactor

    def handle(connection) do
      send(connection.listener.env, {:connection, connection})
      MyApp.Echo.handle(connection)
    end
  end

  defmodule Who do
    use Reactor, python: "client_info:Who"
  end

  # A short one: what the kernel takes is less than the path of a :tmp_dir may be.
  setup do
    directory = Path.join(System.tmp_dir!(), "reactor-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    %{path: Path.join(directory, "a.sock"), directory: directory}
  end

  defp join({:local, _path} = address) do
    {:ok, client} = :gen_tcp.connect(address, 0, [:binary, :local, active: false], 5_000)
    client
  end

  defp join(path), do: join({:local, path})

  # What a dead server leaves.
  defp stale(path) do
    {:ok, listening} = :gen_tcp.listen(0, [:local, ip: {:local, path}])
    :gen_tcp.close(listening)
    assert socket?(path)
  end

  defp socket?(path), do: match?({:ok, %{type: :other}}, File.lstat(path))

  defp mode(path), do: Bitwise.band(File.stat!(path).mode, 0o777)

  defp start_error(options) do
    assert {:error, %ConfigError{} = error} = Reactor.start(Show, options)
    Exception.message(error)
  end

  describe "a Unix socket" do
    test "is served, and says where it is", %{path: path} = context do
      server = serve(context, Show, ip: {:local, path})
      assert %{ip: {:local, ^path}, port: 0, connections: 0} = Reactor.info(server)
      client = join(path)
      assert echo(client, "hello") == "hello"

      assert_receive {:connection, connection}
      assert Socket.local(connection) == {:ok, {:local, path}}
      assert Socket.remote(connection) == {:ok, {:local, ""}}
      assert [%{remote: {:local, ""}, received: 5, sent: 5}] = Reactor.connections(server)
      assert %{ip: {:local, ^path}, port: 0} = Connection.listener(connection)

      # A client may have a place of its own.
      own = path <> ".client"
      bound = [:binary, :local, active: false, ip: {:local, own}]
      {:ok, client} = :gen_tcp.connect({:local, path}, 0, bound)
      assert echo(client, "hello") == "hello"
      assert_receive {:connection, connection}
      assert Socket.remote(connection) == {:ok, {:local, own}}
    end

    for transport <- [:native, :tcp] do
      test "is dialed by transport #{transport}", %{path: path} = context do
        serve(context, Show, ip: {:local, path})
        options = [transport: unquote(transport)]
        {:ok, connection} = Reactor.connect({:local, path}, 0, options)
        assert Socket.send(connection, "hello") == :ok
        assert Socket.recv(connection, 5) == {:ok, "hello"}
        assert Socket.remote(connection) == {:ok, {:local, path}}

        assert {:ok, %{nodelay: true}} =
                 Transport.of(connection.socket).getopts(connection.socket)

        # It means nothing here, and does no harm.
        assert Socket.options(connection, nodelay: false, keepalive: true) == :ok
        assert Reactor.connect({:local, path <> "x"}, 0, options) == {:error, :enoent}
        stale(path <> "y")
        assert Reactor.connect({:local, path <> "y"}, 0, options) == {:error, :econnrefused}
      end
    end

    test "has packets, lines, active mode and files as any other", %{path: path} = context do
      serve(context, Reactor.TransportCase.Lend, ip: {:local, path})
      {:ok, client} = Reactor.connect({:local, path}, 0, packet: 2)
      assert_receive {:lent, connection}
      assert Socket.options(connection, packet: 2) == :ok
      Socket.send!(client, "one")
      assert Socket.recv!(connection) == "one"
      Socket.active!(client, :once)
      Socket.send!(connection, "two")
      %{socket: socket} = client
      assert_receive {:tcp, ^socket, "two"}

      assert Socket.options(connection, packet: :raw) == :ok
      assert Socket.options(client, packet: :raw) == :ok
      assert {:ok, size} = Socket.file(connection, __ENV__.file)
      assert Socket.recv!(client, size) == File.read!(__ENV__.file)
      assert Socket.shutdown(client, :write) == :ok
      assert Socket.recv(connection) == {:error, :closed}
    end

    test "keeps what its peer does not take yet, of data and of files", context do
      %{path: path, directory: directory} = context
      serve(context, Reactor.TransportCase.Lend, ip: {:local, path})
      client = join(path)
      assert_receive {:lent, connection}
      data = :crypto.strong_rand_bytes(8_000_000)
      file = Path.join(directory, "file")
      File.write!(file, data)

      sends =
        Task.async(fn ->
          assert Socket.send(connection, data) == :ok
          assert Socket.file(connection, file) == {:ok, byte_size(data)}
          assert Socket.send(connection, "end") == :ok
        end)

      # Until nothing more goes before the client takes something.
      assert eventually(fn ->
               match?({:ok, %{queued: n}} when n > 0, Socket.statistics(connection))
             end)

      assert take(client, byte_size(data)) == {:ok, data}
      assert take(client, byte_size(data)) == {:ok, data}
      assert take(client, 3) == {:ok, "end"}
      Task.await(sends)

      # And the other way, read only as far as it is asked for.
      sends = Task.async(fn -> :ok = put(client, data) end)
      assert Socket.recv(connection, 1_000_000) == {:ok, binary_part(data, 0, 1_000_000)}
      assert {:ok, %{received: received}} = Socket.statistics(connection)
      assert received < 2_000_000
      assert {:ok, rest} = Socket.recv(connection, 7_000_000)
      assert rest == binary_part(data, 1_000_000, 7_000_000)
      Task.await(sends)
    end

    test "may have an abstract name, which is in no file system", context do
      name = <<0, "reactor-#{System.unique_integer([:positive])}-#{System.pid()}">>
      server = serve(context, Show, ip: {:local, name})
      assert %{ip: {:local, ^name}} = Reactor.info(server)
      assert echo(join(name), "hello") == "hello"
      {:ok, connection} = Reactor.connect({:local, name}, 0)
      assert Socket.remote(connection) == {:ok, {:local, name}}
      assert Reactor.start(Show, ip: {:local, name}) == {:error, :eaddrinuse}

      assert Reactor.suspend(server) == :ok
      assert Reactor.connect({:local, name}, 0) == {:error, :econnrefused}
      assert Reactor.resume(server) == :ok
      assert echo(join(name), "hello") == "hello"

      assert start_error(ip: {:local, name}, unix: [mode: 0o600]) =~
               "option :unix must be left out for an abstract name"
    end

    test "has connections that count, but not by address", %{path: path} = context do
      limits = [max_connections: 3, overload: :reject, max_connections_per_ip: 1]
      server = serve(context, Show, [ip: {:local, path}] ++ limits)
      clients = for _ <- 1..3, do: join(path)
      for client <- clients, do: assert(echo(client, "x") == "x")
      assert read_all(join(path)) == ""
      assert eventually(fn -> match?(%{connections: 3, rejected: 1}, Reactor.info(server)) end)
    end

    test "is updated as any other", %{path: path} = context do
      server = serve(context, Show, ip: {:local, path})
      assert Reactor.update(server, max_connections: 1, nodelay: false, idle_timeout: 100) == :ok
      assert %{max_connections: 1, ip: {:local, ^path}} = Reactor.info(server)
      assert read_all(join(path)) == ""
    end

    test "lets a client wait for room in a full backlog, as long as it wants", context do
      %{path: path} = context
      options = [:binary, :local, active: false, ip: {:local, path}, backlog: 1]
      {:ok, listening} = :gen_tcp.listen(0, options)

      assert Enum.any?(1..10, fn _ ->
               Reactor.connect({:local, path}, 0, timeout: 50) == {:error, :timeout}
             end)

      waits = Task.async(fn -> Reactor.connect({:local, path}, 0, timeout: 60_000) end)
      assert {:ok, _accepted} = :gen_tcp.accept(listening, 5_000)
      assert {:ok, _connection} = Task.await(waits)
    end
  end

  describe "its path" do
    test "is taken over from a server that is dead", %{path: path} = context do
      stale(path)
      serve(context, Show, ip: {:local, path})
      assert echo(join(path), "hello") == "hello"
    end

    test "is not taken from one that lives", %{path: path} = context do
      serve(context, Show, ip: {:local, path})
      assert Reactor.start(Show, ip: {:local, path}) == {:error, :eaddrinuse}
      assert echo(join(path), "hello") == "hello"
      # That somebody looked was no connection.
      assert_receive {:connection, _}
      refute_received {:connection, _}
    end

    test "is left alone if it is no socket, and the error says what it is", context do
      %{directory: directory} = context
      file = Path.join(directory, "file")
      File.write!(file, "precious")
      link = Path.join(directory, "link")
      File.ln_s!(file, link)

      for {path, kind} <- [
            {file, "a regular file"},
            {link, "a symbolic link"},
            {directory, "a directory"}
          ] do
        assert start_error(ip: {:local, path}) ==
                 "option :ip must be a path that is free, or a Unix socket's (there is #{kind}, " <>
                   "which is left alone), got: {:local, #{inspect(path)}}"
      end

      assert File.read!(file) == "precious"
      assert File.read_link!(link) == file
      assert Reactor.start(Show, ip: {:local, file <> "/a"}) == {:error, :enotdir}
      assert Reactor.start(Show, ip: {:local, directory <> "/no/a"}) == {:error, :enoent}
    end

    test "goes with the server", %{path: path} do
      {:ok, server} = Reactor.start(Show, ip: {:local, path})
      assert socket?(path)
      assert Reactor.stop(server) == :ok
      refute File.exists?(path)
    end

    test "stays if it is somebody else's by then", %{path: path} do
      {:ok, server} = Reactor.start(Show, ip: {:local, path})
      File.rm!(path)
      {:ok, theirs} = :gen_tcp.listen(0, [:local, ip: {:local, path}])
      assert Reactor.stop(server) == :ok
      client = join(path)
      assert {:ok, _} = :gen_tcp.accept(theirs, 5_000)
      :gen_tcp.close(client)
    end

    test "goes and comes back when the server is suspended, drained and resumed", context do
      %{path: path} = context
      server = serve(context, Show, ip: {:local, path}, unix: [mode: 0o600], env: self())
      client = join(path)
      assert echo(client, "before") == "before"

      assert Reactor.suspend(server) == :ok
      refute File.exists?(path)
      assert Reactor.connect({:local, path}, 0) == {:error, :enoent}
      assert echo(client, "meanwhile") == "meanwhile"
      assert Reactor.resume(server) == :ok
      assert mode(path) == 0o600
      assert echo(join(path), "after") == "after"
      assert %{connections: 2, accepted: 2, ip: {:local, ^path}} = Reactor.info(server)

      assert {:ok, %{connections: 2, cut: 0}} = Reactor.drain(server, 5_000)
      refute File.exists?(path)
      assert read_all(client) == ""
      assert Reactor.resume(server) == :ok
      assert echo(join(path), "at last") == "at last"
    end

    test "is there again after its socket's process has died", %{path: path} = context do
      server = serve(context, Show, ip: {:local, path})
      listening = server |> Server.board() |> Server.whereis(:listening_socket)
      monitor = Process.monitor(listening)
      Process.exit(listening, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}

      assert eventually(fn ->
               with {:ok, client} <-
                      :gen_tcp.connect({:local, path}, 0, [:binary, :local, active: false]),
                    :ok <- :gen_tcp.send(client, "again"),
                    do: :gen_tcp.recv(client, 5, 5_000) == {:ok, "again"},
                    else: (_error -> false)
             end)

      assert Reactor.info(server).ip == {:local, path}
    end

    test "becomes absolute" do
      name = "reactor-#{System.unique_integer([:positive])}.sock"
      {:ok, server} = Reactor.start(Show, ip: {:local, name}, env: self())
      assert Reactor.info(server).ip == {:local, Path.join(File.cwd!(), name)}
      {:ok, connection} = Reactor.connect({:local, name}, 0)
      Socket.send!(connection, "hello")
      assert Socket.recv!(connection, 5) == "hello"
      assert Reactor.stop(server) == :ok
      refute File.exists?(name)
    end
  end

  describe "unix:" do
    test "mode is that of the path, whatever the umask", %{path: path} = context do
      for mode <- [0o600, 0o660, 0o666] do
        own = path <> "#{mode}"
        serve(context, Show, ip: {:local, own}, unix: [mode: mode])
        assert mode(own) == mode
        assert echo(join(own), "hello") == "hello"
      end
    end

    test "owner and group are those of the path, by number or name; or it says why not",
         context do
      %{path: path} = context
      # Only root may give a socket away.
      options = [ip: {:local, path}, unix: [owner: 65_534, group: "nogroup", mode: 0o660]]

      if File.stat!("/proc/self").uid == 0 do
        serve(context, Show, options)
        assert %{uid: 65_534, gid: gid} = File.stat!(path)
        assert {id, 0} = System.cmd("getent", ["group", "nogroup"])
        assert id =~ ":#{gid}:"
        assert mode(path) == 0o660
        serve(context, Show, ip: {:local, path <> "2"}, unix: [owner: "nobody", group: gid])
        assert %{uid: 65_534, gid: ^gid} = File.stat!(path <> "2")
      else
        message = start_error(ip: {:local, path}, unix: [owner: 0])

        assert message =~
                 ~r/options that this process may set \(to change the owner of .+ permitted/

        refute File.exists?(path)
        %{uid: uid, gid: gid} = File.stat!("/proc/self")
        serve(context, Show, ip: {:local, path}, unix: [owner: uid, group: gid])
      end
    end

    test "of somebody who does not exist is an error, and leaves nothing", %{path: path} do
      for {option, kind} <- [owner: "user", group: "group"] do
        assert start_error(ip: {:local, path}, unix: [{option, "no-such-one"}]) ==
                 "option :unix must be options whose :#{option} exists (there is no #{kind} " <>
                   ~s("no-such-one"\), got: [#{option}: "no-such-one"])

        refute File.exists?(path)
      end
    end
  end

  describe "peer_credentials" do
    test "say who is at the other end", %{path: path} = context do
      serve(context, Show, ip: {:local, path})
      {:ok, client} = Reactor.connect({:local, path}, 0)
      assert_receive {:connection, connection}
      %{uid: uid, gid: gid} = File.stat!("/proc/self")
      pid = String.to_integer(System.pid())
      assert Connection.peer_credentials(connection) == {:ok, %{pid: pid, uid: uid, gid: gid}}
      assert Connection.peer_credentials(client) == {:ok, %{pid: pid, uid: uid, gid: gid}}

      Socket.close(client)
      assert eventually(fn -> Connection.peer_credentials(client) == {:error, :closed} end)
    end

    test "are of another process if that has connected", %{path: path} = context do
      serve(context, Show, ip: {:local, path})
      python = System.find_executable(System.get_env("PYO3_PYTHON", "python3"))

      script =
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"

      port = Port.open({:spawn_executable, python}, args: ["-c", script, path])
      {:os_pid, os_pid} = Port.info(port, :os_pid)
      assert_receive {:connection, connection}
      assert {:ok, %{pid: ^os_pid}} = Connection.peer_credentials(connection)
      Socket.close(connection)
    end

    test "are for Unix sockets", context do
      server = serve(context, Show)
      {:ok, client} = Reactor.connect("localhost", port(server))
      assert Connection.peer_credentials(client) == {:error, :eopnotsupp}
      {:ok, client} = Reactor.connect("localhost", port(server), transport: :tcp)
      assert Connection.peer_credentials(client) == {:error, :eopnotsupp}
    end
  end

  test "a Python protocol is told who has connected", %{path: path} = context do
    server = serve(context, Who, ip: {:local, path}, paths: [@python], contexts: 2)
    client = join(path)
    :ok = put(client, "?")
    {:ok, info} = take(client, 0)
    %{uid: uid, gid: gid} = File.stat!("/proc/self")

    assert String.trim(info) ==
             ~s({"addr": "", "port": null, "type": "unix", "pid": #{System.pid()}, ) <>
               ~s("uid": #{uid}, "gid": #{gid}, "tls": null, "proxy": null})

    assert [%{remote: {:local, ""}, owner: :python}] = Reactor.connections(server)
    assert Reactor.suspend(server) == :ok
    refute File.exists?(path)
    assert Reactor.resume(server) == :ok
    client = join(path)
    :ok = put(client, "?")
    assert {:ok, "{" <> _} = take(client, 0)
    assert {:ok, %{cut: 0}} = Reactor.drain(server, 5_000)
  end

  describe "what is wrong" do
    test "with an address is said", %{path: path} do
      for {wrong, expected} <- [
            {"", "{:local, path} with a path, or with a NUL byte and an abstract name"},
            {<<0>>, "{:local, path} with a path, or with a NUL byte and an abstract name"},
            {"a" <> <<0>>, "{:local, path} with a path"},
            {:atom, "{:local, path} with a path"},
            {[:no], "{:local, path} with a path"},
            {"/" <> String.duplicate("a", 107),
             "at most 107 bytes \\(it has 108 when absolute\\)"},
            {<<0>> <> String.duplicate("a", 108), "at most 108 bytes \\(it has 109\\)"}
          ] do
        assert start_error(ip: {:local, wrong}) =~ ~r/^option :ip must be .*#{expected}.*, got: /

        assert {:error, %ConfigError{option: :host} = error} = Reactor.connect({:local, wrong}, 0)
        assert Exception.message(error) =~ ~r/^option :host must be .*#{expected}/
      end

      assert start_error(ip: {:local, path}, port: 80) =~
               "option :port must be 0, or left out, for a Unix socket, got: 80"

      assert {:error, %ConfigError{option: :port}} = Reactor.connect({:local, path}, 80)
    end

    test "with the transport is said", %{path: path} do
      assert start_error(ip: {:local, path}, transport: :tcp) =~
               "option :ip must be an IPv4 or IPv6 address with transport :tcp (:native has it)"

      assert {:error, %ConfigError{option: :host} = error} =
               Reactor.connect({:local, path}, 0, transport: :ssl)

      assert Exception.message(error) =~ "with transport :ssl (:native has it)"
    end

    test "with its other options is said", %{path: path} do
      for {options, message} <- [
            {[unix: :all], "option :unix must be a keyword list with :mode, :owner and :group"},
            {[unix: [mod: 1]], "unknown option :mod, did you mean :mode?"},
            {[unix: [mode: 0o1000]], "option :mode must be permissions from 0o000 to 0o777"},
            {[unix: [mode: "rw"]], "option :mode must be permissions from 0o000 to 0o777"},
            {[unix: [owner: -1]], "option :owner must be a name or a number from 0"},
            {[unix: [owner: ""]], "option :owner must be a name or a number from 0"},
            {[unix: [group: :root]], "option :group must be a name or a number from 0"},
            {[reuseport: true], "option :reuseport must be false for a Unix socket"},
            {[num_listen_sockets: 2], "option :reuseport must be true where"},
            {[ipv6_v6only: false], "option :ipv6_v6only must be left out where :ip is not"}
          ] do
        assert start_error([ip: {:local, path}] ++ options) =~ message
      end

      assert start_error(unix: [mode: 0o600]) =~
               "option :unix must be left out where :ip is not {:local, path}"

      refute File.exists?(path)
    end
  end
end
