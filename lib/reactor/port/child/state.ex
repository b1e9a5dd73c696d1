defmodule Reactor.Port.Child.State do
  @moduledoc false

  # What the process of a child knows, and what callers see of it.

  alias Reactor.Port.{Asked, Frames, Options, Outstanding, Patience, Pool, Running}

  @enforce_keys [:options, :wire, :index, :board, :tasks, :outstanding, :asked]
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
    status: :down,
    pause: 0,
    started: 0,
    restarts: -1,
    asking: [],
    # Of a frame that belongs to those after it.
    part: [],
    patience: %Patience{}
  ]

  @typedoc "`{:failing, reason}` is of one that did not even start."
  @type status :: :down | :starting | :up | :dying | {:failing, reason :: term}

  @type t :: %__MODULE__{
          options: Options.t(),
          wire: module,
          index: pos_integer,
          board: Pool.board(),
          tasks: pid,
          outstanding: Outstanding.t(),
          asked: Asked.t(),
          port: port | nil,
          os_pid: pos_integer | nil,
          process: Running.t() | nil,
          frames: Frames.t() | nil,
          writer: pid | nil,
          hang_timer: reference | nil,
          reason: term,
          span: term,
          status: status,
          pause: non_neg_integer,
          started: integer,
          restarts: integer,
          asking: [GenServer.from()],
          part: Reactor.Port.Wire.part(),
          patience: Patience.t()
        }

  @spec new(pos_integer, Pool.board(), Options.t(), tasks :: pid) :: t
  def new(index, board, options, tasks) do
    wire = Options.wire(options)

    %__MODULE__{
      options: options,
      wire: wire,
      index: index,
      board: board,
      tasks: tasks,
      outstanding: Outstanding.new(wire.correlation(), options.max_waiting),
      asked: Asked.new(tasks, wire, options)
    }
  end

  @doc "What a caller knows of it."
  @spec known(t) :: Pool.known()
  def known(%{options: options, wire: wire}) do
    limits = Map.take(options, [:max_frame, :max_stream])
    {Options.label(options), wire, limits, options.timeout}
  end

  @doc "See `Reactor.Port.info/1`."
  @spec info(t) :: map
  def info(state) do
    %{
      index: state.index,
      os_pid: state.port && state.os_pid,
      status: if(match?({:failing, _}, state.status), do: :failing, else: state.status),
      outstanding: state.outstanding.count,
      restarts: max(state.restarts, 0)
    }
  end

  @doc "Shows callers in what state it is."
  @spec show(t, :up | :down | :failing) :: :ok
  def show(state, status), do: Pool.show(state.board, state.index, status)

  @doc "It has so many requests less."
  @spec uncount(t, non_neg_integer) :: t
  def uncount(state, 0), do: state

  def uncount(%{outstanding: %{count: 0}} = state, _n), do: count(state)

  def uncount(state, n) do
    Pool.done(state.board, state.index, n)
    state
  end

  @doc "Shows callers how many requests it has."
  @spec count(t) :: t
  def count(state) do
    Pool.count(state.board, state.index, state.outstanding.count)
    state
  end

  @doc "What it is called in the log."
  @spec who(t) :: String.t()
  def who(state), do: "Port #{Options.label(state.options)}, child #{state.index}"

  @doc "In ms of the monotonic clock."
  @spec now() :: integer
  def now, do: System.monotonic_time(:millisecond)
end
