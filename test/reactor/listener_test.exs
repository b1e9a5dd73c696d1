defmodule Reactor.ListenerTest do
  use ExUnit.Case, async: true

  alias MyApp.Echo
  alias Reactor.{ConfigError, Listener}

  defmodule Py do
    use Reactor.Behaviour, python: "echo:EchoProtocol"
  end

  # option, values that are taken as they are, values that are not
  @table [
    {:port, [0, 8080, 65_535], [-1, 65_536, "80", nil]},
    {:name, [nil, :a_name, {:global, 1}, {:via, Registry, {R, 1}}], ["name", {:local, :a}]},
    {:acceptors, [1, 1000], [0, -1, 1.5, "1"]},
    {:backlog, [1, 4096], [0, nil]},
    {:reuseaddr, [true, false], [nil, 1]},
    {:drain_timeout, [0, 10_000], [-1, :infinity]},
    {:spawn_opt, [[], [fullsweep_after: 5, priority: :high]], [[link: true], :link, nil]},
    {:env, [nil, %{any: "thing"}], []},
    {:python, [nil, "echo", "my.echo:Echo.Protocol", "écho:Écho"], ["", "a:b:c", "a b", :echo]},
    {:contexts, [1, 4], [0, nil]},
    {:isolation, [:shared], [:process, :subinterpreter, nil]}
  ]

  for {option, right, wrong} <- @table do
    test "#{option}" do
      option = unquote(option)

      for value <- unquote(Macro.escape(right)) do
        assert {:ok, listener} = Listener.new(Echo, [{option, value}])
        assert Map.fetch!(listener, option) == value
      end

      for value <- unquote(Macro.escape(wrong)) do
        assert {:error, %ConfigError{option: ^option} = error} =
                 Listener.new(Echo, [{option, value}])

        assert error.value == value
        assert Exception.message(error) =~ ~r/^option :#{option} must be .+, got: /
      end
    end
  end

  # The same for the options of the connections.
  @table [
    {:active, [true, false, :once, 1, 32_767], [0, 32_768, nil, :twice]},
    {:packet, [:raw, :line, 1, 2, 4], [0, 3, :http, nil]},
    {:packet_size, [0, 1, 67_108_864], [-1, 67_108_865, nil]},
    {:nodelay, [true, false], [nil, 1]},
    {:keepalive, [true, false], [nil, 1]},
    {:recbuf, [nil, 4096], [0, "1"]},
    {:sndbuf, [nil, 4096], [0, "1"]},
    {:high_watermark, [65_537], [0, nil]},
    {:low_watermark, [1], [0, nil]}
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

  test "ip" do
    for {given, ip} <- [
          {{127, 0, 0, 1}, {127, 0, 0, 1}},
          {{0, 0, 0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}},
          {"10.0.0.1", {10, 0, 0, 1}},
          {"::1", {0, 0, 0, 0, 0, 0, 0, 1}},
          {:any, {0, 0, 0, 0}},
          {:loopback, {127, 0, 0, 1}}
        ] do
      assert {:ok, %{ip: ^ip}} = Listener.new(Echo, ip: given)
    end

    for wrong <- [nil, "example", {1, 2}, {256, 0, 0, 1}, :here] do
      assert {:error, %ConfigError{option: :ip}} = Listener.new(Echo, ip: wrong)
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

  test "paths become absolute" do
    assert {:ok, %{paths: [path, "/srv"]}} = Listener.new(Echo, paths: ["python", "/srv"])
    assert path == Path.join(File.cwd!(), "python")

    for wrong <- [nil, "/srv", ~c"/srv", [:srv]] do
      assert {:error, %ConfigError{option: :paths}} = Listener.new(Echo, paths: wrong)
    end
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

  test "Python needs the native transport" do
    assert {:ok, %{python: "echo:EchoProtocol"}} = Listener.new(Py, [])
    assert {:error, %ConfigError{option: :transport}} = Listener.new(Py, transport: :tcp)
  end

  test "the module's own options come first" do
    assert {:ok, %{python: "other"}} = Listener.new(Py, python: "other")
  end

  test "Python looks in the paths given, in the application's, and in the current directory" do
    {:ok, listener} = Listener.new(Echo, paths: ["/srv"])

    assert Reactor.Python.Context.paths(listener) == [
             "/srv",
             Application.app_dir(:reactor, "priv/python"),
             File.cwd!()
           ]

    {:ok, listener} = Listener.new(Py, paths: ["/srv"])
    assert Reactor.Python.Context.paths(listener) == ["/srv", File.cwd!()]
  end
end
