defmodule Reactor.Server.Drain do
  @moduledoc false

  # The last child of a server, so the first to stop: it ends the server's connections in order.
  # Nothing is accepted any more, idle connections are closed, the others have `drain_timeout` to
  # finish; then their handlers are shut down, and killed if they do not obey.

  use GenServer

  alias Reactor.Server

  # Of a handler that was killed the end is awaited, in ms. It is above the supervisors' own grace.
  @grace 600

  # What OTP takes to stop a VM that has nothing to stop, in ms.
  @vm_stop 1_000

  @registry Reactor.Drains

  defstruct [
    :board,
    # Who has still to say that it is drained, as {pid, monitor}; nil before draining begins.
    waiting: nil
  ]

  @spec child_spec(Server.board()) :: Supervisor.child_spec()
  def child_spec(board) do
    # terminate/2 is bounded by itself, and by what Reactor.stop/2 says.
    %{id: __MODULE__, start: {__MODULE__, :start_link, [board]}, shutdown: :infinity}
  end

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "The application's child that lets all servers of a VM that stops drain at the same time."
  @spec registry() :: Supervisor.child_spec() | {module, keyword}
  def registry, do: {Registry, keys: :duplicate, name: @registry}

  @impl true
  def init(board) do
    Process.flag(:trap_exit, true)
    {:ok, _} = Registry.register(@registry, :drain, nil)
    {:ok, %__MODULE__{board: board}}
  end

  @impl true
  def handle_info(:vm_stops, %{waiting: nil} = state), do: {:noreply, start(state)}

  def handle_info({reference, :drained}, state), do: {:noreply, drained(state, reference)}

  def handle_info({:DOWN, reference, _, _, _}, state), do: {:noreply, drained(state, reference)}

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # Without its table the server did not stop: it was killed, and its processes end with it.
    if :ets.info(state.board) == :undefined, do: reason, else: drain(state)
  end

  defp drain(state) do
    if vm_stops?(), do: tell_others()
    listener = Server.listener(state.board)
    deadline = now() + budget(listener.drain_timeout)

    state = if state.waiting, do: state, else: start(state)
    left = await(state.waiting, deadline)

    # A Python context cuts its connections itself.
    if listener.python == nil do
      for {supervisor, _reference} <- left, do: Server.ConnectionSupervisor.cut(supervisor)
    end

    await(left, now() + @grace)
    :ok
  end

  defp start(state) do
    # Without its listening socket the server is not stopping, but starting anew after a failure.
    case Server.whereis(state.board, :listening_socket) do
      nil ->
        %{state | waiting: []}

      listening_socket ->
        Server.ListeningSocket.drain(listening_socket)
        %{state | waiting: state.board |> Server.listener() |> ask(state.board)}
    end
  end

  defp ask(%{python: nil}, board) do
    for supervisor <- Server.partitions(board) do
      reference = Process.monitor(supervisor)
      Server.ConnectionSupervisor.drain(supervisor, reference)
      {supervisor, reference}
    end
  end

  defp ask(listener, board) do
    timeout = budget(listener.drain_timeout)

    for context <- contexts(Server.whereis(board, :contexts)) do
      reference = Process.monitor(context)
      Reactor.Python.Context.drain(context, reference, timeout)
      {context, reference}
    end
  end

  defp contexts(nil), do: []
  defp contexts(supervisor), do: Reactor.Python.Supervisor.contexts(supervisor)

  # Who has not answered at the deadline.
  defp await([], _deadline), do: []

  defp await(waiting, deadline) do
    receive do
      {reference, :drained} -> waiting |> List.keydelete(reference, 1) |> await(deadline)
      {:DOWN, reference, _, _, _} -> waiting |> List.keydelete(reference, 1) |> await(deadline)
    after
      max(deadline - now(), 0) -> waiting
    end
  end

  defp drained(%{waiting: nil} = state, _reference), do: state

  defp drained(state, reference) do
    %{state | waiting: List.keydelete(state.waiting, reference, 1)}
  end

  # --- when the VM stops ----------------------------------------------------------------------

  # A supervisor stops its children one after the other. When the whole VM stops, the servers
  # share the time of one, so that ten do not take ten times as long: the first to stop tells
  # the others to begin. Of that time the VM needs some itself: from System.stop/1 to the end no more
  # than the timeout should pass.
  defp budget(timeout) do
    if vm_stops?() do
      max(timeout - @vm_stop - (now() - stopping_since()), 0)
    else
      timeout
    end
  end

  defp vm_stops?, do: match?({:stopping, _}, :init.get_status())

  defp tell_others do
    # The registry is gone when the servers of Reactor.start/2 stop last: those begin together.
    if Process.whereis(@registry) do
      for {pid, nil} <- Registry.lookup(@registry, :drain),
          pid != self(),
          do: send(pid, :vm_stops)
    end
  end

  defp stopping_since do
    case :persistent_term.get(__MODULE__, nil) do
      nil ->
        now = now()
        :persistent_term.put(__MODULE__, now)
        now

      since ->
        since
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
