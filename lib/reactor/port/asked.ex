defmodule Reactor.Port.Asked do
  @moduledoc false

  # What a child asks for: each request is served in a process of its own. Where answers have numbers they all run at once.
  # Where it is their order that tells them apart, one is served after the other, and the rest wait here. What is left to
  # do after an answer runs beside.

  require Logger

  alias Reactor.Port.{Options, Wire}

  # What was refused, but cannot be told yet, since others come first: who asks for more does not wait for answers.
  @most_refused 10_000

  # Not what is in the requests.
  @derive {Inspect, except: [:waiting]}
  @enforce_keys [:tasks, :wire, :options, :order, :waiting]
  defstruct [
    :tasks,
    :wire,
    :options,
    :order,
    :turn,
    :waiting,
    running: %{},
    beside: %{},
    length: 0,
    bytes: 0
  ]

  @typedoc "Whom to answer; `nil` where nobody waits for it."
  @type who :: {port, Wire.id() | nil} | nil

  @type answer :: {who, :answer | :error, Wire.body()}

  @type t :: %__MODULE__{
          tasks: pid,
          wire: module,
          options: Options.t(),
          order: boolean,
          turn: reference | nil,
          running: %{reference => who},
          beside: %{reference => []},
          waiting: :queue.queue({who, Wire.request() | :refused, bytes :: non_neg_integer}),
          length: non_neg_integer,
          bytes: non_neg_integer
        }

  @doc "Who serves is started under `tasks`."
  @spec new(pid, module, Options.t()) :: t
  def new(tasks, wire, options) do
    order = wire.correlation() == :order
    waiting = :queue.new()
    %__MODULE__{tasks: tasks, wire: wire, options: options, order: order, waiting: waiting}
  end

  @doc "How many requests run."
  @spec running(t) :: non_neg_integer
  def running(asked), do: map_size(asked.running)

  @doc "Whether a message is about one of them."
  defguard is_running(asked, reference)
           when is_map_key(:erlang.map_get(:running, asked), reference) or
                  is_map_key(:erlang.map_get(:beside, asked), reference)

  @doc """
  Takes a request, and serves it when it can. `:full` if as many as `:max_waiting` run already; where they wait for each other that
  is an answer in its turn, and `:full` for those that are far beyond. Those that wait
  may have `:max_frame` and `:max_stream` bytes together; one may wait in any case.
  """
  @spec ask(t, who, Wire.request()) :: {[answer], t} | :full
  def ask(%{order: false, options: options} = asked, who, request) do
    if running(asked) < options.max_waiting, do: {[], run(asked, who, request)}, else: :full
  end

  def ask(%{options: %{max_waiting: max} = options} = asked, who, request) do
    bytes = asked.wire.size(request)
    room? = asked.length == 0 or asked.bytes + bytes <= options.max_frame + options.max_stream

    case running(asked) + asked.length do
      n when n >= max + @most_refused -> :full
      n when n < max and room? -> asked |> wait(who, request, bytes) |> next([])
      _no_room -> asked |> wait(who, :refused, 0) |> next([])
    end
  end

  @doc "What has come of one: what `c:Wire.serve/2` returned, or the reason of a process that has ended without."
  @spec served(t, reference, Wire.served() | {:exit, term}) :: {[answer], t}
  def served(asked, reference, {kind, body, later}),
    do: asked |> run_beside(later) |> served(reference, {kind, body})

  def served(%{beside: beside} = asked, reference, {:exit, _reason})
      when is_map_key(beside, reference),
      do: {[], %{asked | beside: Map.delete(beside, reference)}}

  def served(asked, reference, result) do
    {who, running} = Map.pop!(asked.running, reference)
    answers = if who, do: [answer(asked, who, result)], else: []
    asked = %{asked | running: running}

    if asked.turn == reference,
      do: next(%{asked | turn: nil}, answers),
      else: {answers, asked}
  end

  defp answer(asked, who, {:exit, _reason} = ended), do: {who, :error, asked.wire.refusal(ended)}
  defp answer(_asked, who, {kind, body}), do: {who, kind, body}

  @doc "The child has died: what it asked for is not begun any more."
  @spec forget(t) :: t
  def forget(asked), do: %{asked | waiting: :queue.new(), length: 0, bytes: 0, turn: nil}

  defp wait(asked, who, request, bytes) do
    waiting = :queue.in({who, request, bytes}, asked.waiting)
    %{asked | waiting: waiting, length: asked.length + 1, bytes: asked.bytes + bytes}
  end

  defp next(%{turn: nil, length: length} = asked, answers) when length > 0 do
    {{:value, {who, request, bytes}}, waiting} = :queue.out(asked.waiting)
    asked = %{asked | waiting: waiting, length: length - 1, bytes: asked.bytes - bytes}

    case request do
      :refused -> next(asked, [{who, :error, asked.wire.refusal(:overloaded)} | answers])
      request -> {Enum.reverse(answers), run(asked, who, request)}
    end
  end

  defp next(asked, answers), do: {Enum.reverse(answers), asked}

  defp run_beside(%{beside: beside, options: options} = asked, _later)
       when map_size(beside) >= options.max_waiting do
    Logger.warning("a callback is not made, #{map_size(beside)} are under way",
      port: Options.label(options)
    )

    asked
  end

  defp run_beside(asked, later) do
    {:ok, pid} = Task.Supervisor.start_child(asked.tasks, later)
    %{asked | beside: Map.put(asked.beside, Process.monitor(pid), [])}
  end

  defp run(%{wire: wire, options: options} = asked, who, request) do
    %{ref: reference} =
      Task.Supervisor.async_nolink(asked.tasks, fn -> wire.serve(request, options) end)

    turn = if asked.order, do: reference
    %{asked | running: Map.put(asked.running, reference, who), turn: turn}
  end
end
