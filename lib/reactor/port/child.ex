defmodule Reactor.Port.Child do
  @moduledoc false

  # One child: its port, its calls, and its restarts. This process stays when the child dies; what was sent to that
  # fails at once, what was not sent yet waits for the next one, which is started after a pause that grows.

  use GenServer

  require Logger

  alias Reactor.Port.{Asked, Frames, Options, Outstanding, Patience, Pool, Running, Writer}

  import Asked, only: [is_running: 2]
  import Patience, only: [is_caller: 2]
  alias Reactor.Telemetry

  # Requests that are sent in one write.
  @batch 64

  # One that lived as long, in ms, is started again without a pause that has grown.
  @lived 1_000

  @request :"$reactor_port"

  @patient %Patience{}

  defstruct [
    :options,
    :wire,
    :index,
    :board,
    :tasks,
    :outstanding,
    :asked,
    :port,
    :os_pid,
    :process,
    :frames,
    :writer,
    :hang_timer,
    :reason,
    :span,
    # :down, :starting, :up, :dying, or {:failing, reason} since it did not even start.
    status: :down,
    pause: 0,
    started: 0,
    restarts: -1,
    asking: [],
    # Of a frame that belongs to those after it.
    part: [],
    patience: @patient
  ]

  @spec start_link({pid, pos_integer, Pool.board(), Options.t()}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc "As a child of a pool."
  @spec child_spec({pid, pos_integer, Pool.board(), Options.t()}) :: Supervisor.child_spec()
  def child_spec({_pool, index, _board, options} = init) do
    %{
      id: {__MODULE__, index},
      # Not the options: a supervisor shows this in its reports.
      start: {__MODULE__, :start_hidden, [fn -> init end]},
      shutdown: Running.longest(options)
    }
  end

  @doc false
  @spec start_hidden(fun) :: GenServer.on_start()
  def start_hidden(init), do: start_link(init.())

  @doc "Waits until it has started for the first time, or could not."
  @spec ready(pid) :: :ok | {:error, term}
  def ready(child), do: GenServer.call(child, :ready, :infinity)

  @spec info(pid) :: {Options.t(), map}
  def info(child), do: GenServer.call(child, :info)

  # --- the process ----------------------------------------------------------------------------

  @impl true
  def init({pool, index, board, options}) do
    Process.flag(:trap_exit, true)
    wire = Options.wire(options)
    {:ok, tasks} = Task.Supervisor.start_link()

    state = %__MODULE__{
      options: options,
      wire: wire,
      index: index,
      board: board,
      tasks: tasks,
      outstanding: Outstanding.new(wire.correlation(), options.max_waiting),
      asked: Asked.new(tasks, wire, options)
    }

    limits = Map.take(options, [:max_frame, :max_stream])
    known = {Options.label(options), wire, limits, options.timeout}
    :ok = Pool.join(pool, index, board, known)
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  @impl true
  def handle_call(:ready, _from, %{status: :up} = state), do: {:reply, :ok, state}

  def handle_call(:ready, _from, %{status: {:failing, reason}} = state),
    do: {:reply, {:error, reason}, state}

  def handle_call(:ready, from, state), do: {:noreply, %{state | asking: [from | state.asking]}}

  def handle_call(:info, _from, state) do
    info = %{
      index: state.index,
      os_pid: state.port && state.os_pid,
      status: if(match?({:failing, _}, state.status), do: :failing, else: state.status),
      outstanding: state.outstanding.count,
      restarts: max(state.restarts, 0)
    }

    {:reply, {state.options, info}, state}
  end

  @impl true
  def handle_info({@request, _, _, _, _, _} = request, state) do
    requests = gather(request)
    {:noreply, requests |> Enum.reduce(state, &admit/2) |> flush() |> attend(requests)}
  end

  def handle_info(:impatient, state), do: {:noreply, give_up(state, [])}

  def handle_info({:DOWN, _, :process, pid, _reason}, %{patience: patience} = state)
      when is_caller(patience, pid) do
    {dead, patience} = Patience.dead(patience, pid)
    {:noreply, give_up(%{state | patience: patience}, dead)}
  end

  def handle_info({port, {:data, data}}, %{port: port} = state) do
    case Frames.take(state.frames, data) do
      {:ok, frames, left} ->
        {:noreply, Enum.reduce(frames, %{state | frames: left}, &frame/2)}

      {:error, {:too_large, %{size: size}}} ->
        {:noreply,
         kill(
           state,
           "it announced a frame of #{size} bytes, which is more than :max_frame",
           :bad_frame
         )}
    end
  end

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    Running.ended(state.process)
    {:noreply, down(state, {:exit, status})}
  end

  # Writing to it failed: it has just died, most likely, or has closed its input.
  def handle_info({:EXIT, port, _reason}, %{port: port} = state) do
    Running.lost(state.process)
    {:noreply, down(state, :closed)}
  end

  def handle_info({:late, port}, %{port: port, status: :starting} = state),
    do: {:noreply, kill(state, "it did not start within its start_timeout", :start_timeout)}

  def handle_info({:hang, port}, %{port: port} = state), do: {:noreply, hanging(state)}

  def handle_info({:EXIT, writer, _reason}, %{writer: writer} = state) when is_pid(writer),
    do: {:noreply, flush(%{state | writer: nil})}

  def handle_info({ran, {_kind, _body} = result}, %{asked: asked} = state)
      when is_running(asked, ran) do
    Process.demonitor(ran, [:flush])
    {:noreply, asked(state, Asked.served(asked, ran, result))}
  end

  def handle_info({:DOWN, ran, _, _, reason}, %{asked: asked} = state)
      when is_running(asked, ran),
      do: {:noreply, asked(state, Asked.served(asked, ran, {:exit, reason}))}

  def handle_info(:restart, %{port: nil} = state), do: {:noreply, start(state)}

  # Of its tasks. Writers and ports of before end normally.
  def handle_info({:EXIT, pid, reason}, state) when is_pid(pid) and reason != :normal,
    do: {:stop, reason, state}

  # Of a child before.
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for caller <- callers(state), do: Pool.answer(caller, {:error, :closed})

    if state.port do
      Running.finish(state.process)
      stopped(state, :shutdown)
    end
  end

  defp callers(state) do
    {sent, outstanding} = Outstanding.drop_sent(state.outstanding)
    {waiting, _none} = Outstanding.drop_waiting(outstanding)
    sent ++ waiting
  end

  # --- start and end --------------------------------------------------------------------------

  defp start(%{options: options} = state) do
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

  defp up(state) do
    for from <- state.asking, do: GenServer.reply(from, :ok)
    show(state, :up)
    flush(%{state | status: :up, asking: []})
  end

  # Nothing more is sent to it, or taken from it; its exit status ends it.
  defp kill(%{reason: nil} = state, text, reason) do
    Logger.error("#{who(state)} is killed: #{text}", port: Options.label(state.options))
    Running.kill(state.process)
    show(state, if(state.status == :up, do: :down, else: :failing))
    # One that never was up has failed to start, however it ends.
    status = if state.status == :up, do: :dying, else: state.status
    fail_sent(%{state | status: status, reason: reason}, {:error, reason})
  end

  defp kill(state, _text, _reason), do: state

  defp down(state, reason) do
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

  defp stopped(state, reason) do
    metadata = state |> metadata(state.os_pid) |> Map.put(:reason, reason)
    Telemetry.stop([:reactor, :port], state.span, %{}, metadata)
  end

  defp metadata(state, os_pid),
    do: %{pool: Options.label(state.options), child: state.index, os_pid: os_pid}

  # --- requests -------------------------------------------------------------------------------

  # What else is there goes out in the same write.
  defp gather(request), do: gather([request], @batch - 1)

  defp gather(requests, 0), do: Enum.reverse(requests)

  defp gather(requests, left) do
    receive do
      {@request, _, _, _, _, _} = request -> gather([request | requests], left - 1)
    after
      0 -> Enum.reverse(requests)
    end
  end

  defp admit({@request, _kind, caller, _, _, _}, %{status: {:failing, reason}} = state) do
    Pool.answer(caller, {:error, reason})
    uncount(state, 1)
  end

  defp admit({@request, kind, caller, pid, body, deadline}, state) do
    # Who casts does not wait for more than a place in the queue.
    request =
      if kind == :call,
        do: {:call, caller, pid, body, deadline},
        else: {:cast, nil, nil, body, :infinity}

    case Outstanding.put(state.outstanding, request) do
      {:ok, outstanding} ->
        if kind == :cast, do: Pool.answer(caller, :ok)
        %{state | outstanding: outstanding}

      :full ->
        Pool.answer(caller, {:error, :overloaded})
        uncount(state, 1)
    end
  end

  defp flush(%{status: :up, writer: nil} = state) do
    if Outstanding.waiting?(state.outstanding) do
      %{wire: wire, outstanding: %{count: before}} = state

      {requests, _given_up, outstanding} =
        Outstanding.take(state.outstanding, @batch, now(), &wire.next_id/1)

      state
      |> Map.put(:outstanding, outstanding)
      |> uncount(before - outstanding.count)
      |> write(Enum.map(requests, &frames_of(&1, state)))
      |> watch()
      |> flush()
    else
      rest(state)
    end
  end

  defp flush(state), do: state

  # What could not be sent at once may be given up before it can be.
  defp attend(%{status: :up, writer: nil} = state, _requests), do: state

  defp attend(state, requests) do
    if Outstanding.waiting?(state.outstanding) do
      pids = for {@request, :call, _caller, pid, _body, _deadline} <- requests, do: pid
      %{state | patience: Patience.watch(state.patience, pids, state.outstanding.soonest)}
    else
      state
    end
  end

  # Nearly always nobody had to wait.
  defp rest(%{patience: patience} = state) when patience == @patient, do: state
  defp rest(state), do: %{state | patience: Patience.rest(state.patience)}

  defp give_up(%{outstanding: %{count: before}} = state, dead) do
    outstanding = Outstanding.give_up(state.outstanding, now(), dead)
    patience = Patience.wake(state.patience, outstanding.soonest)
    uncount(%{state | outstanding: outstanding, patience: patience}, before - outstanding.count)
  end

  defp frames_of({kind, id, body}, %{wire: wire, options: %{packet: packet}}),
    do: for(frame <- wire.frames(kind, id, body), do: Frames.frame(frame, packet))

  defp write(state, data), do: %{state | writer: Writer.write(state.port, data, state.writer)}

  # --- answers --------------------------------------------------------------------------------

  # It is killed.
  defp frame(_frame, %{reason: reason} = state) when reason != nil, do: state

  defp frame(frame, state) do
    case state.wire.read(frame, state.part, state.options) do
      {:more, part} -> %{state | part: part}
      read when state.part == [] -> read(read, state)
      read -> read(read, %{state | part: []})
    end
  end

  defp read({:answer, id, answer}, state), do: answered(state, id, answer)

  defp read({kind, id, request}, state) when kind in [:call, :cast] do
    ordered? = state.asked.order
    # Where the order counts, a cast is answered too.
    who = if kind == :call or ordered?, do: {state.port, id}

    case Asked.ask(state.asked, who, request) do
      {_answers, _asked} = done ->
        asked(state, done)

      :full when ordered? ->
        kill(state, "it asks for more and more, and waits for no answer", :overloaded)

      :full when kind == :call ->
        asked(state, {[{who, :error, state.wire.refusal(:overloaded)}], state.asked})

      :full ->
        Logger.warning(
          "#{who(state)}: a cast of it was dropped, #{Asked.running(state.asked)} run",
          port: Options.label(state.options)
        )

        state
    end
  end

  defp read(:hello, %{status: :starting} = state), do: up(state)

  defp read(_error, state),
    do: kill(state, "it sent what is no frame of its protocol", :bad_frame)

  # A child before is answered no more, nor one that has not said that it is there.
  defp asked(%{port: port} = state, {answers, asked}) do
    state = %{state | asked: asked}

    case for {{^port, id}, kind, body} <- answers, do: frames_of({kind, id, body}, state) do
      [_ | _] = frames when state.status == :up -> write(state, frames)
      _nothing -> state
    end
  end

  defp answered(state, id, answer) do
    case Outstanding.answered(state.outstanding, id) do
      {:ok, caller, outstanding} ->
        Pool.answer(caller, {:ok, answer})
        uncount(%{state | outstanding: outstanding}, 1)

      :error ->
        kill(state, "it sent an answer that nobody waits for", :bad_frame)
    end
  end

  defp fail_sent(state, error) do
    {callers, outstanding} = Outstanding.drop_sent(state.outstanding)
    for caller <- callers, do: Pool.answer(caller, error)
    count(%{state | outstanding: outstanding})
  end

  # --- hangs ----------------------------------------------------------------------------------

  defp watch(%{options: %{hang: :infinity}} = state), do: state
  defp watch(%{hang_timer: nil} = state), do: watch(state, state.options.hang)
  defp watch(state), do: state

  defp watch(state, time),
    do: %{state | hang_timer: Process.send_after(self(), {:hang, state.port}, time)}

  defp hanging(state) do
    state = %{state | hang_timer: nil}
    hang = state.options.hang

    case Outstanding.oldest(state.outstanding) do
      nil ->
        state

      since ->
        left = since + hang - now()
        if left > 0, do: watch(state, left), else: kill(state, "a call takes #{hang} ms", :hang)
    end
  end

  # --- what callers see -----------------------------------------------------------------------

  defp show(state, status), do: Pool.show(state.board, state.index, status)

  defp uncount(state, 0), do: state

  defp uncount(%{outstanding: %{count: 0}} = state, _n), do: count(state)

  defp uncount(state, n) do
    Pool.done(state.board, state.index, n)
    state
  end

  defp count(state) do
    Pool.count(state.board, state.index, state.outstanding.count)
    state
  end

  defp who(state), do: "Port #{Options.label(state.options)}, child #{state.index}"

  defp now, do: System.monotonic_time(:millisecond)
end
