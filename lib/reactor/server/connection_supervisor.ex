defmodule Reactor.Server.ConnectionSupervisor do
  @moduledoc false

  # One partition of a server's processes. It spawns acceptors, replaces each as soon as it has
  # accepted, and from then on counts that process as a handler. Nothing else of a connection
  # passes through here, and a handler costs no more than its link: the links are the list.
  #
  # It answers which_children and count_children as a supervisor does.

  use GenServer

  alias Reactor.Server

  # How long a handler that traps exits has between :shutdown and :kill, in ms.
  @grace 300

  defstruct [
    :listener,
    :board,
    # Started by somebody else, so not linked: pid => monitor.
    monitored: %{},
    # Waiting in accept/1: pid => true.
    acceptors: %{},
    # Gave their connection away, and are about to end: pid => true.
    leaving: %{},
    # How many linked processes are handlers.
    handlers: 0,
    # Who waits for the last handler, as {pid, reference}.
    drained: nil
  ]

  @spec child_spec({Server.board(), pos_integer}) :: Supervisor.child_spec()
  def child_spec({_board, index} = init) do
    %{
      id: {__MODULE__, index},
      start: {__MODULE__, :start_link, [init]},
      type: :supervisor,
      # terminate/2 is bounded by itself.
      shutdown: :infinity
    }
  end

  @spec start_link({Server.board(), pos_integer}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc "Starts so many more acceptors."
  @spec start_acceptors(pid, pos_integer) :: :ok
  def start_acceptors(supervisor, n), do: GenServer.cast(supervisor, {:start_acceptors, n})

  @doc "Said by an acceptor that has a connection."
  @spec accepted(pid, pid) :: :ok
  def accepted(supervisor, acceptor) do
    send(supervisor, {:accepted, acceptor})
    :ok
  end

  @doc "Said by an acceptor, which will end, of the process that is the handler in its place."
  @spec handed_over(pid, pid, pid) :: :ok
  def handed_over(supervisor, acceptor, handler) do
    send(supervisor, {:handed_over, acceptor, handler})
    :ok
  end

  @spec counts(pid) :: %{acceptors: non_neg_integer, handlers: non_neg_integer}
  def counts(supervisor), do: GenServer.call(supervisor, :counts)

  @doc """
  Has no acceptor replaced from now on, and tells the caller when the last process is gone, with
  `{reference, :drained}`.
  """
  @spec drain(pid, reference) :: :ok
  def drain(supervisor, reference) do
    send(supervisor, {:drain, self(), reference})
    :ok
  end

  @doc "Ends the processes that are left: with :shutdown, and after a while with :kill."
  @spec cut(pid) :: :ok
  def cut(supervisor) do
    send(supervisor, :cut)
    :ok
  end

  @impl true
  def init({board, index}) do
    Process.flag(:trap_exit, true)
    Server.register(board, {:partition, index})
    {:ok, %__MODULE__{board: board, listener: Server.listener(board)}}
  end

  @impl true
  def handle_cast({:start_acceptors, n}, %{drained: nil} = state) do
    {:noreply, Enum.reduce(1..n, state, fn _, state -> spawn_acceptor(state) end)}
  end

  def handle_cast({:start_acceptors, _n}, state), do: {:noreply, state}

  @impl true
  def handle_call(:counts, _from, state) do
    {:reply, %{acceptors: map_size(state.acceptors), handlers: count(state)}, state}
  end

  def handle_call(:which_children, _from, state) do
    children = for pid <- pids(state), do: {:undefined, pid, :worker, [state.listener.module]}
    {:reply, children, state}
  end

  def handle_call(:count_children, _from, state) do
    n = map_size(state.acceptors) + map_size(state.leaving) + count(state)
    {:reply, [specs: n, active: n, supervisors: 0, workers: n], state}
  end

  @impl true
  def handle_info({:accepted, pid}, %{drained: nil} = state) do
    {:noreply, state |> handler(pid) |> spawn_acceptor()}
  end

  def handle_info({:accepted, pid}, state) do
    state.listener.transport.drain_handler(pid, state.listener)
    {:noreply, handler(state, pid)}
  end

  def handle_info({:handed_over, acceptor, pid}, state) do
    state = put_in(state.monitored[pid], Process.monitor(pid))
    leaving = Map.put(state.leaving, acceptor, true)
    {:noreply, %{state | leaving: leaving, handlers: state.handlers - 1}}
  end

  def handle_info({:EXIT, pid, _reason}, state) when is_map_key(state.leaving, pid) do
    {:noreply, gone(%{state | leaving: Map.delete(state.leaving, pid)})}
  end

  def handle_info({:EXIT, pid, reason}, state) when is_map_key(state.acceptors, pid) do
    # Without a connection: :normal if the listener is closed, else it failed.
    if reason != :normal and state.drained == nil do
      Server.AcceptorPool.failed(state.board, self(), reason)
    end

    {:noreply, gone(%{state | acceptors: Map.delete(state.acceptors, pid)})}
  end

  def handle_info({:EXIT, _pid, _reason}, state) do
    {:noreply, gone(%{state | handlers: state.handlers - 1})}
  end

  def handle_info({:DOWN, _monitor, :process, pid, _reason}, state) do
    {:noreply, gone(%{state | monitored: Map.delete(state.monitored, pid)})}
  end

  def handle_info({:drain, from, reference}, state) do
    state = %{state | drained: {from, reference}}
    Enum.each(pids(state), &state.listener.transport.drain_handler(&1, state.listener))
    {:noreply, gone(state)}
  end

  def handle_info(:cut, state) do
    Enum.each(pids(state), &Process.exit(&1, :shutdown))
    Process.send_after(self(), :kill, @grace)
    {:noreply, state}
  end

  def handle_info(:kill, state) do
    Enum.each(pids(state), &Process.exit(&1, :kill))
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  # The server's Drain has been here before, unless something failed.
  @impl true
  def terminate(_reason, state) do
    Enum.each(pids(state), &Process.exit(&1, :shutdown))
    timer = Process.send_after(self(), :kill, @grace)
    await(state, map_size(state.acceptors) + map_size(state.leaving) + count(state))
    Process.cancel_timer(timer)
    :ok
  end

  defp await(_state, left) when left <= 0, do: :ok

  defp await(state, left) do
    receive do
      {:EXIT, _pid, _reason} ->
        await(state, left - 1)

      {:DOWN, _monitor, :process, _pid, _reason} ->
        await(state, left - 1)

      {:handed_over, _acceptor, pid} ->
        state = put_in(state.monitored[pid], Process.monitor(pid))
        Process.exit(pid, :shutdown)
        await(state, left + 1)

      :kill ->
        Enum.each(pids(state), &Process.exit(&1, :kill))
        await(state, left)
    end
  end

  defp spawn_acceptor(state) do
    pid = Server.Acceptor.spawn(state.listener, self())
    put_in(state.acceptors[pid], true)
  end

  defp handler(%{acceptors: acceptors, handlers: handlers} = state, pid) do
    %{state | acceptors: Map.delete(acceptors, pid), handlers: handlers + 1}
  end

  defp count(state), do: state.handlers + map_size(state.monitored)

  # All of them: the links of this process are its parent and what it spawned.
  defp pids(state) do
    {:links, links} = Process.info(self(), :links)
    parent = hd(Process.get(:"$ancestors"))
    spawned = for pid <- links, is_pid(pid), pid != parent, pid != whereis(parent), do: pid
    spawned ++ Map.keys(state.monitored)
  end

  defp whereis(name) when is_atom(name), do: Process.whereis(name)
  defp whereis(_pid), do: nil

  defp gone(%{drained: {from, reference}, acceptors: acceptors} = state)
       when map_size(acceptors) == 0 do
    if count(state) == 0, do: send(from, {reference, :drained})
    state
  end

  defp gone(state), do: state
end
