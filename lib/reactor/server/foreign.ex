defmodule Reactor.Server.Foreign do
  @moduledoc false

  # What a connection supervisor knows of the connections that the loops do not know: those of other
  # transports, and those that a module's own accept/1 brings. The loops count and report theirs
  # themselves; these are counted here, and reported if somebody listens.

  alias Reactor.{Server, Transport}
  alias Reactor.Server.Reporter

  defstruct [
    :board,
    # handler => what is known of its connections, of which it may be given many
    connections: %{},
    # How many there ever were, and how many of them have ended.
    accepted: 0,
    ended: 0,
    # In a drain: how many there were when it was time to cut them; nil until then.
    cut: nil
  ]

  @type t :: %__MODULE__{}

  @spec new(Server.board()) :: t
  def new(board), do: %__MODULE__{board: board}

  @spec size(t) :: non_neg_integer
  def size(%{accepted: accepted, ended: ended}), do: accepted - ended

  @doc "Who has them, once for each."
  @spec handlers(t) :: [pid]
  def handlers(%{connections: connections}) do
    for {handler, own} <- connections, _connection <- own, do: handler
  end

  @spec list(t) :: [{id :: pos_integer, Transport.socket(), since :: integer, pid}]
  def list(%{connections: connections}) do
    for {handler, own} <- connections, connection <- own do
      {connection.id, connection.socket, connection.since, handler}
    end
  end

  @spec opened(t, pid, {pos_integer, Transport.socket(), Reporter.remote()}) :: t
  def opened(state, handler, {id, socket, remote}) do
    since = System.os_time(:millisecond)
    Reporter.report(state.board, {:opened, id, remote, since})

    connection = %{
      id: id,
      socket: socket,
      remote: remote,
      since: since,
      began: System.monotonic_time(:nanosecond),
      # As {reason, received, sent}, once its handler has said so.
      end: nil
    }

    connections = Map.update(state.connections, handler, [connection], &[connection | &1])
    %{state | connections: connections, accepted: state.accepted + 1}
  end

  @doc "The handler is about to close it: the last time that somebody can tell how much it received and sent."
  @spec closing(t, pid, {reason :: term, received :: non_neg_integer, sent :: non_neg_integer}) ::
          t
  def closing(%{connections: connections} = state, handler, how) do
    case connections do
      # One that closes itself has no other.
      %{^handler => [connection]} ->
        %{state | connections: %{connections | handler => [%{connection | end: how}]}}

      _others ->
        state
    end
  end

  @doc "Another process is the handler now."
  @spec moved(t, pid, pid) :: t
  def moved(state, from, to) do
    case Map.pop(state.connections, from) do
      {nil, _connections} -> state
      {own, others} -> %{state | connections: Map.update(others, to, own, &(own ++ &1))}
    end
  end

  @doc """
  A handler is gone, and its connections with it. That may be a native one, of which `known` is what is
  known, or nil.
  """
  @spec ended(t, pid, term, {pos_integer, Reporter.remote()} | nil) :: t
  def ended(%{connections: connections} = state, handler, reason, known) do
    case Map.pop(connections, handler) do
      {nil, _connections} ->
        failed(state, known || {nil, nil}, handler, reason)
        state

      {[%{id: id, remote: remote} | _] = own, others} ->
        failed(state, {id, remote}, handler, reason)
        Enum.each(own, &closed(state, &1, why(&1, reason, state)))
        %{state | connections: others, ended: state.ended + length(own)}
    end
  end

  defp failed(_state, _connection, _handler, :normal), do: :ok

  defp failed(state, {id, remote}, handler, reason) do
    Reporter.report(state.board, {:handler_exit, id, remote, handler, reason})
  end

  defp closed(state, connection, {reason, received, sent}) do
    duration = System.monotonic_time(:nanosecond) - connection.began

    Reporter.report(
      state.board,
      {:closed, connection.id, connection.remote, reason, received, sent, duration}
    )
  end

  defp why(%{end: {_why, _received, _sent} = how}, _reason, _state), do: how
  defp why(_connection, _reason, %{cut: cut}) when cut != nil, do: {:cut, 0, 0}
  defp why(_connection, :normal, _state), do: {:local, 0, 0}
  defp why(_connection, _failure, _state), do: {:owner_down, 0, 0}

  @doc "It is time to end those that there are."
  @spec cut(t) :: t
  def cut(state), do: %{state | cut: size(state)}

  @doc "They are gone."
  @spec drained(t) :: t
  def drained(state), do: %{state | cut: nil}
end
