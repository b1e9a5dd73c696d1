defmodule Reactor.Server.Reporter do
  @moduledoc false

  # Turns what the loops and the processes of a server report into telemetry events. Whoever listens
  # to those runs here, so nobody's connections wait for it.
  #
  # It is the first child of a server, so the last to stop: what the others did at their end is still
  # told. Nothing that a report or a listener to events does may end it, since everything
  # else of the server would start anew.

  use GenServer

  require Logger

  alias Reactor.{Python, Server, Telemetry}

  @type remote :: Reactor.Transport.address() | nil

  @type report ::
          :listening
          | :suspended
          | :resumed
          | {:drain_started, %{connections: non_neg_integer, timeout: timeout}}
          | {:drain_stopped,
             %{connections: non_neg_integer, finished: non_neg_integer, cut: non_neg_integer}}
          | {:accept_error, reason :: term}
          | {:handler_exit, id :: pos_integer | nil, remote, pid, reason :: term}
          | {:profile, id :: pos_integer, remote, map}
          | {:opened, id :: pos_integer, remote, unix_ms :: integer}
          | {:closed, id :: pos_integer, remote, reason :: term, received :: non_neg_integer,
             sent :: non_neg_integer, duration_ns :: non_neg_integer}
          | {:rejected, reason :: atom, count :: pos_integer}
          | {:saturated, reason :: atom}
          | {:starved, reason :: atom}
          | {:exception, id :: pos_integer, remote, map, callback :: String.t() | atom}
          | {:stuck,
             %{
               callback: String.t(),
               connection: pos_integer | nil,
               duration_ms: non_neg_integer
             }}
          | {:load, map}

  # Reports that are one per connection, or more: not made if nobody listens, and dropped by one who is
  # too slow.
  @per_connection [:opened, :closed, :handler_exit, :profile, :exception]

  # So many messages in the mailbox are too many. Each holds many reports.
  @behind 1_000

  # How long refused connections are counted before they are told, in ms.
  @rejected_pause 1_000

  defstruct [
    :board,
    # The server's, as of the last message.
    metadata: %{},
    # Spans that have begun.
    listening: nil,
    draining: nil,
    # reason => count, since the timer was set; nil if none is set.
    rejected: nil,
    # Reports that were too many, since it fell behind.
    dropped: 0
  ]

  @doc "For a server; or for a context that belongs to none, whose name takes the place of a listener's."
  @spec start_link(Server.board() | {:context, name :: term}) :: GenServer.on_start()
  def start_link(board) do
    GenServer.start_link(__MODULE__, board, spawn_opt: [message_queue_data: :off_heap])
  end

  @doc "Tells the server's, or a context's, reporter. Of single connections it tells only if somebody listens to events."
  @spec report(Server.board() | pid, report) :: :ok
  def report(board, report) when is_tuple(report) and elem(report, 0) in @per_connection do
    if Telemetry.enabled?(), do: tell(board, report), else: :ok
  end

  def report(board, report), do: tell(board, report)

  defp tell(reporter, report) when is_pid(reporter) do
    send(reporter, {:"$reactor_report", [report]})
    :ok
  end

  defp tell(board, report) do
    with pid when is_pid(pid) <- Server.whereis(board, :reporter) do
      send(pid, {:"$reactor_report", [report]})
    end

    :ok
  end

  @impl true
  def init({:context, name}) do
    Process.flag(:trap_exit, true)
    Telemetry.refresh()
    Server.label(:reporter, name)
    {:ok, %__MODULE__{metadata: %{module: Python, name: name, ip: nil, port: nil}}}
  end

  def init(board) do
    Process.flag(:trap_exit, true)
    Server.register(board, :reporter)
    Telemetry.refresh()
    state = refresh(%__MODULE__{board: board})
    Server.label(:reporter, state.metadata.module)
    {:ok, state}
  end

  @impl true
  def handle_info({:"$reactor_report", reports}, state) do
    {:noreply, state |> refresh() |> take(reports, behind?())}
  end

  def handle_info(:rejected, state) do
    case map_size(state.rejected) do
      0 -> {:noreply, %{state | rejected: nil}}
      _ -> {:noreply, state |> refresh() |> tell_rejected() |> count_rejected()}
    end
  end

  def handle_info(_message, state), do: {:noreply, state}

  # What came before the end is told; what comes later has nobody to be told by.
  @impl true
  def terminate(_reason, state) do
    state = state |> refresh() |> take_all()
    if state.rejected, do: tell_rejected(state)

    if state.listening,
      do: Telemetry.stop([:reactor, :listener], state.listening, %{}, state.metadata)

    # Here and not with the listening socket: this ends in order even if the others failed.
    if state.board, do: Server.unshare(state.board)
  end

  defp take_all(state) do
    receive do
      {:"$reactor_report", reports} -> state |> take(reports, behind?()) |> take_all()
    after
      0 -> state
    end
  end

  defp refresh(%{board: nil} = state), do: state

  # The descriptor changes: its port when it is bound, its module when that is swapped.
  defp refresh(state) do
    %{
      state
      | metadata: state.board |> Server.listener() |> Map.take([:module, :name, :ip, :port])
    }
  rescue
    # The table is gone with the supervisor, if that was killed.
    ArgumentError -> state
  end

  defp behind? do
    {:message_queue_len, n} = Process.info(self(), :message_queue_len)
    n > @behind
  end

  defp take(state, reports, true) do
    {dropped, kept} = Enum.split_with(reports, &(is_tuple(&1) and elem(&1, 0) in @per_connection))
    Enum.reduce(kept, %{state | dropped: state.dropped + length(dropped)}, &safely/2)
  end

  defp take(%{dropped: n} = state, reports, false) when n > 0 do
    Logger.warning(
      "#{whose(state.metadata)}: #{n} telemetry events of " <>
        "connections were dropped, whoever listens to them is too slow"
    )

    take(%{state | dropped: 0}, reports, false)
  end

  defp take(state, reports, false), do: Enum.reduce(reports, state, &safely/2)

  defp safely(report, state) do
    handle(report, state)
  catch
    kind, _reason_with_the_report ->
      Logger.error("Reactor: a report of #{inspect(state.metadata[:module])} was lost (#{kind})")
      state
  end

  defp whose(%{port: nil, name: name}), do: "Python context #{Python.Directory.text(name)}"
  defp whose(metadata), do: "#{inspect(metadata[:module])} on port #{metadata[:port]}"

  # --- each report ----------------------------------------------------------------------------

  # A listening socket that was restarted goes on with the same span.
  defp handle(:listening, %{listening: nil} = state) do
    %{state | listening: Telemetry.start([:reactor, :listener], %{}, state.metadata)}
  end

  defp handle(:listening, state), do: state

  defp handle(:suspended, state), do: emit([:listener, :suspend], %{}, %{}, state)

  defp handle(:resumed, state), do: emit([:listener, :resume], %{}, %{}, state)

  defp handle({:drain_started, %{connections: n, timeout: timeout}}, state) do
    metadata = Map.put(state.metadata, :timeout, timeout)
    %{state | draining: Telemetry.start([:reactor, :drain], %{connections: n}, metadata)}
  end

  defp handle({:drain_stopped, counts}, %{draining: {_, _} = span} = state) do
    Telemetry.stop([:reactor, :drain], span, counts, state.metadata)
    %{state | draining: nil}
  end

  defp handle({:opened, id, remote, unix_ms}, state) do
    system_time = System.convert_time_unit(unix_ms, :millisecond, :native)
    times = %{system_time: system_time, monotonic_time: system_time - System.time_offset()}
    emit([:connection, :start], times, span(id, remote), state)
  end

  defp handle({:closed, id, remote, reason, received, sent, duration_ns}, state) do
    measurements = %{received: received, sent: sent, duration: Telemetry.native(duration_ns)}
    emit([:connection, :stop], measurements, Map.put(span(id, remote), :reason, reason), state)
  end

  defp handle({:rejected, reason, count}, %{rejected: nil} = state) do
    state |> count_rejected(reason, count) |> tell_rejected() |> count_rejected()
  end

  defp handle({:rejected, reason, count}, state), do: count_rejected(state, reason, count)

  defp handle({:saturated, reason}, state) do
    limit = state.board |> Server.listener() |> Map.get(reason)
    emit([:listener, :saturated], %{}, %{reason: reason, limit: limit}, state)
  end

  defp handle({kind, reason}, state) when kind in [:accept_error, :starved] do
    emit([:accept, :error], %{}, %{reason: reason}, state)
  end

  defp handle({:handler_exit, _id, _remote, _pid, reason}, state)
       when reason in [:normal, :shutdown],
       do: state

  defp handle({:handler_exit, _id, _remote, _pid, {:shutdown, _}}, state), do: state

  defp handle({:handler_exit, id, remote, pid, reason}, state) do
    {kind, reason, stacktrace} = exit_of(reason)
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}
    metadata = Map.merge(failure, %{id: id, remote: remote, pid: pid})
    emit([:handler, :exit], %{}, metadata, state)
  end

  defp handle({:exception, id, remote, error, callback}, state) do
    failure = %{kind: :error, reason: struct(Python.Error, error), stacktrace: []}
    metadata = Map.merge(failure, %{id: id, remote: remote, callback: callback})
    emit([:python, :exception], %{}, metadata, state)
  end

  defp handle({:stuck, %{callback: callback, connection: id, duration_ms: ms}}, state) do
    measurements = %{duration: System.convert_time_unit(ms, :millisecond, :native)}
    emit([:python, :stuck], measurements, %{id: id, callback: callback}, state)
  end

  # A measurement is a number, so what could not be measured is none.
  defp handle({:profile, id, remote, measurements}, state) do
    measurements = measurements |> Enum.reject(&match?({_, nil}, &1)) |> Map.new()
    emit([:connection, :profile], measurements, %{id: id, remote: remote}, state)
  end

  # The loops' own goes to Reactor.Runtime.
  defp handle({:load, %{kind: :python} = load}, state) do
    measurements = %{
      turns: load.turns,
      calls: load.calls,
      callback_time: Telemetry.native(load.busy_ns),
      longest_turn: Telemetry.native(load.longest_ns),
      gil_wait: Telemetry.native(load.gil_wait_ns),
      longest_gil_wait: Telemetry.native(load.gil_longest_ns),
      busy_time: Telemetry.native(load.loop_busy_ns),
      lag: Telemetry.native(load.lag_ns)
    }

    emit([:python, :load], measurements, %{context: load.name}, state)
  end

  # A newer native library may say more than is known here.
  defp handle(_report, state), do: state

  defp emit(name, measurements, metadata, state) do
    measurements = Map.put_new_lazy(measurements, :monotonic_time, &System.monotonic_time/0)
    Telemetry.execute([:reactor | name], measurements, Map.merge(state.metadata, metadata))
    state
  end

  # The number is unique in the VM's life.
  defp span(id, remote), do: %{id: id, remote: remote, telemetry_span_context: id}

  # The first ones are told at once, those of the next second together.
  defp count_rejected(state) do
    Process.send_after(self(), :rejected, @rejected_pause)
    %{state | rejected: %{}}
  end

  defp count_rejected(state, reason, count) do
    %{state | rejected: Map.update(state.rejected || %{}, reason, count, &(&1 + count))}
  end

  defp tell_rejected(state) do
    for {reason, count} <- state.rejected do
      emit([:connection, :rejected], %{count: count}, %{reason: reason}, state)
    end

    state
  end

  # How a process says in its exit signal that it raised or threw.
  defp exit_of({{:nocatch, value}, [_ | _] = stacktrace}), do: {:throw, value, stacktrace}

  defp exit_of({reason, [{_, _, _, _} | _] = stacktrace}) do
    {:error, Exception.normalize(:error, reason, stacktrace), stacktrace}
  end

  defp exit_of(reason), do: {:exit, reason, []}
end
