defmodule Reactor.Server.Profile do
  @moduledoc false

  # Measures one handler, for `profile: true`. Garbage collections and the time that the handler ran are
  # only told by tracing, and only to another process: each handler then has one beside it, which
  # also makes the report, so that this is not on the handler's time.

  require Logger

  alias Reactor.{Connection, Listener, Server, Socket}

  @trace [:garbage_collection, :running, :monotonic_timestamp]

  @doc "In the handler, before it begins."
  @spec start(Connection.t(), Listener.t()) :: pid
  def start(connection, listener) do
    handler = self()
    began = System.monotonic_time()
    {:reductions, reductions} = Process.info(handler, :reductions)

    remote =
      case Socket.remote(connection) do
        {:ok, remote} -> remote
        {:error, _reason} -> nil
      end

    start = %{
      id: connection.id,
      remote: remote,
      board: listener.id,
      module: listener.module,
      began: began,
      reductions: reductions
    }

    profiler = spawn(fn -> watch(handler, start) end)
    receive(do: ({__MODULE__, ^profiler, :ready} -> profiler))
  end

  @doc "In the handler, at its end. One that fails does not come here, and is still reported."
  @spec stop(pid) :: :ok
  def stop(profiler) do
    info = Process.info(self(), [:reductions, :memory])
    send(profiler, {__MODULE__, :stop, Map.new(info)})
    :ok
  end

  @doc "In an acceptor that gave its connection away: it was not the handler, and nothing is reported."
  @spec cancel(pid) :: :ok
  def cancel(profiler) do
    send(profiler, {__MODULE__, :cancel})
    :ok
  end

  defp watch(handler, start) do
    Server.label(:profile, start.module)
    monitor = Process.monitor(handler)
    trace(handler)
    send(handler, {__MODULE__, self(), :ready})
    state = %{garbage_collections: 0, run_time: 0, since: start.began, final: nil}
    with %{} = state <- collect(handler, monitor, state), do: report(state, start)
  end

  # Somebody else may trace it, or it may be gone.
  defp trace(handler) do
    :erlang.trace(handler, true, @trace)
  rescue
    ArgumentError -> 0
  end

  defp collect(handler, monitor, state) do
    receive do
      {:trace_ts, ^handler, :in, _where, at} ->
        collect(handler, monitor, %{state | since: at})

      {:trace_ts, ^handler, :out, _where, at} ->
        collect(handler, monitor, ran(state, at))

      {:trace_ts, ^handler, event, _info, _at} when event in [:gc_minor_end, :gc_major_end] ->
        n = state.garbage_collections + 1
        collect(handler, monitor, %{state | garbage_collections: n})

      {:trace_ts, ^handler, _event, _info, _at} ->
        collect(handler, monitor, state)

      {__MODULE__, :stop, final} ->
        ended = System.monotonic_time()
        %{ran(state, ended) | final: Map.put(final, :ended, ended)}

      {__MODULE__, :cancel} ->
        :cancelled

      {:DOWN, ^monitor, :process, _pid, _reason} ->
        state
    end
  end

  defp ran(%{since: nil} = state, _at), do: state

  defp ran(%{since: since} = state, at) do
    %{state | run_time: state.run_time + max(at - since, 0), since: nil}
  end

  defp report(state, start) do
    final = state.final || %{reductions: nil, memory: nil, ended: System.monotonic_time()}

    measurements = %{
      duration: final.ended - start.began,
      run_time: state.run_time,
      reductions: final.reductions && final.reductions - start.reductions,
      memory: final.memory,
      garbage_collections: state.garbage_collections
    }

    Server.Reporter.report(start.board, {:profile, start.id, start.remote, measurements})
    Logger.info(fn -> {text(measurements, start), connection: start.id} end)
  end

  defp text(measurements, start) do
    "#{inspect(start.module)}: the handler of connection #{start.id} took " <>
      "#{ms(measurements.duration)} ms, ran #{ms(measurements.run_time)} ms, with " <>
      work(measurements) <> "#{measurements.garbage_collections} garbage collections"
  end

  defp work(%{reductions: nil}), do: ""
  defp work(%{reductions: n, memory: bytes}), do: "#{n} reductions, #{bytes} bytes, "

  defp ms(native) do
    native |> System.convert_time_unit(:native, :microsecond) |> Kernel./(1000)
  end
end
