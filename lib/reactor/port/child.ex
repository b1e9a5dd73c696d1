defmodule Reactor.Port.Child do
  @moduledoc false

  # One child: its port, its calls, and its restarts. This process stays when the child dies; what was sent to that
  # fails at once, what was not sent yet waits for the next one, which is started after a pause that grows.

  use GenServer

  require Logger

  alias Reactor.Port.{Frames, Functions, Guard, Options, Outstanding, Output, Program}
  alias Reactor.Telemetry

  @registry Reactor.Port.Registry

  # Requests that are sent in one write.
  @batch 64

  # One that lived as long, in ms, is started again without a pause that has grown.
  @lived 1_000

  # For its last lines to be read, in ms.
  @last_lines 500

  @request :"$reactor_port"

  @down 1
  @up 0
  @failing 2

  defstruct [
    :options,
    :wire,
    :index,
    :board,
    :tasks,
    :outstanding,
    :port,
    :os_pid,
    :guard,
    :output,
    :output_path,
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
    # The functions that run for it, by their monitors.
    running: %{}
  ]

  # What callers share of all children of a pool: how many requests each has, and its state.
  @type board :: :atomics.atomics_ref()

  @typedoc "What a caller knows of a child: it is copied for each call."
  @type entry ::
          {pid, {index :: pos_integer, board, known}}

  @typedoc "Its pool's name in events, its protocol, and what holds of its calls."
  @type known :: {label :: String.t(), wire :: module, max_frame :: pos_integer, timeout}

  @spec registry() :: Supervisor.child_spec()
  def registry, do: Registry.child_spec(keys: :duplicate, name: @registry)

  @spec start_link({pid, pos_integer, board, Options.t()}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc "As a child of a pool."
  @spec child_spec({pid, pos_integer, board, Options.t()}) :: Supervisor.child_spec()
  def child_spec({_pool, index, _board, options} = init) do
    %{
      id: {__MODULE__, index},
      # Not the options: a supervisor shows this in its reports.
      start: {__MODULE__, :start_hidden, [fn -> init end]},
      shutdown: Guard.longest(options) + 2 * @last_lines
    }
  end

  @doc false
  @spec start_hidden((() -> term)) :: GenServer.on_start()
  def start_hidden(init), do: start_link(init.())

  @spec board(pos_integer) :: board
  def board(size), do: :atomics.new(2 * size, signed: true)

  @doc "The children of a pool that there are."
  @spec all(pid) :: [entry]
  def all(pool), do: Registry.lookup(@registry, pool)

  @doc "The child that has least to do, of those that are in the best state."
  @spec least(pid) :: {:ok, entry} | :error
  def least(pool) do
    case all(pool) do
      [] -> :error
      [entry] -> {:ok, entry}
      entries -> {:ok, Enum.min_by(entries, &load/1)}
    end
  end

  defp load({_pid, {index, board, _known}}),
    do: {:atomics.get(board, 2 * index - 1), :atomics.get(board, 2 * index)}

  @doc """
  Makes a request. Of a call it returns what `c:Reactor.Port.Wire.read/1` says of the answer, in `{:ok, answer}`.
  """
  @spec request(entry, :call | :cast, iodata, timeout) :: :ok | {:ok, term} | {:error, term}
  def request({child, {index, board, _known}}, kind, body, timeout) do
    # It has one request more from now on, and the next caller may choose another.
    :atomics.add(board, 2 * index, 1)
    # An answer that comes too late finds no alias any more.
    reference = :erlang.monitor(:process, child, alias: :reply_demonitor)
    send(child, {@request, kind, reference, body, deadline(timeout)})

    receive do
      {^reference, answer} -> answer
      {:DOWN, ^reference, _, _, _} -> {:error, :closed}
    after
      timeout ->
        :erlang.demonitor(reference, [:flush])

        receive do
          {^reference, answer} -> answer
        after
          0 -> {:error, :timeout}
        end
    end
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

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
      outstanding: Outstanding.new(wire.correlation(), options.max_waiting)
    }

    show(state, @down)
    :atomics.put(board, 2 * index, 0)
    known = {label(options), wire, options.max_frame, options.timeout}
    {:ok, _} = Registry.register(@registry, pool, {index, board, known})
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
  def handle_info({@request, _, _, _, _} = request, state),
    do: {:noreply, request |> gather() |> Enum.reduce(state, &admit/2) |> flush()}

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

  def handle_info({port, {:exit_status, status}}, %{port: port} = state),
    do: {:noreply, down(state, {:exit, status})}

  def handle_info({:EXIT, port, _reason}, %{port: port} = state),
    do: {:noreply, down(state, :closed)}

  def handle_info({:late, port}, %{port: port, status: :starting} = state),
    do: {:noreply, kill(state, "it did not start within its start_timeout", :start_timeout)}

  def handle_info({:hang, port}, %{port: port} = state), do: {:noreply, hanging(state)}

  def handle_info({:EXIT, writer, _reason}, %{writer: writer} = state) when is_pid(writer),
    do: {:noreply, flush(%{state | writer: nil})}

  def handle_info({ran, {kind, body}}, %{running: running} = state)
      when is_map_key(running, ran) do
    Process.demonitor(ran, [:flush])
    {:noreply, ran(state, ran, kind, body)}
  end

  def handle_info({:DOWN, ran, _, _, reason}, %{running: running} = state)
      when is_map_key(running, ran) do
    error = Functions.error({:exception, "exit", inspect(reason), ""})
    {:noreply, ran(state, ran, :error, error)}
  end

  def handle_info(:restart, %{port: nil} = state), do: {:noreply, start(state)}

  def handle_info({:EXIT, tasks, reason}, %{tasks: tasks} = state),
    do: {:stop, reason, state}

  # Of a child before.
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for caller <- callers(state), do: answer(caller, {:error, :closed})

    if state.port do
      close(state.port)
      Guard.finish(state.guard)
      stopped(state, :shutdown)
    end

    await_last_lines(state.output)
    if state.output_path, do: Output.clean(state.output_path)
  end

  defp callers(state) do
    {sent, outstanding} = Outstanding.drop_sent(state.outstanding)
    {waiting, _none} = Outstanding.drop_waiting(outstanding)
    sent ++ waiting
  end

  defp await_last_lines(nil), do: :ok

  defp await_last_lines(output) do
    monitor = Process.monitor(output)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @last_lines -> :ok
    end
  end

  # --- start and end --------------------------------------------------------------------------

  defp start(%{options: options} = state) do
    state = %{state | restarts: state.restarts + 1, started: now(), reason: nil}

    with {:ok, path, output} <- output(state),
         {:ok, port, os_pid} <- open(options, path, output) do
      if output, do: Output.started(output, os_pid)
      if options.protocol == :envelope, do: late(port, options.start_timeout)

      state = %{
        state
        | port: port,
          os_pid: os_pid,
          output: output,
          output_path: path,
          guard: Guard.start(state.tasks, os_pid, options),
          frames: Frames.new(options.packet, options.max_frame),
          status: :starting,
          span: Telemetry.start([:reactor, :port], %{}, metadata(state, os_pid))
      }

      if options.protocol == :envelope, do: state, else: up(state)
    else
      {:error, reason} -> failed(state, reason)
    end
  end

  # Only our side of Python connects to it.
  defp output(%{options: %{script: nil}}), do: {:ok, nil, nil}

  defp output(%{options: options} = state),
    do: Output.start(state.tasks, options.start_timeout, port: label(options), target: "python")

  defp open(options, path, output) do
    with {:error, reason} <- Program.open(options, path) do
      if output, do: Output.started(output, :failed)
      if path, do: Output.clean(path)
      {:error, reason}
    end
  end

  defp late(port, timeout), do: Process.send_after(self(), {:late, port}, timeout)

  defp up(state) do
    for from <- state.asking, do: GenServer.reply(from, :ok)
    show(state, @up)
    flush(%{state | status: :up, asking: []})
  end

  # Nothing more is sent to it, or taken from it; its exit status ends it.
  defp kill(%{reason: nil} = state, text, reason) do
    Logger.error("#{who(state)} is killed: #{text}", port: label(state.options))
    Guard.kill(state.guard)
    show(state, if(state.status == :up, do: @down, else: @failing))
    # One that never was up has failed to start, however it ends.
    status = if state.status == :up, do: :dying, else: state.status
    fail_sent(%{state | status: status, reason: reason}, {:error, reason})
  end

  defp kill(state, _text, _reason), do: state

  defp down(state, reason) do
    close(state.port)
    Guard.gone(state.guard)
    if state.output_path, do: Output.clean(state.output_path)
    stopped(state, state.reason || reason)
    state = %{state | port: nil, writer: nil, hang_timer: nil, reason: state.reason || reason}
    state = fail_sent(state, {:error, state.reason})

    if state.status == :starting do
      failed(state, state.reason)
    else
      text = "#{who(state)} has ended (#{inspect(state.reason)})"
      Logger.warning(text, port: label(state.options))
      show(state, @down)
      restart(%{state | status: :down}, state.reason)
    end
  end

  # As long as it cannot be started nobody has to wait for it.
  defp failed(state, reason) do
    Logger.error("#{who(state)} cannot be started (#{inspect(reason)})",
      port: label(state.options)
    )

    for from <- state.asking, do: GenServer.reply(from, {:error, reason})
    {callers, outstanding} = Outstanding.drop_waiting(state.outstanding)
    for caller <- callers, do: answer(caller, {:error, reason})
    state = %{state | status: {:failing, reason}, outstanding: outstanding, asking: []}
    show(state, @failing)
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
    do: %{pool: label(state.options), child: state.index, os_pid: os_pid}

  defp close(port) do
    Port.close(port)
  rescue
    # It has ended.
    ArgumentError -> true
  end

  # --- requests -------------------------------------------------------------------------------

  # What else is there goes out in the same write.
  defp gather(request), do: gather([request], @batch - 1)

  defp gather(requests, 0), do: Enum.reverse(requests)

  defp gather(requests, left) do
    receive do
      {@request, _, _, _, _} = request -> gather([request | requests], left - 1)
    after
      0 -> Enum.reverse(requests)
    end
  end

  defp admit({@request, _kind, caller, _body, _deadline}, %{status: {:failing, reason}} = state) do
    answer(caller, {:error, reason})
    uncount(state, 1)
  end

  defp admit({@request, kind, caller, body, deadline}, state) do
    # Who casts does not wait for more than a place in the queue.
    request = {kind, if(kind == :call, do: caller), body, deadline}

    case Outstanding.put(state.outstanding, request) do
      {:ok, outstanding} ->
        if kind == :cast, do: answer(caller, :ok)
        %{state | outstanding: outstanding}

      :full ->
        answer(caller, {:error, :overloaded})
        uncount(state, 1)
    end
  end

  defp flush(%{status: :up, writer: nil} = state) do
    if Outstanding.waiting?(state.outstanding) do
      before = state.outstanding.count

      {requests, _given_up, outstanding} =
        Outstanding.take(state.outstanding, @batch, now(), &state.wire.next_id/1)

      state
      |> Map.put(:outstanding, outstanding)
      |> uncount(before - outstanding.count)
      |> write(Enum.map(requests, &frame_of(&1, state)))
      |> watch()
      |> flush()
    else
      state
    end
  end

  defp flush(state), do: state

  defp frame_of({kind, id, body}, %{wire: wire, options: options}),
    do: Frames.frame(wire.frame(kind, id, body), options.packet)

  defp reply(%{status: :up} = state, kind, id, body) do
    %{wire: wire, options: options} = state
    size = IO.iodata_length(body) + wire.overhead()

    body =
      if size <= options.max_frame,
        do: body,
        else: Functions.error({:too_large, size, options.max_frame})

    kind = if size <= options.max_frame, do: kind, else: :error
    write(state, frame_of({kind, id, body}, state))
  end

  defp reply(state, _kind, _id, _body), do: state

  # A child that does not read must not hold up this process: another one waits, and then this goes on.
  defp write(%{writer: nil, port: port} = state, data) do
    if Port.command(port, data, [:nosuspend]),
      do: state,
      else: %{state | writer: spawn_writer(port, [data])}
  rescue
    # It has ended, and its exit status is on its way.
    ArgumentError -> state
  end

  # An answer to the child, which may be written while requests wait.
  defp write(%{writer: writer, port: port} = state, data) do
    %{state | writer: spawn_writer(port, [writer, data])}
  end

  defp spawn_writer(port, steps) do
    spawn_link(fn ->
      Enum.each(steps, fn
        writer when is_pid(writer) ->
          monitor = Process.monitor(writer)

          receive do
            {:DOWN, ^monitor, _, _, _} -> :ok
          end

        data ->
          try do
            Port.command(port, data)
          rescue
            ArgumentError -> :ended
          end
      end)
    end)
  end

  # --- answers --------------------------------------------------------------------------------

  # It is killed.
  defp frame(_frame, %{reason: reason} = state) when reason != nil, do: state

  defp frame(frame, state) do
    case state.wire.read(frame) do
      {:answer, id, answer} ->
        answered(state, id, answer)

      {:call, id, frame} when map_size(state.running) < state.options.max_waiting ->
        run(state, {state.port, id}, frame)

      {:call, id, _frame} ->
        reply(state, :error, id, Functions.error(:overloaded))

      {:cast, frame} when map_size(state.running) < state.options.max_waiting ->
        run(state, nil, frame)

      {:cast, _frame} ->
        Logger.warning("#{who(state)}: a cast of it was dropped, #{map_size(state.running)} run",
          port: label(state.options)
        )

        state

      :hello when state.status == :starting ->
        up(state)

      :nothing ->
        state

      _error ->
        kill(state, "it sent what is no frame of its protocol", :bad_frame)
    end
  end

  defp run(state, who, frame) do
    ran = Functions.run(state.tasks, state.options, frame)
    %{state | running: Map.put(state.running, ran, who)}
  end

  # Of a cast, or for a child before, there is nobody to tell.
  defp ran(%{port: port} = state, ran, kind, body) do
    case Map.pop(state.running, ran) do
      {{^port, id}, running} -> reply(%{state | running: running}, kind, id, body)
      {_nobody, running} -> %{state | running: running}
    end
  end

  defp answered(state, id, answer) do
    case Outstanding.answered(state.outstanding, id) do
      {:ok, caller, outstanding} ->
        answer(caller, {:ok, answer})
        uncount(%{state | outstanding: outstanding}, 1)

      :error ->
        kill(state, "it sent an answer that nobody waits for", :bad_frame)
    end
  end

  defp answer(nil, _answer), do: :ok
  defp answer(caller, answer), do: send(caller, {caller, answer})

  defp fail_sent(state, error) do
    {callers, outstanding} = Outstanding.drop_sent(state.outstanding)
    for caller <- callers, do: answer(caller, error)
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

  defp show(state, status), do: :atomics.put(state.board, 2 * state.index - 1, status)

  defp uncount(state, 0), do: state

  defp uncount(%{outstanding: %{count: 0}} = state, _n), do: count(state)

  defp uncount(state, n) do
    :atomics.sub(state.board, 2 * state.index, n)
    state
  end

  # A caller that was killed before it could ask has counted, too: here that is forgotten.
  defp count(state) do
    :atomics.put(state.board, 2 * state.index, state.outstanding.count)
    state
  end

  @doc "What names a pool in logs and events."
  @spec label(Options.t()) :: String.t()
  def label(%{name: nil, script: nil, command: command}), do: Path.basename(command)
  def label(%{name: nil, script: script}), do: Path.basename(script)
  def label(%{name: name}), do: Reactor.Python.Context.text(name)

  defp who(state), do: "Port #{label(state.options)}, child #{state.index}"

  defp now, do: System.monotonic_time(:millisecond)
end
