defmodule Reactor.Server.Permits do
  @moduledoc false

  # Keeps `max_connections` for transports that do not count: each connection has a permit. The
  # loops of the native transport do this themselves.
  #
  # The numbers are shared by all partitions of a server, in one array of atomics. Each partition keeps
  # who holds its permits and who waits for one, and notes how many it holds in the array: so those of
  # one that crashed are not lost. An acceptor takes its permit before it accepts with `overload:
  # :wait`, and after it with `:reject`; which one a connection has is then that of its handler.

  alias Reactor.{Listener, Server, Transport}

  # The array: permits taken, the limit, connections open, connections refused, when the limit was
  # last reached, and then three numbers for each partition.
  @taken 1
  @limit 2
  @open 3
  @rejected 4
  @saturated 5
  @before_partitions 5

  # Without having been reached for so long, in ms, the limit is reached anew.
  @episode 1_000

  # `holders` has for each process how many permits it has, and how many of them are for connections
  # that are open: one process may be given many.
  defstruct [:shared, :board, :index, holders: %{}, waiting: :queue.new()]

  @opaque shared :: {:atomics.atomics_ref(), partitions :: pos_integer}
  @type t :: %__MODULE__{}

  @spec new(pos_integer) :: shared
  def new(partitions) do
    array = :atomics.new(@before_partitions + 3 * partitions, signed: true)
    :atomics.put(array, @saturated, now() - 2 * @episode)
    {array, partitions}
  end

  @doc "True if a server counts by permits."
  @spec needed?(Listener.t()) :: boolean
  def needed?(%{max_connections: :infinity}), do: false
  def needed?(%{transport: Transport.Native}), do: false
  def needed?(_listener), do: true

  @spec open(shared) :: non_neg_integer
  def open({array, _}), do: :atomics.get(array, @open)

  @spec rejected(shared) :: non_neg_integer
  def rejected({array, _}), do: :atomics.get(array, @rejected)

  # --- in an acceptor -------------------------------------------------------------------------

  @doc """
  Asks the acceptor's partition for a permit. With `:wait` the answer comes when there is one, with
  `:reject` it is `false` if there is none. It is `:closed` if nothing is accepted any more, and
  `:again` if the descriptor has changed.
  """
  @spec ask(pid, :wait | :reject) :: true | false | :again | :closed
  def ask(partition, overload) do
    send(partition, {:permit, self(), overload})
    receive(do: ({:"$reactor_permit", answer} -> answer))
  end

  # --- in a partition -------------------------------------------------------------------------

  @doc "What the partition knows; nil where nothing is to be counted."
  @spec start(Server.board(), pos_integer, Listener.t()) :: t | nil
  def start(board, index, listener) do
    shared = Server.permits(board)
    state = %__MODULE__{shared: shared, board: board, index: index}
    # Of the one before it, that crashed.
    give(state, get(state, :held))
    set_open(state, -get(state, :open))
    configure(state, listener)
  end

  @doc "The descriptor has changed; `handlers` has for each connection the process that has it."
  @spec change(t | nil, Server.board(), pos_integer, Listener.t(), [pid]) :: t | nil
  def change(nil, board, index, listener, handlers) do
    if state = start(board, index, listener), do: Enum.reduce(handlers, state, &opened(&2, &1))
  end

  def change(state, _board, _index, listener, _handlers), do: configure(state, listener)

  defp configure(%{shared: {array, _}} = state, listener) do
    answer_all(state, :again)
    state = %{state | waiting: :queue.new()}

    if needed?(listener) do
      :atomics.put(array, @limit, listener.max_connections)
      state
    else
      give(state, get(state, :held))
      set_open(state, -get(state, :open))
      nil
    end
  end

  @doc "An acceptor asks."
  @spec asked(t | nil, pid, :wait | :reject) :: t | nil
  def asked(nil, pid, _overload) do
    answer(pid, :again)
    nil
  end

  # It had one, but the limit was lowered while it was in accept.
  def asked(%{holders: holders} = state, pid, overload) when is_map_key(holders, pid) do
    {array, _} = state.shared

    if :atomics.get(array, @taken) > :atomics.get(array, @limit) do
      state |> returned(pid) |> asked(pid, overload)
    else
      answer(pid, true)
      state
    end
  end

  def asked(state, pid, :wait), do: serve(%{state | waiting: :queue.in(pid, state.waiting)})

  def asked(%{shared: {array, _}} = state, pid, :reject) do
    if take(state) do
      answer(pid, true)
      put_in(state.holders[pid], {1, 0})
    else
      :atomics.add(array, @rejected, 1)
      saturated(state)
      Server.Reporter.report(state.board, {:rejected, :max_connections, 1})
      answer(pid, false)
      state
    end
  end

  @doc "A process has a connection, with or without a permit; from now on it has one."
  @spec opened(t | nil, pid) :: t | nil
  def opened(nil, _pid), do: nil

  def opened(%{shared: {array, _}, holders: holders} = state, pid) do
    {permits, own} = Map.get(holders, pid, {0, 0})
    if permits == own, do: force(state)
    open = set_open(state, 1)
    if open >= :atomics.get(array, @limit), do: saturated(state)
    put_in(state.holders[pid], {max(permits, own + 1), own + 1})
  end

  @doc "The connection of a process has another handler."
  @spec moved(t | nil, pid, pid) :: t | nil
  def moved(nil, _from, _to), do: nil

  def moved(state, from, to) do
    case Map.pop(state.holders, from) do
      {nil, _holders} ->
        state

      {{permits, open}, holders} ->
        add = fn {other_permits, other_open} -> {other_permits + permits, other_open + open} end
        %{state | holders: Map.update(holders, to, {permits, open}, add)}
    end
  end

  @doc "A process is gone, and its connections with it."
  @spec returned(t | nil, pid) :: t | nil
  def returned(nil, _pid), do: nil

  def returned(state, pid) do
    case Map.pop(state.holders, pid) do
      {nil, _holders} ->
        %{state | waiting: :queue.delete(pid, state.waiting)}

      {{permits, open}, holders} ->
        set_open(state, -open)
        give(state, permits)
        serve(%{state | holders: holders})
    end
  end

  @doc "Some permit was given back, maybe by another partition."
  @spec serve(t | nil) :: t | nil
  def serve(nil), do: nil

  def serve(state) do
    put(state, :hungry, 0)

    cond do
      :queue.is_empty(state.waiting) ->
        state

      take(state) ->
        {{:value, pid}, waiting} = :queue.out(state.waiting)
        answer(pid, true)
        serve(%{put_in(state.holders[pid], {1, 0}) | waiting: waiting})

      true ->
        put(state, :hungry, 1)
        # One that was given back before the others could see that.
        if room?(state), do: serve(state), else: state
    end
  end

  @doc "Nothing is accepted any more."
  @spec close(t | nil) :: t | nil
  def close(nil), do: nil

  def close(state) do
    answer_all(state, :closed)
    %{state | waiting: :queue.new()}
  end

  defp answer_all(state, answer) do
    state.waiting |> :queue.to_list() |> Enum.each(&answer(&1, answer))
  end

  defp answer(pid, answer), do: send(pid, {:"$reactor_permit", answer})

  # --- the array ------------------------------------------------------------------------------

  defp take(%{shared: {array, _}} = state) do
    taken = :atomics.get(array, @taken)

    cond do
      taken >= :atomics.get(array, @limit) ->
        false

      :atomics.compare_exchange(array, @taken, taken, taken + 1) == :ok ->
        add(state, :held, 1)
        true

      true ->
        take(state)
    end
  end

  defp room?(%{shared: {array, _}}) do
    :atomics.get(array, @taken) < :atomics.get(array, @limit)
  end

  defp force(%{shared: {array, _}} = state) do
    :atomics.add(array, @taken, 1)
    add(state, :held, 1)
  end

  defp give(_state, 0), do: :ok

  defp give(%{shared: {array, partitions}} = state, n) do
    add(state, :held, -n)
    :atomics.sub(array, @taken, n)

    for index <- 1..partitions, get(%{state | index: index}, :hungry) == 1 do
      with pid when is_pid(pid) <- Server.whereis(state.board, {:partition, index}) do
        send(pid, :permits)
      end
    end

    :ok
  end

  defp set_open(%{shared: {array, _}} = state, n) do
    add(state, :open, n)
    :atomics.add_get(array, @open, n)
  end

  # Reported once while it lasts.
  defp saturated(%{shared: {array, _}} = state) do
    last = :atomics.get(array, @saturated)
    now = now()

    if :atomics.compare_exchange(array, @saturated, last, now) == :ok and now - last > @episode do
      Server.Reporter.report(state.board, {:saturated, :max_connections})
    end
  end

  defp slot(%{index: index}, :hungry), do: @before_partitions + 3 * index - 2
  defp slot(%{index: index}, :held), do: @before_partitions + 3 * index - 1
  defp slot(%{index: index}, :open), do: @before_partitions + 3 * index

  defp get(%{shared: {array, _}} = state, what), do: :atomics.get(array, slot(state, what))

  defp put(%{shared: {array, _}} = state, what, value) do
    :atomics.put(array, slot(state, what), value)
  end

  defp add(%{shared: {array, _}} = state, what, n), do: :atomics.add(array, slot(state, what), n)

  defp now, do: System.monotonic_time(:millisecond)
end
