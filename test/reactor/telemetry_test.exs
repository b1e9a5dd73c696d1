defmodule Reactor.TelemetryTest do
  # It turns events off and on for the whole VM.
  use ExUnit.Case, async: false

  import Reactor.EventRelay, only: [assert_event: 1]
  import Reactor.LogRelay

  alias Reactor.{EventRelay, Telemetry}

  doctest Reactor.Telemetry

  @event [:reactor, :loop, :load]

  setup do
    Reactor.Logger.detach()

    on_exit(fn ->
      Application.delete_env(:reactor, :telemetry)
      Reactor.Logger.detach()
    end)
  end

  defp without_telemetry do
    Application.put_env(:reactor, :telemetry, false)
    Telemetry.refresh()
  end

  test "every event is documented: its name, its measurements and its metadata" do
    {:docs_v1, _, _, _, %{"en" => documentation}, _, _} = Code.fetch_docs(Telemetry)
    sections = documentation |> String.split("### ") |> tl()
    assert length(sections) == length(Telemetry.events())

    for event <- Telemetry.events() do
      assert [section] = Enum.filter(sections, &String.starts_with?(&1, "`#{inspect(event)}`\n"))
      %{measurements: measurements, metadata: metadata} = Telemetry.keys(event)
      assert :monotonic_time in measurements

      for key <- measurements ++ (metadata -- [:module, :name, :ip, :port]) do
        assert section =~ "`:#{key}` - "
      end
    end

    assert Telemetry.events() == Enum.uniq(Telemetry.events())
  end

  test "events go to :telemetry if it is there" do
    assert Telemetry.refresh()
    assert Telemetry.enabled?()
    EventRelay.attach(loop: "a loop")
    assert Telemetry.execute(@event, %{turns: 1}, %{loop: "a loop"}) == :ok
    assert_received {@event, %{turns: 1}, %{loop: "a loop"}}
  end

  test "with telemetry: false in the configuration none does" do
    EventRelay.attach()
    refute without_telemetry()
    refute Telemetry.enabled?()
    assert Telemetry.execute(@event, %{}, %{}) == :ok
    refute_received {@event, _, _}
  end

  test "an event that nobody listens to costs next to nothing" do
    without_telemetry()
    {:reductions, before} = Process.info(self(), :reductions)
    for _ <- 1..1_000, do: Telemetry.execute(@event, %{}, %{})
    {:reductions, later} = Process.info(self(), :reductions)
    assert later - before < 15_000
  end

  test "an event that cannot be emitted does no harm, and its content is not logged" do
    attach()
    Reactor.Logger.attach(:debug)
    # :telemetry takes no such measurements, and the logger misses some.
    assert Telemetry.execute(@event, :secret, %{}) == :ok
    assert {:error, text, _} = assert_logged("event [:reactor, :loop, :load] was lost")
    refute text =~ "secret"
  end

  # --- what servers tell ------------------------------------------------------------------------

  defmodule Handler do
    use Reactor

    # Does what it is told; the bytes are counted.
    def handle(connection) do
      case Reactor.Socket.recv(connection) do
        {:ok, "echo"} ->
          Reactor.Socket.send!(connection, "echoed")
          handle(connection)

        {:ok, "close"} ->
          :ok

        {:ok, "raise"} ->
          raise "on demand"

        {:ok, "exit"} ->
          exit(:on_demand)

        {:error, _reason} ->
          :ok
      end
    end
  end

  defmodule Failing do
    use Reactor

    # Its acceptors fail until the test lets them go.
    def accept(listener) do
      if :ets.lookup(listener.env, :fail) == [], do: super(listener), else: {:error, :enobufs}
    end
  end

  defmodule Python do
    use Reactor, python: "trouble:OnDemand"
  end

  @python Path.expand("../support/python", __DIR__)

  # Events of servers that were started before are of no interest.
  defp serve(module, options) do
    server = start_supervised!({module, [ip: :loopback] ++ options}, id: make_ref())
    port = Reactor.info(server).port
    assert_receive {[:reactor, :listener, :start], _, %{port: ^port}}
    {server, port}
  end

  defp client(port) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    client
  end

  defp tell(client, command, answer \\ "") do
    :ok = :gen_tcp.send(client, command)
    if answer != "", do: assert({:ok, ^answer} = :gen_tcp.recv(client, byte_size(answer), 5_000))
    client
  end

  describe "a server tells" do
    setup do
      Telemetry.refresh()
      EventRelay.attach()
      :ok
    end

    @tag events: [[:listener, :start], [:listener, :stop], [:drain, :start], [:drain, :stop]]
    test "when it listens, drains and stops, and that its connections end before" do
      server = start_supervised!({Handler, ip: :loopback, name: :telling})
      port = Reactor.info(server).port
      {_, started} = assert_event([:reactor, :listener, :start])
      assert %{module: Handler, name: :telling, ip: {127, 0, 0, 1}, port: ^port} = started
      client = port |> client() |> tell("echo", "echoed")
      assert_event([:reactor, :connection, :start])

      stop_supervised!(:telling)
      assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
      {%{connections: 1}, _} = assert_event([:reactor, :drain, :start])

      {%{connections: 1, finished: finished, cut: cut}, _} =
        assert_event([:reactor, :drain, :stop])

      assert finished + cut == 1
      {measurements, stopped} = assert_event([:reactor, :listener, :stop])
      assert measurements.duration > 0
      assert stopped.telemetry_span_context == started.telemetry_span_context
      # It is the last one.
      assert_received {[:reactor, :connection, :stop], %{received: 4, sent: 6}, _}
    end

    @tag events: [[:listener, :suspend], [:listener, :resume]]
    test "when it is suspended and resumed" do
      {server, port} = serve(Handler, [])
      :ok = Reactor.suspend(server)
      {_, %{port: ^port}} = assert_event([:reactor, :listener, :suspend])
      :ok = Reactor.resume(server)
      {_, %{port: ^port}} = assert_event([:reactor, :listener, :resume])
    end

    for transport <- [:native, :tcp] do
      @tag transport: transport
      @tag events: [[:connection, :start], [:connection, :stop]]
      test "of each connection, with its bytes and why it ended (#{transport})", context do
        {_server, port} = serve(Handler, transport: context.transport)

        client = client(port)
        {:ok, address} = :inet.sockname(client)
        {_, of_start} = assert_event([:reactor, :connection, :start])
        assert %{remote: ^address, port: ^port, module: Handler, id: id} = of_start

        client |> tell("echo", "echoed") |> tell("echo", "echoed")
        :gen_tcp.close(client)
        {closed, of_stop} = assert_event([:reactor, :connection, :stop])
        assert %{received: 8, sent: 12} = closed
        assert closed.duration > 0
        assert %{id: ^id, remote: ^address, reason: :remote} = of_stop
        assert of_start.telemetry_span_context == of_stop.telemetry_span_context

        port |> client() |> tell("close")
        {_, %{id: id}} = assert_event([:reactor, :connection, :start])
        {%{received: 5, sent: 0}, closed} = assert_event([:reactor, :connection, :stop])
        assert %{id: ^id, reason: :local} = closed
      end

      @tag transport: transport, capture_log: true
      @tag events: [[:handler, :exit]]
      test "of a handler that fails, and of its connection (#{transport})", context do
        {_server, port} = serve(Handler, transport: context.transport)

        port |> client() |> tell("raise")
        {_, %{id: id}} = assert_event([:reactor, :connection, :start])
        {_, failed} = assert_event([:reactor, :handler, :exit])
        assert %{id: ^id, kind: :error, reason: %RuntimeError{}, stacktrace: [_ | _]} = failed
        {_, %{id: ^id, reason: :owner_down}} = assert_event([:reactor, :connection, :stop])

        port |> client() |> tell("exit")
        {_, failed} = assert_event([:reactor, :handler, :exit])
        assert %{kind: :exit, reason: :on_demand} = failed
      end

      @tag transport: transport
      @tag events: [[:connection, :rejected], [:listener, :saturated]]
      test "that a limit is reached, and of those that it refuses (#{transport})", context do
        options = [max_connections: 1, overload: :reject, transport: context.transport]
        {_server, port} = serve(Handler, options)
        first = port |> client() |> tell("echo", "echoed")
        refused = client(port)
        assert {:error, :closed} = :gen_tcp.recv(refused, 0, 5_000)

        {%{count: 1}, %{reason: :max_connections}} =
          assert_event([:reactor, :connection, :rejected])

        {_, saturated} = assert_event([:reactor, :listener, :saturated])
        assert %{reason: :max_connections, limit: 1, port: ^port} = saturated
        :gen_tcp.close(first)
      end
    end

    @tag events: [[:connection, :stop]]
    test "which deadline cut a connection" do
      {_server, port} = serve(Handler, idle_timeout: 50)
      client = client(port)
      {%{received: 0}, %{reason: :idle_timeout}} = assert_event([:reactor, :connection, :stop])
      assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
    end

    @tag capture_log: true
    @tag events: [[:accept, :error]]
    test "that it cannot accept, once while it lasts" do
      table = :ets.new(:table, [:public])
      :ets.insert(table, {:fail, true})
      attach()
      start_supervised!({Failing, ip: :loopback, env: table, acceptors: 2})
      {_, %{module: Failing, reason: :enobufs}} = assert_event([:reactor, :accept, :error])
      # Each attempt is logged.
      for _ <- 1..3, do: assert_logged("cannot accept on port")
      refute_received {[:reactor, :accept, :error], _, _}
      :ets.delete(table, :fail)
    end

    @tag events: [[:connection, :profile]]
    test "of each handler's work, with profile: true" do
      {_server, port} = serve(Handler, profile: true)
      client = port |> client() |> tell("echo", "echoed")
      {_, %{id: id}} = assert_event([:reactor, :connection, :start])
      :gen_tcp.close(client)
      {profile, %{id: ^id}} = assert_event([:reactor, :connection, :profile])
      assert Enum.all?([:duration, :run_time, :reductions, :memory], &(profile[&1] > 0))
      assert profile.run_time <= profile.duration
    end

    @tag capture_log: true
    @tag events: [[:python, :exception]]
    test "of a Python exception, and of its connection" do
      {_server, port} = serve(Python, paths: [@python])
      port |> client() |> tell("raise")
      {_, %{id: id}} = assert_event([:reactor, :connection, :start])
      {_, failed} = assert_event([:reactor, :python, :exception])
      assert %{id: ^id, callback: "data_received", port: ^port, module: Python} = failed
      assert %{type: "ValueError", message: "raised on demand"} = failed.reason
      assert failed.reason.traceback =~ "trouble.py"
      {closed, %{id: ^id, reason: :exception}} = assert_event([:reactor, :connection, :stop])
      assert closed.received == 5
    end

    @tag capture_log: true
    @tag events: [[:python, :stuck]]
    test "of a Python callback that cannot be interrupted" do
      options = [python: "patience:Obeys", paths: [@python], callback_timeout: 50]
      {_server, port} = serve(Python, options)
      port |> client() |> tell("sleep 1.5")
      {_, %{id: id}} = assert_event([:reactor, :connection, :start])
      {stuck, %{id: ^id, callback: "data_received"}} = assert_event([:reactor, :python, :stuck])
      assert stuck.duration > System.convert_time_unit(550, :millisecond, :native)
      {_, %{id: ^id, reason: :callback_timeout}} = assert_event([:reactor, :connection, :stop])
    end

    @tag events: [[:python, :load], [:loop, :load]]
    test "what its loops and contexts do, while they are busy" do
      {_server, port} = serve(Python, paths: [@python])
      {_server, other_port} = serve(Handler, [])
      clients = [{client(port), "echo"}, {client(other_port), "echoed"}]

      {context, %{context: "trouble:OnDemand/1", port: ^port}} =
        busy(clients, [:reactor, :python, :load])

      assert context.calls >= context.turns
      assert context.callback_time >= context.longest_turn
      assert context.gil_wait >= context.longest_gil_wait
      assert Enum.all?(Map.delete(context, :monotonic_time), fn {_, value} -> value > 0 end)

      {loop, %{loop: "reactor-" <> _}} = busy(clients, [:reactor, :loop, :load])
      assert loop.turns > 0 and loop.busy_time >= loop.longest_turn and loop.longest_turn > 0
    end
  end

  @tag events: [[:port, :start], [:port, :stop], [:port, :restart], [:port, :call]]
  test "what becomes of a port's children and calls" do
    script = Path.expand("../support/python/port_script.py", __DIR__)
    EventRelay.attach(pool: "port_script.py")
    {:ok, port} = Reactor.Port.start(script: script)
    {_, %{os_pid: os_pid, telemetry_span_context: span}} = assert_event([:reactor, :port, :start])
    assert {:ok, 42} = Reactor.Port.call(port, :twice, [21])

    {%{duration: duration}, %{function: :twice, result: :ok}} =
      assert_event([:reactor, :port, :call])

    assert duration > 0

    assert {:error, {:exit, 137}} = Reactor.Port.call(port, :kill)

    {_, %{telemetry_span_context: ^span, os_pid: ^os_pid, reason: {:exit, 137}}} =
      assert_event([:reactor, :port, :stop])

    {%{delay: 50}, %{reason: {:exit, 137}, child: 1}} = assert_event([:reactor, :port, :restart])
    assert_event([:reactor, :port, :start])
    assert Reactor.Port.stop(port) == :ok
    {_, %{reason: :shutdown}} = assert_event([:reactor, :port, :stop])
  end

  # Talks until the event comes.
  defp busy(clients, event) do
    for {client, answer} <- clients, do: tell(client, "echo", answer)

    receive do
      {^event, _, _} = message ->
        send(self(), message)
        assert_event(event)
    after
      0 -> busy(clients, event)
    end
  end

  test "each event occurs in one of these tests" do
    occurring =
      for %{tags: tags} <- __MODULE__.__ex_unit__().tests,
          event <- tags[:events] || [],
          do: [:reactor | event]

    assert Enum.sort(Enum.uniq(occurring)) == Enum.sort(Telemetry.events())
  end
end
