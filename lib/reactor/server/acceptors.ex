defmodule Reactor.Server.Acceptors do
  @moduledoc false

  # The acceptors of one connection supervisor: how many there are to be, and which ones wait.
  # The functions are called by that supervisor, which spawns them.
  #
  # Which processes they are is in its dictionary, pid => :waits, or :retired if it was told to end: every
  # connection takes one out and puts one in, which in a map of that size costs a quarter of a spawn.

  alias Reactor.{Listener, Native, Server, Transport}

  # How often acceptors are looked for that the end of the listening socket did not end, in ms.
  @sweep 100

  # How long one may be in an accept/1 of the module's own by then, in ms: one that reads from its connection
  # first can finish when the server is suspended. A drain does not wait for those that may wait for ever.
  @patience %{suspended: 5_000, draining: 0}

  defstruct [
    :board,
    :listener,
    # Whether there is a listening socket; if not, when those that still wait are ended.
    open: true,
    sweep_at: nil,
    # How many there are to be.
    target: 0,
    # How many are in accept/1 ...
    waiting: 0,
    # ... and were told to end.
    retired: 0
  ]

  @type t :: %__MODULE__{}

  @spec new(Server.board(), Listener.t(), boolean) :: t
  def new(board, listener, open?) do
    %__MODULE__{board: board, listener: listener, open: open?}
  end

  @doc "Whether this one is in accept/1 still."
  @spec waits?(pid) :: boolean
  def waits?(pid), do: Process.get(pid) != nil

  @doc "How many processes there are, those too that are about to end."
  @spec size(t) :: non_neg_integer
  def size(state), do: state.waiting + state.retired

  @doc "There are to be so many. Those that are too many end when they accept, with the native transport at once."
  @spec set(t, non_neg_integer) :: t
  def set(%{open: true} = state, n) do
    state = %{state | target: n}
    if state.waiting > n, do: retire(state, state.waiting - n), else: fill(state)
  end

  def set(state, n), do: %{state | target: n}

  # Only those that wait in the loop by now: one that is on its way there is one too many until it accepts.
  defp retire(%{listener: %{transport: Transport.Native, socket: socket}} = state, n) do
    retired = Native.listener_retire(socket, Process.get_keys(:waits), n)
    Enum.each(retired, &Process.put(&1, :retired))
    moved = length(retired)
    %{state | waiting: state.waiting - moved, retired: state.retired + moved}
  end

  defp retire(state, _n), do: state

  @doc "Those that failed and were not replaced are replaced now."
  @spec refill(t) :: t
  def refill(%{open: true} = state), do: fill(state)
  def refill(state), do: state

  @doc "One has a connection, and is an acceptor no more."
  @spec accepted(t, pid) :: t
  def accepted(state, pid), do: state |> remove(pid) |> replace()

  @doc "One has ended without a connection."
  @spec ended(t, pid, term) :: t
  def ended(state, pid, reason), do: state |> remove(pid) |> without_connection(reason)

  defp remove(state, pid) do
    case Process.delete(pid) do
      :waits -> %{state | waiting: state.waiting - 1}
      :retired -> %{state | retired: state.retired - 1}
    end
  end

  # By one at most: those that failed are replaced when it is time.
  defp replace(%{open: true, waiting: waiting, target: target} = state) when waiting < target,
    do: spawn_more(state, 1)

  defp replace(state), do: state

  # It is not missed, until the server resumes.
  defp without_connection(%{open: false} = state, _reason), do: state

  # It was one too many; there may be too few by now.
  defp without_connection(state, {:shutdown, :retired}), do: replace(state)

  # It waited for a socket that has another in its place by now.
  defp without_connection(state, {:shutdown, {:closed, version}}) do
    if version < state.listener.version, do: replace(state), else: state
  end

  # It had one, which was too many.
  defp without_connection(state, {:shutdown, :refused}), do: replace(state)

  # The pool says when it is time.
  defp without_connection(state, reason) do
    Server.AcceptorPool.failed(state.board, self(), reason)
    state
  end

  @doc "The descriptor has changed: for those that are spawned from now on."
  @spec change(t, Listener.t()) :: t
  def change(state, listener), do: %{state | listener: listener}

  @doc "The listening socket is closed. The supervisor is sent `:sweep` while there are acceptors left."
  @spec close(t, :suspended | :draining) :: t
  def close(state, mode) do
    later(%{state | open: false, sweep_at: now() + @patience[mode]})
  end

  @doc "There is a listening socket again."
  @spec reopen(t) :: t
  def reopen(state) do
    fill(%{state | open: true})
  end

  @doc "Ends those that wait for something else than the listening socket, in an accept/1 of the module's own."
  @spec sweep(t) :: t
  def sweep(%{open: true} = state), do: state

  def sweep(state) do
    if now() >= state.sweep_at do
      pids = Process.get_keys(:waits) ++ Process.get_keys(:retired)
      for pid <- pids, idle?(pid), do: Process.exit(pid, :shutdown)
    end

    later(state)
  end

  defp later(state) do
    if size(state) > 0, do: Process.send_after(self(), :sweep, @sweep)
    state
  end

  # Else it has a connection, or is about to learn that there will be none.
  defp idle?(pid) do
    Process.info(pid, [:status, :message_queue_len]) == [status: :waiting, message_queue_len: 0]
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp fill(state), do: spawn_more(state, state.target - state.waiting)

  defp spawn_more(state, n) when n <= 0, do: state

  defp spawn_more(state, n) do
    for _ <- 1..n, do: spawn_one(state)
    %{state | waiting: state.waiting + n}
  end

  defp spawn_one(state) do
    state.listener |> Server.Acceptor.spawn(self()) |> Process.put(:waits)
  end
end
