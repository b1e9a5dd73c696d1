defmodule Reactor.LoggerTest do
  # Reactor.Logger is attached for the whole VM.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog
  import Reactor.LogRelay, only: [assert_logged: 1]

  alias Reactor.{LogRelay, Telemetry}

  doctest Reactor.Logger

  setup do
    Reactor.Logger.detach()
    on_exit(fn -> Reactor.Logger.detach() end)
  end

  @server %{module: MyApp.Echo, name: nil, ip: {0, 0, 0, 0}, port: 8080}
  @connection Map.merge(@server, %{id: 17, remote: {{192, 0, 2, 7}, 51_034}})
  @child %{pool: "calculator.py", child: 1, os_pid: 4_711}
  @second System.convert_time_unit(1, :second, :native)

  # Each event as it may come, the level of its line, and what that says.
  @lines [
    {[:handler, :exit], %{},
     Map.merge(@connection, %{pid: :c.pid(0, 9, 0), kind: :exit, reason: :oops, stacktrace: []}),
     :error,
     "MyApp.Echo on port 8080: connection 17 from 192.0.2.7:51034: its handler #PID<0.9.0> ended abnormally, exit :oops"},
    {[:listener, :saturated], %{}, Map.merge(@server, %{reason: :max_connections, limit: 100}),
     :warning, "MyApp.Echo on port 8080 has reached its max_connections of 100"},
    {[:connection, :rejected], %{count: 3}, Map.put(@server, :reason, :max_connections_per_ip),
     :warning, "MyApp.Echo on port 8080 refused 3 connections: :max_connections_per_ip"},
    {[:connection, :stop], %{duration: 60 * @second, received: 12, sent: 0},
     Map.put(@connection, :reason, :idle_timeout), :warning,
     "MyApp.Echo on port 8080: connection 17 from 192.0.2.7:51034 was cut by its idle_timeout after 60.0 s, 12 bytes in, 0 bytes out"},
    {[:drain, :stop], %{duration: 3 * @second, connections: 5, finished: 3, cut: 2}, @server,
     :warning,
     "MyApp.Echo on port 8080 is drained after 3000 ms: 5 connections, 3 finished, 2 cut"},
    {[:drain, :stop], %{duration: div(@second, 1_000), connections: 1, finished: 1, cut: 0},
     @server, :info,
     "MyApp.Echo on port 8080 is drained after 1000 µs: 1 connection, 1 finished, 0 cut"},
    {[:drain, :start], %{connections: 5}, Map.put(@server, :timeout, 3_000), :info,
     "MyApp.Echo on port 8080 drains: 5 connections may take 3000 ms"},
    {[:listener, :start], %{}, @server, :info, "MyApp.Echo listens on 0.0.0.0:8080"},
    {[:listener, :start], %{}, %{@server | ip: {0, 0, 0, 0, 0, 0, 0, 1}}, :info,
     "MyApp.Echo listens on [::1]:8080"},
    {[:listener, :start], %{}, %{@server | ip: {:local, "/run/a.sock"}, port: 0}, :info,
     "MyApp.Echo listens on /run/a.sock"},
    {[:listener, :resume], %{}, %{@server | ip: {:local, "/run/a.sock"}, port: 0}, :info,
     "MyApp.Echo on /run/a.sock accepts again"},
    {[:connection, :start], %{},
     %{@connection | ip: {:local, <<0, "name">>}, port: 0, remote: {:local, ""}}, :debug,
     "MyApp.Echo on @name: connection 17 from a local client opened"},
    {[:listener, :stop], %{duration: 90 * @second}, @server, :info,
     "MyApp.Echo on port 8080 stopped after 90.0 s"},
    {[:listener, :suspend], %{}, @server, :info,
     "MyApp.Echo on port 8080 is suspended: it accepts nothing, its connections go on"},
    {[:listener, :resume], %{}, @server, :info, "MyApp.Echo on port 8080 accepts again"},
    {[:connection, :start], %{}, @connection, :debug,
     "MyApp.Echo on port 8080: connection 17 from 192.0.2.7:51034 opened"},
    {[:connection, :start], %{}, %{@connection | remote: {{0x2001, 0xDB8, 0, 0, 0, 0, 0, 7}, 5}},
     :debug, "MyApp.Echo on port 8080: connection 17 from [2001:db8::7]:5 opened"},
    {[:connection, :start], %{}, %{@connection | remote: nil}, :debug,
     "MyApp.Echo on port 8080: connection 17 from an unknown address opened"},
    {[:connection, :stop], %{duration: @second, received: 1, sent: 2},
     Map.put(@connection, :reason, :remote), :debug,
     "MyApp.Echo on port 8080: connection 17 from 192.0.2.7:51034 closed (:remote) after 1000 ms, 1 bytes in, 2 bytes out"},
    {[:python, :load],
     %{
       turns: 3,
       calls: 9,
       callback_time: 2 * @second,
       longest_turn: @second,
       gil_wait: 0,
       longest_gil_wait: 0,
       busy_time: 2 * @second,
       lag: @second
     }, Map.put(@server, :context, "echo:Echo/1"), :debug,
     "MyApp.Echo on port 8080: context echo:Echo/1 made 9 calls in 3 turns: 2000 ms in Python, at most 1000 ms; 0 µs waiting for the GIL, at most 0 µs; lag 1000 ms"},
    {[:port, :start], %{}, @child, :info,
     "port calculator.py: child 1 was started (process 4711)"},
    {[:port, :stop], %{duration: @second}, Map.put(@child, :reason, {:exit, 139}), :info,
     "port calculator.py: child 1 ended ({:exit, 139}) after 1000 ms"},
    {[:port, :restart], %{delay: 50}, Map.put(@child, :reason, {:exit, 139}), :info,
     "port calculator.py: child 1 will be started again in 50 ms ({:exit, 139})"},
    {[:port, :call], %{duration: @second},
     %{pool: "calculator.py", function: :twice, result: :timeout}, :debug,
     "port calculator.py: :twice took 1000 ms (:timeout)"},
    {[:loop, :load], %{turns: 3, busy_time: @second, longest_turn: @second}, %{loop: "loop 0"},
     :debug, "event loop loop 0: 3 turns, busy for 1000 ms, at most 1000 ms"}
  ]

  # They are in the log without it.
  @elsewhere [
    {[:accept, :error], %{}, Map.put(@server, :reason, :emfile)},
    {[:connection, :profile],
     %{duration: 1, reductions: 9, memory: 4_000, garbage_collections: 2}, @connection},
    {[:python, :stuck], %{duration: 1}, Map.merge(@server, %{id: 17, callback: "data_received"})},
    {[:python, :exception], %{},
     Map.merge(@connection, %{
       callback: "data_received",
       kind: :error,
       reason: %Reactor.Python.Error{type: "ValueError"},
       stacktrace: []
     })}
  ]

  @levels [:error, :warning, :info, :debug]

  for level <- @levels do
    test "attached at #{level}, it logs what is as serious or more, and nothing else" do
      :ok = Reactor.Logger.attach(unquote(level))
      assert Reactor.Logger.level() == unquote(level)
      LogRelay.attach()
      wanted = Enum.take_while(@levels, &(&1 != unquote(level))) ++ [unquote(level)]

      for {name, measurements, metadata, level, line} <- @lines do
        Telemetry.execute([:reactor | name], measurements, metadata)

        if level in wanted do
          assert_received {LogRelay, ^level, ^line, _}
        else
          refute_received {LogRelay, _, _, _}
        end
      end
    end
  end

  test "there is a line for every event but those that are logged without it" do
    logged = for {name, _, _, _, _} <- @lines, do: [:reactor | name]
    elsewhere = for {name, _, _} <- @elsewhere, do: [:reactor | name]
    assert Enum.sort(Enum.uniq(logged) ++ elsewhere) == Enum.sort(Telemetry.events())

    Reactor.Logger.attach(:debug)

    log =
      capture_log(fn ->
        for {name, measurements, metadata} <- @elsewhere do
          Telemetry.execute([:reactor | name], measurements, metadata)
        end
      end)

    assert log == ""
  end

  test "a line has the event, the server and the connection as metadata" do
    Reactor.Logger.attach(:warning)
    LogRelay.attach()
    closed = %{duration: 1, received: 1, sent: 1}
    metadata = Map.put(@connection, :reason, :min_rate)
    Telemetry.execute([:reactor, :connection, :stop], closed, metadata)

    assert {:warning, _, logged} = assert_logged("cut by its min_rate")

    assert %{
             event: [:reactor, :connection, :stop],
             listener: MyApp.Echo,
             port: 8080,
             connection: 17,
             remote: "192.0.2.7:51034",
             reason: ":min_rate"
           } = logged
  end

  test "of an exception only its name and place are logged, since it may hold what was received" do
    Reactor.Logger.attach(:error)
    LogRelay.attach()

    for {kind, reason, outline} <- [
          {:error, %MatchError{term: "secret"}, "error MatchError"},
          {:exit, {:bad_request, "secret"}, "exit {:bad_request, ...}"},
          {:exit, {"secret", 1}, "exit {...}"},
          {:throw, "secret", "throw ..."}
        ] do
      stacktrace = [{MyApp.Echo, :handle, ["secret"], [file: ~c"lib/echo.ex", line: 12]}]
      failure = %{pid: self(), kind: kind, reason: reason, stacktrace: stacktrace}
      metadata = Map.merge(@connection, failure)
      Telemetry.execute([:reactor, :handler, :exit], %{}, metadata)
      assert {:error, text, logged} = assert_logged("ended abnormally, #{outline}")
      assert text =~ "in MyApp.Echo.handle/1 lib/echo.ex:12"
      refute text =~ "secret"
      refute inspect(logged) =~ "secret"
    end
  end

  test "it works without :telemetry, and ends when it is detached" do
    Application.put_env(:reactor, :telemetry, false)
    on_exit(fn -> Application.delete_env(:reactor, :telemetry) end)
    Reactor.Logger.attach(:info)
    assert Telemetry.enabled?()
    resume = fn -> Telemetry.execute([:reactor, :listener, :resume], %{}, @server) end
    assert capture_log(resume) =~ "[info] MyApp.Echo on port 8080 accepts again"

    Reactor.Logger.detach()
    refute Telemetry.enabled?()
    assert capture_log(resume) == ""
  end

  test "it is attached at :info if nothing else is said" do
    Reactor.Logger.attach()
    assert Reactor.Logger.level() == :info
  end

  describe "with a server" do
    defmodule Echo do
      use Reactor

      def handle(connection) do
        with {:ok, data} <- Reactor.Socket.recv(connection) do
          if data == "raise", do: raise("the secret")
          Reactor.Socket.send!(connection, data)
          handle(connection)
        end
      end
    end

    defmodule Python do
      use Reactor, python: "trouble:OnDemand"
    end

    defp serve(module, options \\ []) do
      server = start_supervised!({module, [ip: :loopback] ++ options})
      LogRelay.attach()
      Reactor.info(server).port
    end

    defp client(port) do
      {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      client
    end

    test "it is the server's story, without what was said" do
      Reactor.Logger.attach(:debug)

      log =
        capture_log(fn ->
          port = serve(Echo)
          client = client(port)
          :ok = :gen_tcp.send(client, "payload")
          {:ok, "payload"} = :gen_tcp.recv(client, 0, 5_000)
          {:ok, {_, own_port}} = :inet.sockname(client)
          :gen_tcp.close(client)
          on_port = "Reactor.LoggerTest.Echo on port #{port}"

          {:debug, _, metadata} = assert_logged("#{on_port}: connection ")
          assert %{remote: remote, connection: id, port: ^port, listener: Echo} = metadata
          assert remote == "127.0.0.1:#{own_port}"

          {:debug, text, %{connection: ^id}} = assert_logged("7 bytes in, 7 bytes out")
          assert text =~ "#{on_port}: connection #{id} from #{remote} closed (:remote) after "
          stop_supervised!(Echo)
          assert_logged("#{on_port} drains")
          assert_logged("#{on_port} is drained")
          assert_logged("#{on_port} stopped")
        end)

      assert log =~ "[info] Reactor.LoggerTest.Echo listens on 127.0.0.1:"
      refute log =~ "payload"
    end

    test "a deadline that cuts a connection is a warning" do
      Reactor.Logger.attach(:warning)
      port = serve(Echo, first_byte_timeout: 30)
      client(port)
      {:warning, text, %{connection: id}} = assert_logged("was cut by its first_byte_timeout")
      assert text =~ "Reactor.LoggerTest.Echo on port #{port}: connection #{id} from 127.0.0.1:"
    end

    test "a handler that raised is an error, which says of which connection" do
      Reactor.Logger.attach(:error)
      port = serve(Echo)
      :ok = :gen_tcp.send(client(port), "raise")
      # The VM logs the whole error, sooner or later.
      both = for _ <- 1..2, do: assert_logged(~r/ended abnormally|the secret/)
      assert [{:error, text, metadata}] = Enum.filter(both, &match?({_, _, %{event: _}}, &1))
      assert text =~ "ended abnormally"
      assert text =~ ~r/connection #{metadata.connection} from 127.0.0.1:\d+: its handler #PID/
      assert text =~ "error RuntimeError in Reactor.LoggerTest.Echo.handle/1"
      refute text =~ "secret"
    end

    test "a Python exception is logged once, attached or not" do
      port = serve(Python, paths: [Path.expand("../support/python", __DIR__)])

      for attach <- [&Reactor.Logger.detach/0, fn -> Reactor.Logger.attach(:debug) end] do
        attach.()
        client = client(port)
        :ok = :gen_tcp.send(client, "raise")
        assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
        assert {:error, _, _} = assert_logged("ValueError: raised on demand")
      end

      # The last one, for those that would come after it.
      stop_supervised!(Python)
      assert_logged("stopped after")
      {:messages, messages} = Process.info(self(), :messages)
      refute Enum.any?(messages, &(inspect(&1) =~ "ValueError"))
    end
  end
end
