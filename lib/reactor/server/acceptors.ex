defmodule Reactor.Server.Acceptors do
  @moduledoc false

  # The acceptors of one connection supervisor: how many there are to be, and which ones wait.
  # The functions are called by that supervisor, which spawns them.

  alias Reactor.{Listener, Server}

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
    # How many there are to be, and how many of them are not to be replaced.
    target: 0,
    surplus: 0,
    # Waiting in accept/1: pid => true.
    waiting: %{}
  ]

  @type t :: %__MODULE__{}

  @spec new(Server.board(), Listener.t(), boolean) :: t
  def new(board, listener, open?) do
    %__MODULE__{board: board, listener: listener, open: open?}
  end

  defguard waits?(acceptors, pid) when is_map_key(acceptors.waiting, pid)

  @spec size(t) :: non_neg_integer
  def size(%{waiting: waiting}), do: map_size(waiting)

  @doc "There are to be so many."
  @spec set(t, non_neg_integer) :: t
  def set(state, n), do: add(state, n - (state.target - state.surplus))

  @doc "There are to be so many more, or less: then that many are not replaced."
  @spec add(t, integer) :: t
  def add(state, n) when n >= 0 do
    kept = min(n, state.surplus)
    new = n - kept
    state = %{state | target: state.target + new, surplus: state.surplus - kept}
    if state.open, do: spawn_more(state, new), else: state
  end

  def add(state, n), do: %{state | surplus: min(state.surplus - n, state.target)}

  @doc "One has a connection, and is an acceptor no more."
  @spec accepted(t, pid) :: t
  def accepted(%{waiting: waiting} = state, pid) do
    replace(%{state | waiting: Map.delete(waiting, pid)})
  end

  defp replace(%{open: false} = state), do: state
  defp replace(%{surplus: 0} = state), do: spawn_one(state)
  defp replace(state), do: %{state | surplus: state.surplus - 1, target: state.target - 1}

  @doc "One has ended without a connection."
  @spec ended(t, pid, term) :: t
  def ended(state, pid, reason) do
    without_connection(%{state | waiting: Map.delete(state.waiting, pid)}, reason)
  end

  # It was one too many, which counts even if nobody is missed now.
  defp without_connection(state, {:shutdown, :retired}), do: %{state | target: state.target - 1}

  # It is not missed, until the server resumes.
  defp without_connection(%{open: false} = state, _reason), do: state

  # It waited for a socket that has another in its place by now.
  defp without_connection(state, {:shutdown, {:closed, version}}) do
    if version < state.listener.version, do: fill(state), else: state
  end

  # It had one, which was too many.
  defp without_connection(state, {:shutdown, :refused}), do: replace(state)

  # The pool adds one, when it is time.
  defp without_connection(state, reason) do
    Server.AcceptorPool.failed(state.board, self(), reason)
    %{state | target: state.target - 1}
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
    fill(%{state | open: true, target: state.target - state.surplus, surplus: 0})
  end

  @doc "Ends those that wait for something else than the listening socket, in an accept/1 of the module's own."
  @spec sweep(t) :: t
  def sweep(%{open: true} = state), do: state

  def sweep(state) do
    if now() >= state.sweep_at do
      for {pid, true} <- state.waiting, idle?(pid), do: Process.exit(pid, :shutdown)
    end

    later(state)
  end

  defp later(%{waiting: waiting} = state) do
    if map_size(waiting) > 0, do: Process.send_after(self(), :sweep, @sweep)
    state
  end

  # Else it has a connection, or is about to learn that there will be none.
  defp idle?(pid) do
    Process.info(pid, [:status, :message_queue_len]) == [status: :waiting, message_queue_len: 0]
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp fill(state), do: spawn_more(state, state.target - map_size(state.waiting))

  defp spawn_more(state, n) when n <= 0, do: state
  defp spawn_more(state, n), do: state |> spawn_one() |> spawn_more(n - 1)

  defp spawn_one(state) do
    pid = Server.Acceptor.spawn(state.listener, self())
    %{state | waiting: Map.put(state.waiting, pid, true)}
  end
end
