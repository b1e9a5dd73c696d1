defmodule Reactor.Port.Child.Life do
  @moduledoc false

  # How a child starts, ends, and is started again after a pause that grows.

  require Logger

  import Reactor.Port.Child.State, only: [count: 1, now: 0, show: 2, who: 1]

  alias Reactor.Port.{Asked, Child.State, Frames, Options, Outstanding, Pool, Running}
  alias Reactor.Telemetry

  # One that lived as long, in ms, is started again without a pause that has grown.
  @lived 1_000

  @doc "Starts it: it is up, or starting, or could not be started."
  @spec start(State.t()) :: State.t()
  def start(%{options: options} = state) do
    state = %{state | restarts: state.restarts + 1, started: now(), reason: nil}

    case Running.start(state.tasks, options) do
      {:ok, %{port: port, os_pid: os_pid} = process} ->
        if options.protocol == :envelope, do: late(port, options.start_timeout)

        state = %{
          state
          | port: port,
            os_pid: os_pid,
            process: process,
            frames: Frames.new(options.packet, options.max_frame),
            part: [],
            status: :starting,
            span: Telemetry.start([:reactor, :port], %{}, metadata(state, os_pid))
        }

        # Only that protocol says when it is ready.
        if options.protocol == :envelope, do: state, else: up(state)

      {:error, reason} ->
        failed(state, reason)
    end
  end

  defp late(port, timeout), do: Process.send_after(self(), {:late, port}, timeout)

  @doc "It takes requests from now on."
  @spec up(State.t()) :: State.t()
  def up(state) do
    for from <- state.asking, do: GenServer.reply(from, :ok)
    show(state, :up)
    %{state | status: :up, asking: []}
  end

  @doc "Kills it. Nothing more is sent to it, or taken from it; its exit status ends it."
  @spec kill(State.t(), text :: String.t(), reason :: term) :: State.t()
  def kill(%{reason: nil} = state, text, reason) do
    Logger.error("#{who(state)} is killed: #{text}", port: Options.label(state.options))
    Running.kill(state.process)
    show(state, if(state.status == :up, do: :down, else: :failing))
    # One that never was up has failed to start, however it ends.
    status = if state.status == :up, do: :dying, else: state.status
    fail_sent(%{state | status: status, reason: reason}, {:error, reason})
  end

  def kill(state, _text, _reason), do: state

  @doc "It has ended, and is started again after a pause."
  @spec down(State.t(), reason :: term) :: State.t()
  def down(state, reason) do
    stopped(state, state.reason || reason)

    state = %{
      state
      | port: nil,
        process: nil,
        writer: nil,
        hang_timer: nil,
        asked: Asked.forget(state.asked),
        reason: state.reason || reason
    }

    state = fail_sent(state, {:error, state.reason})

    if state.status == :starting do
      failed(state, state.reason)
    else
      text = "#{who(state)} has ended (#{inspect(state.reason)})"
      Logger.warning(text, port: Options.label(state.options))
      show(state, :down)
      restart(%{state | status: :down}, state.reason)
    end
  end

  # As long as it cannot be started nobody has to wait for it.
  defp failed(state, reason) do
    Logger.error("#{who(state)} cannot be started (#{inspect(reason)})",
      port: Options.label(state.options)
    )

    for from <- state.asking, do: GenServer.reply(from, {:error, reason})
    {callers, outstanding} = Outstanding.drop_waiting(state.outstanding)
    for caller <- callers, do: Pool.answer(caller, {:error, reason})
    state = %{state | status: {:failing, reason}, outstanding: outstanding, asking: []}
    show(state, :failing)
    restart(count(state), reason)
  end

  defp restart(%{options: %{backoff: {first, longest}}} = state, reason) do
    lived = now() - state.started

    pause =
      if state.pause == 0 or (state.status == :down and lived >= max(@lived, state.pause)),
        do: first,
        else: min(2 * state.pause, longest)

    metadata = state |> metadata(state.os_pid) |> Map.put(:reason, reason)
    measurements = %{delay: pause, monotonic_time: System.monotonic_time()}
    Telemetry.execute([:reactor, :port, :restart], measurements, metadata)
    Process.send_after(self(), :restart, pause)
    %{state | pause: pause, os_pid: nil}
  end

  @doc "Its end as an event."
  @spec stopped(State.t(), reason :: term) :: term
  def stopped(state, reason) do
    metadata = state |> metadata(state.os_pid) |> Map.put(:reason, reason)
    Telemetry.stop([:reactor, :port], state.span, %{}, metadata)
  end

  defp metadata(state, os_pid),
    do: %{pool: Options.label(state.options), child: state.index, os_pid: os_pid}

  defp fail_sent(state, error) do
    {callers, outstanding} = Outstanding.drop_sent(state.outstanding)
    for caller <- callers, do: Pool.answer(caller, error)
    count(%{state | outstanding: outstanding})
  end
end
