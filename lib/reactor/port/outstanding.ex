defmodule Reactor.Port.Outstanding do
  @moduledoc false

  # The requests of one child: those that wait to be sent, and the calls that were sent and have no answer yet.

  # Not what is in the requests.
  @derive {Inspect, except: [:waiting]}
  @enforce_keys [:correlation, :max, :waiting, :order]
  defstruct [
    :correlation,
    :max,
    :waiting,
    :order,
    count: 0,
    next_id: 1,
    soonest: :infinity,
    sent: %{}
  ]

  @typedoc "Who gets the answer: an alias, or `nil` where nobody does."
  @type caller :: reference | nil

  @typedoc "In ms of the monotonic clock."
  @type deadline :: integer | :infinity

  @typedoc "With the process that waits for the answer. A cast that has been taken stays: nobody waits for it."
  @type request ::
          {:call, caller, pid, iodata, deadline} | {:cast, nil, nil, iodata, :infinity}

  @type t :: %__MODULE__{
          correlation: :id | :order,
          max: pos_integer,
          count: non_neg_integer,
          next_id: non_neg_integer,
          waiting: :queue.queue(request),
          soonest: deadline,
          sent: %{non_neg_integer => {caller, since :: integer}},
          order: :queue.queue(non_neg_integer)
        }

  @spec new(:id | :order, pos_integer) :: t
  def new(correlation, max) do
    # Not the struct's defaults: what a queue is made of, which would be written there, is not for others.
    {waiting, order} = {:queue.new(), :queue.new()}
    %__MODULE__{correlation: correlation, max: max, waiting: waiting, order: order}
  end

  @doc "Takes a request in, if there is room."
  @spec put(t, request) :: {:ok, t} | :full
  def put(%{count: count, max: max}, _request) when count >= max, do: :full

  def put(state, {_kind, _caller, _pid, _body, deadline} = request) do
    {:ok,
     %{
       state
       | count: state.count + 1,
         waiting: :queue.in(request, state.waiting),
         # :infinity is greater than every number.
         soonest: min(deadline, state.soonest)
     }}
  end

  @spec waiting?(t) :: boolean
  def waiting?(state), do: not :queue.is_empty(state.waiting)

  @doc """
  Takes up to `most` requests to be sent, each with its id; calls then wait for their answers. Of those whose
  callers have given up nothing is left but how many they were.
  """
  @spec take(t, pos_integer, now :: integer, (non_neg_integer -> non_neg_integer)) ::
          {[{:call | :cast, non_neg_integer, iodata}], given_up :: non_neg_integer, t}
  def take(state, most, now, next_id), do: take(state, most, now, next_id, [], 0)

  defp take(state, 0, _now, _next_id, taken, given_up),
    do: {Enum.reverse(taken), given_up, state}

  defp take(state, most, now, next_id, taken, given_up) do
    case :queue.out(state.waiting) do
      {:empty, _} ->
        {Enum.reverse(taken), given_up, %{state | soonest: :infinity}}

      {{:value, {_kind, _caller, _pid, _body, deadline}}, waiting} when deadline <= now ->
        state = %{state | waiting: waiting, count: state.count - 1}
        take(state, most, now, next_id, taken, given_up + 1)

      {{:value, {kind, caller, _pid, body, _deadline}}, waiting} ->
        id = state.next_id
        state = send_as(%{state | waiting: waiting, next_id: next_id.(id)}, kind, id, caller, now)
        take(state, most - 1, now, next_id, [{kind, id, body} | taken], given_up)
    end
  end

  @doc "Forgets what waits to be sent and has been given up: whose time is over now, or whose caller is one of these."
  @spec give_up(t, now :: integer, dead :: [pid]) :: t
  def give_up(state, now, dead) do
    dead = Map.new(dead, &{&1, true})

    waiting =
      :queue.filter(
        fn {_kind, _caller, pid, _body, deadline} ->
          deadline > now and not is_map_key(dead, pid)
        end,
        state.waiting
      )

    given_up = :queue.len(state.waiting) - :queue.len(waiting)
    soonest = :queue.fold(&min(elem(&1, 4), &2), :infinity, waiting)
    %{state | waiting: waiting, soonest: soonest, count: state.count - given_up}
  end

  # A cast has no answer, unless all that is sent is answered in order.
  defp send_as(%{correlation: :id} = state, :cast, _id, _caller, _now),
    do: %{state | count: state.count - 1}

  defp send_as(%{correlation: :id} = state, :call, id, caller, now),
    do: %{state | sent: Map.put(state.sent, id, {caller, now})}

  defp send_as(%{correlation: :order} = state, _kind, id, caller, now),
    do: %{state | sent: Map.put(state.sent, id, {caller, now}), order: :queue.in(id, state.order)}

  @doc "Whom an answer belongs to; `:error` if nobody has asked."
  @spec answered(t, non_neg_integer | :next) :: {:ok, caller, t} | :error
  def answered(state, :next) do
    case :queue.out(state.order) do
      {{:value, id}, order} -> answered(%{state | order: order}, id)
      {:empty, _} -> :error
    end
  end

  def answered(state, id) do
    case Map.pop(state.sent, id) do
      {nil, _} -> :error
      {{caller, _since}, sent} -> {:ok, caller, %{state | sent: sent, count: state.count - 1}}
    end
  end

  @doc "When the oldest of the calls without an answer was sent."
  @spec oldest(t) :: integer | nil
  def oldest(%{sent: sent}) when map_size(sent) == 0, do: nil

  def oldest(%{sent: sent}),
    do: sent |> Map.values() |> Enum.reduce(:infinity, fn {_, at}, least -> min(at, least) end)

  @doc "Gives up all calls that were sent, and returns who waits for them."
  @spec drop_sent(t) :: {[caller], t}
  def drop_sent(state) do
    callers = for {_id, {caller, _since}} <- state.sent, do: caller
    count = state.count - map_size(state.sent)
    {callers, %{state | sent: %{}, order: :queue.new(), count: count}}
  end

  @doc "Gives up all that was not sent, and returns who waits for it."
  @spec drop_waiting(t) :: {[caller], t}
  def drop_waiting(state) do
    callers = for {_, caller, _, _, _} <- :queue.to_list(state.waiting), do: caller
    count = state.count - length(callers)
    {callers, %{state | waiting: :queue.new(), soonest: :infinity, count: count}}
  end
end
