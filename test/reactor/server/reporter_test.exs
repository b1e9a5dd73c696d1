defmodule Reactor.Server.ReporterTest do
  use ExUnit.Case, async: true

  import Reactor.LogRelay

  import Reactor.EventRelay, only: [assert_event: 1]

  alias Reactor.{EventRelay, Listener, Server}
  alias Reactor.Server.Reporter

  @remote {{192, 0, 2, 7}, 51_034}

  # A server's table without the server.
  setup context do
    module = Module.concat(__MODULE__, "Server#{context.line}")
    board = :ets.new(:board, [:public])
    listener = %Listener{module: module, name: :some_name, ip: {127, 0, 0, 1}, port: 8080}
    Server.put_listener(board, listener)
    EventRelay.attach(module: module)
    %{board: board, module: module}
  end

  defp start(%{board: board}) do
    pid = start_supervised!({Reporter, board})
    assert Server.whereis(board, :reporter) == pid
    pid
  end

  defp native(reporter, reports), do: send(reporter, {:"$reactor_report", reports})

  @error %{type: "ValueError", message: "no", traceback: "Traceback..."}
  @python_load %{
    kind: :python,
    name: "echo:Echo/1",
    turns: 3,
    calls: 9,
    busy_ns: 2_000_000,
    longest_ns: 1_000_000,
    gil_wait_ns: 500_000,
    gil_longest_ns: 400_000,
    loop_busy_ns: 3_000_000,
    lag_ns: 1_500_000
  }

  for {report, event} <- [
        {:listening, [:listener, :start]},
        {:suspended, [:listener, :suspend]},
        {:resumed, [:listener, :resume]},
        {{:saturated, :accept_rate}, [:listener, :saturated]},
        {{:drain_started, %{connections: 3, timeout: 100}}, [:drain, :start]},
        {{:opened, 17, @remote, 1_700_000_000_000}, [:connection, :start]},
        {{:closed, 17, @remote, :remote, 1, 2, 3}, [:connection, :stop]},
        {{:rejected, :max_connections_per_ip, 3}, [:connection, :rejected]},
        {{:profile, 17, @remote,
          %{duration: 2, run_time: 1, reductions: 2, memory: 3, garbage_collections: 4}},
         [:connection, :profile]},
        {{:accept_error, :emfile}, [:accept, :error]},
        {{:starved, :enfile}, [:accept, :error]},
        {{:handler_exit, 17, @remote, :c.pid(0, 1, 0), :oops}, [:handler, :exit]},
        {{:exception, 17, @remote, @error, "data_received"}, [:python, :exception]},
        {{:load, @python_load}, [:python, :load]}
      ] do
    @tag report: report, event: [:reactor | event]
    test "#{inspect(event)} has what is documented, and the server's metadata, of #{inspect(report, limit: 3)}",
         %{report: report, event: event} = context do
      start(context)
      assert Reporter.report(context.board, report) == :ok
      {_measurements, metadata} = assert_event(event)
      assert %{name: :some_name, ip: {127, 0, 0, 1}, port: 8080} = metadata
    end
  end

  test "a connection has its number, its times, its bytes and the reason of its end", context do
    reporter = start(context)
    unix_ms = System.os_time(:millisecond) - 60_000

    native(reporter, [
      {:opened, 17, @remote, unix_ms},
      {:closed, 17, @remote, :idle_timeout, 12, 34, 5_000_000}
    ])

    assert_receive {[:reactor, :connection, :start], opened,
                    %{id: 17, remote: @remote} = of_start}

    assert System.convert_time_unit(opened.system_time, :native, :millisecond) == unix_ms
    ago = System.monotonic_time() - opened.monotonic_time
    assert System.convert_time_unit(ago, :native, :second) in 55..65

    assert_receive {[:reactor, :connection, :stop], closed, %{reason: :idle_timeout} = of_stop}
    assert %{received: 12, sent: 34} = closed
    assert System.convert_time_unit(closed.duration, :native, :microsecond) == 5_000
    assert of_start.telemetry_span_context == of_stop.telemetry_span_context
  end

  test "the listener's span has the port that is bound, and ends with the server", context do
    Server.put_listener(context.board, %{Server.listener(context.board) | port: 0})
    start(context)
    Server.put_listener(context.board, %{Server.listener(context.board) | port: 4711})
    Reporter.report(context.board, :listening)
    # Its socket failed and was started again.
    Reporter.report(context.board, :listening)
    assert_receive {[:reactor, :listener, :start], _, %{port: 4711} = of_start}

    stop_supervised!(Reporter)
    {measurements, of_stop} = assert_event([:reactor, :listener, :stop])
    assert measurements.duration > 0
    assert of_start.telemetry_span_context == of_stop.telemetry_span_context
    refute_received {[:reactor, :listener, :start], _, _}
  end

  test "a drain is a span with the counts", context do
    start(context)
    Reporter.report(context.board, {:drain_started, %{connections: 5, timeout: 100}})
    Reporter.report(context.board, {:drain_stopped, %{connections: 5, finished: 3, cut: 2}})

    assert_receive {[:reactor, :drain, :start], %{connections: 5}, %{timeout: 100} = of_start}
    {measurements, of_stop} = assert_event([:reactor, :drain, :stop])
    assert %{connections: 5, finished: 3, cut: 2} = measurements
    assert measurements.duration > 0
    assert of_start.telemetry_span_context == of_stop.telemetry_span_context
  end

  test "what waits in its mailbox when the server stops is still told", context do
    reporter = start(context)
    :sys.suspend(reporter)
    native(reporter, [{:closed, 1, @remote, :remote, 0, 0, 0}])
    native(reporter, [{:rejected, :max_connections, 2}])
    native(reporter, [{:rejected, :max_connections, 3}])
    stop_supervised!(Reporter)

    assert_received {[:reactor, :connection, :stop], _, %{id: 1}}
    assert_received {[:reactor, :connection, :rejected], %{count: 2}, _}
    assert_received {[:reactor, :connection, :rejected], %{count: 3}, _}
  end

  test "refused connections are told at once, and then no more than once a second", context do
    reporter = start(context)
    native(reporter, for(_ <- 1..100, do: {:rejected, :max_connections, 1}))
    assert_receive {[:reactor, :connection, :rejected], first, %{reason: :max_connections}}
    assert first.count == 1
    assert_receive {[:reactor, :connection, :rejected], rest, _}
    assert rest.count == 99

    pause =
      System.convert_time_unit(rest.monotonic_time - first.monotonic_time, :native, :millisecond)

    assert pause >= 900
  end

  test "the limit that is reached is told as it is now", context do
    start(context)
    listener = Server.listener(context.board)
    Server.put_listener(context.board, Map.put(listener, :max_connections, 12))
    Reporter.report(context.board, {:saturated, :max_connections})
    assert_receive {[:reactor, :listener, :saturated], _, metadata}
    assert %{reason: :max_connections, limit: 12} = metadata
  end

  describe "the end of a handler" do
    # As the process really says it.
    defp exit_reason(function) do
      {pid, monitor} = :erlang.spawn_opt(function, [:monitor])
      assert_receive {:DOWN, ^monitor, _, _, reason}
      {pid, reason}
    end

    defp exit_event(context, function) do
      start(context)
      {pid, reason} = exit_reason(function)
      Reporter.report(context.board, {:handler_exit, 17, @remote, pid, reason})
      assert_receive {[:reactor, :handler, :exit], _, %{id: 17, pid: ^pid} = metadata}
      metadata
    end

    @tag :capture_log
    test "by raising", context do
      metadata = exit_event(context, fn -> raise "boom" end)

      assert %{kind: :error, reason: %RuntimeError{message: "boom"}, stacktrace: [_ | _]} =
               metadata
    end

    @tag :capture_log
    test "by an error of Erlang's", context do
      metadata = exit_event(context, fn -> :erlang.error({:badmatch, 1}) end)
      assert %{kind: :error, reason: %MatchError{term: 1}, stacktrace: [_ | _]} = metadata
    end

    @tag :capture_log
    test "by throwing", context do
      metadata = exit_event(context, fn -> throw(:ball) end)
      assert %{kind: :throw, reason: :ball, stacktrace: [_ | _]} = metadata
    end

    test "by exiting, or being killed", context do
      metadata = exit_event(context, fn -> exit({:bad, [:request]}) end)
      assert %{kind: :exit, reason: {:bad, [:request]}, stacktrace: []} = metadata
    end

    test "is no event if it was in order", context do
      start(context)

      for reason <- [:normal, :shutdown, {:shutdown, :enough}] do
        Reporter.report(context.board, {:handler_exit, 17, @remote, self(), reason})
      end

      Reporter.report(context.board, :suspended)
      assert_receive {[:reactor, :listener, :suspend], _, _}
      refute_received {[:reactor, :handler, :exit], _, _}
    end
  end

  test "a Python exception is a Reactor.Python.Error", context do
    reporter = start(context)
    native(reporter, [{:exception, 17, @remote, @error, "data_received"}])
    assert_receive {[:reactor, :python, :exception], _, metadata}
    assert metadata.reason == struct!(Reactor.Python.Error, @error)
    assert %{id: 17, callback: "data_received", kind: :error} = metadata
  end

  test "a context's load has its times in native units", context do
    reporter = start(context)
    native(reporter, [{:load, @python_load}])
    assert_receive {[:reactor, :python, :load], load, %{context: "echo:Echo/1"}}
    assert %{turns: 3, calls: 9} = load

    assert for(
             key <-
               [:callback_time, :longest_turn, :gil_wait, :longest_gil_wait, :busy_time, :lag],
             do: load[key]
           ) ==
             for(
               us <- [2_000, 1_000, 500, 400, 3_000, 1_500],
               do: System.convert_time_unit(us, :microsecond, :native)
             )
  end

  test "what of a profile is not known is left out", context do
    reporter = start(context)
    profile = %{duration: 2, run_time: 1, reductions: nil, memory: nil, garbage_collections: 0}
    native(reporter, [{:profile, 17, @remote, profile}])
    assert_receive {[:reactor, :connection, :profile], measurements, _}
    keys = [:duration, :garbage_collections, :monotonic_time, :run_time]
    assert Enum.sort(Map.keys(measurements)) == keys
  end

  test "a listener to events that fails takes nothing down", context do
    reporter = start(context)
    test = self()
    id = make_ref()

    fail = fn _, _, metadata, _ ->
      if metadata.module == context.module do
        send(test, :failing)
        exit(:because)
      end
    end

    :telemetry.attach(id, [:reactor, :connection, :start], fail, nil)
    on_exit(fn -> :telemetry.detach(id) end)

    native(reporter, [{:opened, 1, @remote, 0}, {:opened, 2, @remote, 0}])
    assert_receive :failing
    assert_receive {[:reactor, :connection, :start], _, %{id: 2}}
    # :telemetry has detached it.
    refute_received :failing
    assert Server.whereis(context.board, :reporter) == reporter
  end

  test "a report that it does not understand takes nothing down, and the next one is told",
       context do
    attach()
    reporter = start(context)
    send(reporter, :something)
    native(reporter, [:unknown, {:unknown, 1, 2}])
    # Times that are none, and remotes that are none.
    native(reporter, [{:opened, 1, @remote, :never}, {:opened, 2, :nowhere, 0}])
    assert_receive {[:reactor, :connection, :start], _, %{id: 2}}
    assert {:error, text, _} = assert_logged("a report of #{inspect(context.module)} was lost")
    refute text =~ "never"
    assert Server.whereis(context.board, :reporter) == reporter
  end

  test "one that falls far behind drops events of connections, and says how many", context do
    attach()
    reporter = start(context)
    :sys.suspend(reporter)
    for n <- 1..1_500, do: native(reporter, [{:opened, n, @remote, 0}, {:rejected, :emfile, 1}])
    :sys.resume(reporter)

    assert {:warning, text, _} = assert_logged("events of connections were dropped")
    assert [dropped] = Regex.run(~r/(\d+) telemetry events/, text, capture: :all_but_first)
    dropped = String.to_integer(dropped)
    assert dropped in 400..600

    # The last one, and none too few or too many.
    assert_receive {[:reactor, :connection, :start], _, %{id: 1_500}}
    {:messages, messages} = Process.info(self(), :messages)
    assert length(for {[_, :connection, :start], _, _} <- messages, do: 1) == 1_500 - dropped - 1

    # What is only counted is not dropped.
    stop_supervised!(Reporter)
    {:messages, messages} = Process.info(self(), :messages)
    assert Enum.sum(for {[_, _, :rejected], %{count: n}, _} <- messages, do: n) == 1_500
  end

  test "it outlives the table of a server that was killed", context do
    reporter = start(context)
    Reporter.report(context.board, :listening)
    assert_receive {[:reactor, :listener, :start], _, _}
    :ets.delete(context.board)
    native(reporter, [{:closed, 1, @remote, :remote, 0, 0, 0}])
    assert_receive {[:reactor, :connection, :stop], _, %{port: 8080}}
    stop_supervised!(Reporter)
    assert_receive {[:reactor, :listener, :stop], _, %{port: 8080}}
  end

  test "to report to a server that has no reporter is nothing", %{board: board} do
    assert Reporter.report(board, :suspended) == :ok
  end
end
