defmodule Reactor.Port.Pool do
  @moduledoc false

  # What callers know of the children of a port, and how they ask one. No process is in between: children are in
  # the registry by their pool, and two atomics of each say in what state it is and how many requests it has.

  alias Reactor.Port.{Registry, Wire}

  @request :"$reactor_port"

  @states %{up: 0, down: 1, failing: 2}

  @type board :: :atomics.atomics_ref()

  @typedoc "What a caller knows of a child: it is copied for each call."
  @type entry :: {pid, {index :: pos_integer, board, known}}

  @typedoc "Its pool's name in events, its protocol, and what holds of its calls."
  @type known :: {label :: String.t(), wire :: module, Wire.limits(), timeout}

  @typedoc "How a request comes to a child: whom to answer, who asks, what, and until when, in ms of the monotonic clock."
  @type request ::
          {:"$reactor_port", :call | :cast, reference, pid, Wire.body(),
           deadline :: integer | :infinity}

  @spec board(pos_integer) :: board
  def board(size), do: :atomics.new(2 * size, signed: true)

  @doc "Has the caller be a child of this pool."
  @spec join(pid, pos_integer, board, known) :: :ok
  def join(pool, index, board, known) do
    show(board, index, :down)
    count(board, index, 0)
    Registry.register(pool, {index, board, known})
  end

  @doc "Shows a child's state. One that is up is preferred, and one that fails to start comes last."
  @spec show(board, pos_integer, :up | :down | :failing) :: :ok
  def show(board, index, state), do: :atomics.put(board, 2 * index - 1, @states[state])

  @doc "Shows how many requests it has. A caller that died before it could ask has counted, too, until then."
  @spec count(board, pos_integer, non_neg_integer) :: :ok
  def count(board, index, n), do: :atomics.put(board, 2 * index, n)

  @doc "It has so many less."
  @spec done(board, pos_integer, pos_integer) :: :ok
  def done(board, index, n), do: :atomics.sub(board, 2 * index, n)

  @doc "The children that there are."
  @spec all(pid) :: [entry]
  def all(pool), do: Registry.lookup(pool)

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
    send(child, {@request, kind, reference, self(), body, deadline(timeout)})

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
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  @doc "Answers a request, if there is somebody who waits."
  @spec answer(reference | nil, :ok | {:ok, term} | {:error, term}) :: term
  def answer(nil, _answer), do: :ok
  def answer(caller, answer), do: send(caller, {caller, answer})
end
