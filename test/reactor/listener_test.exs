defmodule Reactor.ListenerTest do
  use ExUnit.Case, async: true

  alias MyApp.Echo
  alias Reactor.{ConfigError, Listener}

  defmodule Py do
    use Reactor.Behaviour, python: "echo:EchoProtocol"
  end

  defmodule Routes do
    use Reactor.Behaviour
    def route(_connection), do: :elixir
  end

  # option, values that are taken as they are, values that are not
  @table [
    {:port, [0, 8080, 65_535], [-1, 65_536, "80", nil]},
    {:name, [nil, :a_name, {:global, 1}, {:via, Registry, {R, 1}}],
     ["name", {:local, :a}, {:via, NoSuch, 1}, {:via, Enum, 1}]},
    {:acceptors, [1, 1000], [0, -1, 1.5, "1"]},
    {:backlog, [1, 4096, 2_147_483_647], [0, nil, 2_147_483_648]},
    {:reuseaddr, [true, false], [nil, 1]},
    {:reuseport, [true, false], [nil, 1]},
    {:fd, [nil, 0, 3, {:systemd, "web"}, {:systemd, 0}],
     [-1, "3", {:systemd, ""}, {:systemd, :a}]},
    {:unix, [[]], [nil, :all, [0o600]]},
    {:max_connections, [1, 4_294_967_295, :infinity], [0, 4_294_967_296, 1.5, nil]},
    {:overload, [:wait, :reject], [:drop, nil, true]},
    {:max_connections_per_ip, [1, :infinity], [0, nil, "1"]},
    {:accept_rate, [1, 10_000, :infinity], [0, 0.5, nil]},
    {:drain_timeout, [0, 10_000, 4_294_967_295], [-1, :infinity, 4_294_967_296]},
    {:going_away, [true, false], [nil, 1]},
    {:profile, [true, false], [nil, :eprof]},
    {:spawn_opt, [[], [fullsweep_after: 5, priority: :high]], [[link: true], :link, nil]},
    {:env, [nil, %{any: "thing"}], []},
    {:python, [nil, "echo", "my.echo:Echo.Protocol", "écho:Écho"],
     ["", "a:b:c", "a b", :echo, <<255>>, "echo:Echo\n"]},
    {:secure, [false], []}
  ]

  for {option, right, wrong} <- @table do
    test "#{option}" do
      check(Echo, unquote(option), unquote(Macro.escape(right)), unquote(Macro.escape(wrong)))
    end
  end

  # Those that only a listener with Python has.
  @table [
    {:contexts, [1, 4], [0, nil]},
    # Where Python has :subinterpreter, isolation_test.exs shows it.
    {:isolation, [:shared, :process], [:thread, nil]},
    {:rlimit, [[]], [nil, :cpu, [cpu: 0], [stack: 1]]},
    {:experimental, [true, false], [nil, 1]},
    {:paths, [[], ["/srv"]], [nil, "/srv", ~c"/srv", [:srv]]},
    {:setup, [[], ["x = 1", "y = 2"]], []},
    {:venv, [nil], [:none, "/nowhere"]},
    {:requirements, [[], ["numpy>=1.20"]], [nil, "numpy", [:numpy]]},
    {:callback_timeout, [1, 60_000, :infinity], [0, nil, 4_294_967_296]},
    {:stuck_timeout, [1, 60_000, :infinity], [0, nil, 4_294_967_296]}
  ]

  for {option, right, wrong} <- @table do
    test "#{option}" do
      for module <- [Py, Routes] do
        check(module, unquote(option), unquote(Macro.escape(right)), unquote(Macro.escape(wrong)))
      end

      for value <- unquote(Macro.escape(right)) do
        assert message(Echo, [{unquote(option), value}]) =~
                 "option :#{unquote(option)} must be left out without :python, and without route/1"
      end
    end
  end

  defp check(module, option, right, wrong) do
    for value <- right do
      assert {:ok, listener} = Listener.new(module, [{option, value}])
      assert Map.fetch!(listener, option) == value
    end

    for value <- wrong do
      assert {:error, %ConfigError{option: ^option} = error} =
               Listener.new(module, [{option, value}])

      assert error.value == value
      assert Exception.message(error) =~ ~r/^option :#{option} must be .+, got: /
    end
  end

  defp message(module, options) do
    {:error, %ConfigError{} = error} = Listener.new(module, options)
    Exception.message(error)
  end

  # The same for the options of the connections.
  @table [
    {:active, [true, false, :once, 1, 32_767], [0, 32_768, nil, :twice]},
    {:packet, [:raw, :line, 1, 2, 4], [0, 3, :http, nil]},
    {:packet_size, [0, 1, 67_108_864], [-1, 67_108_865, nil]},
    {:nodelay, [true, false], [nil, 1]},
    {:keepalive, [true, false], [nil, 1]},
    {:recbuf, [nil, 4096], [0, "1", 2_147_483_648]},
    {:sndbuf, [nil, 4096], [0, "1", 2_147_483_648]},
    {:high_watermark, [65_537], [0, nil, 2_147_483_648]},
    {:low_watermark, [1], [0, nil, 2_147_483_648]},
    {:send_timeout, [1, :infinity], [0, nil]},
    {:send_timeout_close, [true, false], [nil, 1]},
    {:first_byte_timeout, [1, :infinity], [0, nil]},
    {:idle_timeout, [1, :infinity], [0, nil]},
    {:stall_timeout, [1, :infinity], [0, nil]},
    {:max_lifetime, [1, :infinity], [0, nil]},
    {:min_rate, [nil, {100, 1_000}], [100, {0, 1}, {1, :infinity}]}
  ]

  for {option, right, wrong} <- @table do
    test "#{option}" do
      option = unquote(option)

      for value <- unquote(Macro.escape(right)) do
        assert {:ok, listener} = Listener.new(Echo, [{option, value}])
        assert Map.fetch!(listener.options, option) == value
      end

      for value <- unquote(Macro.escape(wrong)) do
        assert {:error, %ConfigError{option: ^option} = error} =
                 Listener.new(Echo, [{option, value}])

        assert error.value == value
      end
    end
  end

  test "spawn_opt, one by one and together" do
    for right <- [
          [min_heap_size: 377, min_bin_vheap_size: 0, max_heap_size: 0],
          [max_heap_size: 100_000, message_queue_data: :off_heap],
          [max_heap_size: %{size: 100_000, kill: true, error_logger: false}, priority: :low]
        ] do
      assert {:ok, %{spawn_opt: ^right}} = Listener.new(Echo, spawn_opt: right)
    end

    for wrong <- [
          [priority: :foo],
          [fullsweep_after: -1],
          [min_heap_size: "1"],
          [min_bin_vheap_size: 10 ** 30],
          [max_heap_size: :none],
          [max_heap_size: %{kill: true}],
          [max_heap_size: %{size: 1_000, kill: :yes}],
          [message_queue_data: :mixed],
          [min_heap_size: 100_000, max_heap_size: 1_000]
        ] do
      assert message(Echo, spawn_opt: wrong) =~
               "option :spawn_opt must be a keyword list of options for spawned processes"
    end
  end

  test "ip" do
    for {given, ip} <- [
          {{127, 0, 0, 1}, {127, 0, 0, 1}},
          {{0, 0, 0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}},
          {"10.0.0.1", {10, 0, 0, 1}},
          {"::1", {0, 0, 0, 0, 0, 0, 0, 1}},
          {:any, {0, 0, 0, 0}},
          {:loopback, {127, 0, 0, 1}},
          {{:local, "/run/a.sock"}, {:local, "/run/a.sock"}},
          {{:local, ~c"/run/a.sock"}, {:local, "/run/a.sock"}},
          {{:local, "a.sock"}, {:local, Path.join(File.cwd!(), "a.sock")}},
          {{:local, <<0, "name">>}, {:local, <<0, "name">>}}
        ] do
      assert {:ok, %{ip: ^ip}} = Listener.new(Echo, ip: given)
    end

    for wrong <- [nil, "example", {1, 2}, {256, 0, 0, 1}, :here, <<255>>, {:local, ""}, :local] do
      assert {:error, %ConfigError{option: :ip}} = Listener.new(Echo, ip: wrong)
    end
  end

  test "num_listen_sockets" do
    for n <- [1, 4, 1024] do
      assert {:ok, %{num_listen_sockets: ^n}} =
               Listener.new(Echo, reuseport: true, num_listen_sockets: n)
    end

    for wrong <- [0, 1025, nil, "2"] do
      assert message(Echo, reuseport: true, num_listen_sockets: wrong) ==
               "option :num_listen_sockets must be an integer from 1 to 1024, got: #{inspect(wrong)}"
    end
  end

  test "ipv6_v6only" do
    for only <- [true, false, nil] do
      assert {:ok, %{ipv6_v6only: ^only}} = Listener.new(Echo, ip: "::", ipv6_v6only: only)
    end

    for wrong <- [0, :both] do
      assert message(Echo, ip: "::", ipv6_v6only: wrong) =~
               "option :ipv6_v6only must be true or false, got: "
    end
  end

  test "transport" do
    assert {:ok, %{transport: Reactor.Transport.Native}} = Listener.new(Echo, [])
    assert {:ok, %{transport: Reactor.Transport.TCP}} = Listener.new(Echo, transport: :tcp)

    assert {:ok, %{transport: Reactor.Transport.TCP}} =
             Listener.new(Echo, transport: Reactor.Transport.TCP)

    for wrong <- [nil, :udp, Enum, "tcp"] do
      assert {:error, %ConfigError{option: :transport}} = Listener.new(Echo, transport: wrong)
    end
  end

  test "only the native transport has some limits and the deadlines" do
    for {name, value, default} <- [
          {:max_connections_per_ip, 10, ":infinity"},
          {:accept_rate, 10, ":infinity"},
          {:first_byte_timeout, 10, ":infinity"},
          {:idle_timeout, 10, ":infinity"},
          {:stall_timeout, 10, ":infinity"},
          {:max_lifetime, 10, ":infinity"},
          {:min_rate, {10, 10}, "nil"}
        ] do
      assert message(Echo, [{name, value}, {:transport, :tcp}]) ==
               "option :#{name} must be #{default} with transport :tcp (:native has it), " <>
                 "got: #{inspect(value)}"
    end

    assert {:ok, _} = Listener.new(Echo, transport: :tcp, max_connections: 1, overload: :reject)
  end

  describe "secure" do
    @secure [certfile: "cert.pem", keyfile: "key.pem"]

    test "is for the native transport, unless another is chosen" do
      assert {:ok, %{transport: Reactor.Transport.SSL}} =
               Listener.new(Echo, secure: @secure, transport: :ssl)

      assert {:ok, %{transport: Reactor.Transport.Native} = listener} =
               Listener.new(Echo, secure: @secure)

      assert listener.secure[:certfile] == "cert.pem"
      assert Listener.secure?(listener)
      refute Listener.secure?(elem(Listener.new(Echo, []), 1))
    end

    test "is for a transport that has it, which needs it" do
      assert message(Echo, secure: @secure, transport: :tcp) ==
               "option :transport must be :native or :ssl where :secure is given, got: :tcp"

      assert message(Echo, transport: :ssl) =~
               "option :secure must be a keyword list with :certfile and :keyfile"
    end

    test "is for Python too, on the native transport" do
      for {module, kind} <- [{Py, "a Python listener"}, {Routes, "a module with route/1"}] do
        options = [secure: [certfile: "cert.pem", password: "hunter2"]]
        assert {:ok, %{transport: Reactor.Transport.Native}} = Listener.new(module, options)
        message = message(module, [transport: :ssl] ++ options)
        assert message == "option :transport must be :native for #{kind}, got: :ssl"
      end
    end

    test "its own options are checked" do
      assert message(Echo, secure: []) =~ ":certfile must be given"
      assert message(Echo, secure: [certfil: "cert.pem"]) =~ "did you mean :certfile?"
      # It may be a key.
      assert message(Echo, secure: "hunter2") =~
               ~r/^option :secure must be .+, got: :"\(hidden\)"/
    end

    test "does not show in what is printed" do
      options = [secure: [password: "hunter2"] ++ @secure, env: %{token: "hunter2"}]
      {:ok, listener} = Listener.new(Echo, options)
      refute inspect(listener) =~ "hunter2"
    end

    test "does not show in errors" do
      {:ok, listener} = Listener.new(Echo, [])
      secret = [secure: [certfile: "cert.pem", password: "hunter2"]]

      for result <- [
            Listener.change(listener, secret),
            Listener.change(listener, Map.new(secret)),
            Listener.change(listener, env: %{token: "hunter2"}),
            Listener.new(Echo, Map.new(secret)),
            Listener.new(Echo, [:port | secret]),
            Listener.new({Echo, secret}, [])
          ] do
        assert {:error, %ConfigError{value: :"(hidden)"} = error} = result
        assert Exception.message(error) =~ ~s(got: :"\(hidden\)")
        refute inspect(error, structs: false) =~ "hunter2"
      end
    end
  end

  test "cert is the server's certificate" do
    %{cert: cert} = Reactor.Certificates.get()
    {:ok, listener} = Listener.new(Echo, secure: Reactor.Certificates.server())
    assert Listener.cert(listener) == {:ok, cert}

    {:ok, listener} = Listener.new(Echo, secure: [certfile: "nowhere.pem"])
    assert {:error, _reason} = Listener.cert(listener)

    {:ok, listener} = Listener.new(Echo, [])
    assert Listener.cert(listener) == {:error, :not_secure}
  end

  test "paths become absolute" do
    assert {:ok, %{paths: [path, "/srv"]}} = Listener.new(Py, paths: ["python", "/srv"])
    assert path == Path.join(File.cwd!(), "python")
  end

  test "an unknown option is named, with the nearest that exists" do
    assert {:error, %ConfigError{option: :drain_timout, nearest: :drain_timeout} = error} =
             Listener.new(Echo, drain_timout: 1)

    assert Exception.message(error) ==
             "unknown option :drain_timout, did you mean :drain_timeout?"

    assert {:error, %ConfigError{option: :xyzzy, nearest: nil} = error} =
             Listener.new(Echo, xyzzy: 1)

    assert Exception.message(error) == "unknown option :xyzzy"
  end

  test "options are a keyword list" do
    assert {:error, %ConfigError{option: :options}} = Listener.new(Echo, [:port])
    assert {:error, %ConfigError{option: :options}} = Listener.new(Echo, %{port: 1})
  end

  test "the low mark is not above the high one" do
    assert {:error, %ConfigError{option: :low_watermark, value: 100}} =
             Listener.new(Echo, high_watermark: 50, low_watermark: 100)
  end

  test "Python needs the native transport, and so does a module that chooses" do
    assert {:ok, %{python: "echo:EchoProtocol"}} = Listener.new(Py, [])

    assert message(Py, transport: :tcp) ==
             "option :transport must be :native for a Python listener, got: :tcp"

    assert {:ok, %{route: true}} = Listener.new(Routes, [])
    assert {:ok, %{route: false}} = Listener.new(Echo, [])

    assert message(Routes, transport: :tcp) ==
             "option :transport must be :native for a module with route/1, got: :tcp"

    assert message(Routes, python: "echo:EchoProtocol") =~
             "option :python must be nil for a module with route/1"
  end

  test "the module's own options come first" do
    assert {:ok, %{python: "other"}} = Listener.new(Py, python: "other")
  end

  test "Python looks in the paths given, in the application's, and in the current directory" do
    {:ok, listener} = Listener.new(Echo, python: "echo", paths: ["/srv"])

    assert Reactor.Python.Settings.paths(listener) == [
             "/srv",
             Application.app_dir(:reactor, "priv/python"),
             File.cwd!()
           ]

    {:ok, listener} = Listener.new(Py, paths: ["/srv"])
    assert Reactor.Python.Settings.paths(listener) == ["/srv", File.cwd!()]
  end

  describe "change" do
    setup do
      {:ok, listener} = Listener.new(Echo, port: 1, max_connections: 10, packet: :line)
      %{listener: listener}
    end

    defp change(listener, options) do
      {:error, %ConfigError{} = error} = Listener.change(listener, options)
      Exception.message(error)
    end

    test "takes what can be changed, and leaves the rest", %{listener: listener} do
      options = [
        acceptors: 3,
        max_connections: 5,
        overload: :reject,
        max_connections_per_ip: 2,
        accept_rate: 50,
        drain_timeout: 1,
        going_away: true,
        profile: true
      ]

      assert {:ok, changed} = Listener.change(listener, [idle_timeout: 9] ++ options)
      assert Map.take(changed, Keyword.keys(options)) == Map.new(options)
      assert %{port: 1, options: %{packet: :line, idle_timeout: 9}} = changed
    end

    test "refuses what cannot be changed", %{listener: listener} do
      for option <- [
            port: 2,
            ip: :any,
            name: :a,
            transport: :tcp,
            backlog: 1,
            reuseaddr: true,
            reuseport: true,
            num_listen_sockets: 1,
            ipv6_v6only: true,
            unix: [],
            fd: nil,
            spawn_opt: [],
            env: 1,
            paths: [],
            contexts: 1,
            isolation: :shared,
            setup: [],
            requirements: []
          ] do
        assert change(listener, [option]) =~
                 "option :#{elem(option, 0)} must be left alone: it cannot be changed while"
      end

      assert change(listener, acceptor: 1) == "unknown option :acceptor, did you mean :acceptors?"
      assert change(listener, max_connections: 0) =~ "option :max_connections must be an integer"
      assert change(listener, [:port]) =~ "option :options must be a keyword list"
    end

    test "does not turn TLS on or off", %{listener: plain} do
      {:ok, secure} = Listener.new(Echo, secure: @secure)
      text = "option :secure must be left alone: TLS cannot be turned on or off while"
      assert change(plain, secure: @secure) =~ text
      assert change(secure, secure: false) =~ text
      assert {:ok, changed} = Listener.change(secure, secure: [alpn: ["h2"]] ++ @secure)
      assert changed.secure[:alpn] == ["h2"]
    end

    test "holds options together as a start does", %{listener: listener} do
      assert change(listener, high_watermark: 1) =~ "option :low_watermark must be no more than"
      {:ok, tcp} = Listener.new(Echo, transport: :tcp)
      assert change(tcp, accept_rate: 1) =~ "with transport :tcp (:native has it)"
    end

    test "keeps the language", %{listener: listener} do
      assert {:ok, %{module: Routes}} =
               Listener.change(elem(Listener.new(Routes, []), 1), module: Routes)

      assert change(listener, module: Enum) =~
               "option :module must be a module with `use Reactor`"

      assert change(listener, module: Py) =~
               "option :module must be a module that is served by Elixir"

      assert change(listener, module: Routes) =~ "option :module must be a module without route/1"
      assert change(listener, python: "echo:A") =~ "was started without Python"

      {:ok, python} = Listener.new(Py, [])
      assert {:ok, %{python: "echo:Other"}} = Listener.change(python, python: "echo:Other")
      assert change(python, python: nil) =~ ~s(option :python must be "module:factory")
    end
  end
end
