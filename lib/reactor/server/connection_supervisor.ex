defmodule Reactor.Server.ConnectionSupervisor do
  @moduledoc false

  # One partition of a server's processes. It spawns acceptors, replaces each as soon as it has
  # accepted, and from then on counts that process as a handler. Nothing else of a native connection
  # passes through here, and a handler costs no more than its link: the links are the list.
  #
  # It answers which_children and count_children as a supervisor does.

  use GenServer

  alias Reactor.{Listener, Server}
  alias Reactor.Server.{Acceptors, Foreign, Permits, Reporter}

  # How long a handler that traps exits has between :shutdown and :kill, in ms.
  @grace 300

  defstruct [
    :listener,
    :board,
    :index,
    :acceptors,
    # The connections that are not native.
    :foreign,
    # With a limit that the transport does not keep.
    :permits,
    # :running, :suspended or :draining.
    mode: :running,
    # How many linked processes are handlers.
    handlers: 0,
    # Started by somebody else, so not linked: pid => monitor.
    monitored: %{},
    # Gave their connection away, and are about to end: pid => true.
    leaving: %{},
    # About to end because of a failure, with native connections: pid => {id, peer}.
    failing: %{},
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

  # --- said by acceptors ----------------------------------------------------------------------

  @doc "It has a native connection."
  @spec accepted(pid, pid) :: :ok
  def accepted(supervisor, acceptor) do
    send(supervisor, {:accepted, acceptor})
    :ok
  end

  @doc "It has another connection, with this id, socket and peer."
  @spec accepted(pid, pid, {pos_integer, Reactor.Transport.socket(), Reporter.remote()}) :: :ok
  def accepted(supervisor, acceptor, connection) do
    send(supervisor, {:accepted, acceptor, connection})
    :ok
  end

  @doc "It will end, and this process is the handler in its place."
  @spec handed_over(pid, pid, pid) :: :ok
  def handed_over(supervisor, acceptor, handler) do
    send(supervisor, {:handed_over, acceptor, handler})
    :ok
  end

  @doc "It is about to close a connection that is not native, because of this, after so many bytes."
  @spec closing(pid, pid, term, non_neg_integer, non_neg_integer) :: :ok
  def closing(supervisor, handler, reason, received, sent) do
    send(supervisor, {:closing, handler, {reason, received, sent}})
    :ok
  end

  @doc "It is about to fail, with this native connection."
  @spec failing(pid, pid, {pos_integer, Reporter.remote()}) :: :ok
  def failing(supervisor, handler, connection) do
    send(supervisor, {:failing, handler, connection})
    :ok
  end

  # --- said by the server ---------------------------------------------------------------------

  @doc "There are to be so many acceptors."
  @spec acceptors(pid, non_neg_integer) :: :ok
  def acceptors(supervisor, n), do: GenServer.cast(supervisor, {:acceptors, n})

  @doc "Acceptors that failed are to be replaced now."
  @spec refill(pid) :: :ok
  def refill(supervisor), do: GenServer.cast(supervisor, :refill)

  @doc "The descriptor has changed."
  @spec changed(pid) :: :ok
  def changed(supervisor), do: GenServer.cast(supervisor, :changed)

  @doc "The listening socket is closed: acceptors end, and are not replaced."
  @spec suspend(pid) :: :ok
  def suspend(supervisor), do: GenServer.cast(supervisor, :suspend)

  @doc "There is a listening socket again."
  @spec resume(pid) :: :ok
  def resume(supervisor), do: GenServer.cast(supervisor, :resume)

  @doc """
  Has no acceptor replaced from now on, and tells `from` when the last process is gone, with
  `{reference, {:drained, ended, cut}}`: how many of the connections that are not native have ever
  ended, and how many of them because they were cut by this drain.
  """
  @spec drain(pid, pid, reference) :: :ok
  def drain(supervisor, from, reference) do
    GenServer.cast(supervisor, {:drain, from, reference})
  end

  @doc "Ends the processes that are left: with :shutdown, and after a while with :kill."
  @spec cut(pid) :: :ok
  def cut(supervisor), do: GenServer.cast(supervisor, :cut)

  @doc """
  How many acceptors wait, how many handlers there are, how many of those have connections that are not
  native, how many such connections there ever were, and how many of them have ended.
  """
  @spec counts(pid) :: %{
          acceptors: non_neg_integer,
          handlers: non_neg_integer,
          foreign: non_neg_integer,
          accepted: non_neg_integer,
          ended: non_neg_integer
        }
  def counts(supervisor), do: GenServer.call(supervisor, :counts)

  @doc "The connections that are not native, as `{id, socket, since, owner}`."
  @spec foreign(pid) :: [{pos_integer, Reactor.Transport.socket(), unix_ms :: integer, pid}]
  def foreign(supervisor), do: GenServer.call(supervisor, :foreign)

  @impl true
  def init({board, index}) do
    Process.flag(:trap_exit, true)
    listener = Server.shared(board)
    Server.label(:connection_supervisor, listener.module)
    Server.register(board, {:partition, index})

    running? = Server.state(board) == :running

    {:ok,
     %__MODULE__{
       board: board,
       index: index,
       listener: listener,
       mode: if(running?, do: :running, else: :suspended),
       acceptors: Acceptors.new(board, listener, running?),
       permits: Permits.start(board, index, listener),
       foreign: Foreign.new(board)
     }}
  end

  @impl true
  def handle_cast({:acceptors, n}, state) do
    {:noreply, %{state | acceptors: Acceptors.set(state.acceptors, n)}}
  end

  def handle_cast(:refill, state) do
    {:noreply, %{state | acceptors: Acceptors.refill(state.acceptors)}}
  end

  def handle_cast(:changed, state), do: {:noreply, change(state)}

  def handle_cast(:suspend, state), do: {:noreply, close(state, :suspended)}

  def handle_cast(:resume, state) do
    state = change(state)
    acceptors = Acceptors.reopen(state.acceptors)
    {:noreply, %{state | mode: :running, drained: nil, acceptors: acceptors}}
  end

  def handle_cast({:drain, from, reference}, state) do
    state = close(%{state | drained: {from, reference}}, :draining)
    Enum.each(handlers(state), &say_drain(&1, state))
    {:noreply, gone(state)}
  end

  def handle_cast(:cut, %{drained: {_from, reference}} = state) do
    Enum.each(pids(state), &Process.exit(&1, :shutdown))
    Process.send_after(self(), {:kill, reference}, @grace)
    {:noreply, %{state | foreign: Foreign.cut(state.foreign)}}
  end

  def handle_cast(:cut, state), do: {:noreply, state}

  defp close(state, mode) do
    %{
      state
      | mode: mode,
        acceptors: Acceptors.close(state.acceptors, mode),
        permits: Permits.close(state.permits)
    }
  end

  defp change(state) do
    %{board: board, index: index, permits: permits, foreign: foreign} = state
    listener = Server.shared(board)
    permits = Permits.change(permits, board, index, listener, Foreign.handlers(foreign))
    acceptors = Acceptors.change(state.acceptors, listener)
    %{state | listener: listener, permits: permits, acceptors: acceptors}
  end

  @impl true
  def handle_call(:counts, _from, state) do
    counts = %{
      acceptors: Acceptors.size(state.acceptors),
      handlers: count(state),
      foreign: Foreign.size(state.foreign),
      accepted: state.foreign.accepted,
      ended: state.foreign.ended
    }

    {:reply, counts, state}
  end

  def handle_call(:foreign, _from, state), do: {:reply, Foreign.list(state.foreign), state}

  def handle_call(:which_children, _from, state) do
    children = for pid <- pids(state), do: {:undefined, pid, :worker, [state.listener.module]}
    {:reply, children, state}
  end

  def handle_call(:count_children, _from, state) do
    n = Acceptors.size(state.acceptors) + map_size(state.leaving) + count(state)
    {:reply, [specs: n, active: n, supervisors: 0, workers: n], state}
  end

  @impl true
  def handle_info({:accepted, pid}, state), do: {:noreply, handler(state, pid)}

  def handle_info({:accepted, pid, connection}, state) do
    state = %{
      state
      | foreign: Foreign.opened(state.foreign, pid, connection),
        permits: Permits.opened(state.permits, pid)
    }

    {:noreply, handler(state, pid)}
  end

  def handle_info({:handed_over, acceptor, pid}, state) do
    state = %{
      state
      | # One process may be given many.
        monitored: Map.put_new_lazy(state.monitored, pid, fn -> Process.monitor(pid) end),
        leaving: Map.put(state.leaving, acceptor, true),
        handlers: state.handlers - 1,
        foreign: Foreign.moved(state.foreign, acceptor, pid),
        permits: Permits.moved(state.permits, acceptor, pid)
    }

    if state.mode == :draining, do: say_drain(pid, state)
    {:noreply, state}
  end

  def handle_info({:closing, pid, how}, state) do
    {:noreply, %{state | foreign: Foreign.closing(state.foreign, pid, how)}}
  end

  def handle_info({:failing, pid, connection}, state) do
    {:noreply, put_in(state.failing[pid], connection)}
  end

  def handle_info({:permit, pid, overload}, state) do
    permits = Permits.asked(state.permits, pid, overload)
    permits = if state.mode == :running, do: permits, else: Permits.close(permits)
    {:noreply, %{state | permits: permits}}
  end

  def handle_info(:permits, state),
    do: {:noreply, %{state | permits: Permits.serve(state.permits)}}

  def handle_info(:sweep, state) do
    {:noreply, %{state | acceptors: Acceptors.sweep(state.acceptors)}}
  end

  def handle_info({:EXIT, pid, _reason}, state) when is_map_key(state.leaving, pid) do
    {:noreply, gone(%{state | leaving: Map.delete(state.leaving, pid)})}
  end

  def handle_info({:EXIT, pid, reason}, state) do
    if Acceptors.waits?(pid) do
      permits = Permits.returned(state.permits, pid)
      acceptors = Acceptors.ended(state.acceptors, pid, reason)
      {:noreply, gone(%{state | acceptors: acceptors, permits: permits})}
    else
      {:noreply, %{state | handlers: state.handlers - 1} |> ended(pid, reason) |> gone()}
    end
  end

  def handle_info({:DOWN, _monitor, :process, pid, reason}, state) do
    state = %{state | monitored: Map.delete(state.monitored, pid)}
    {:noreply, state |> ended(pid, reason) |> gone()}
  end

  # That of another drain comes too late.
  def handle_info({:kill, reference}, %{drained: {_from, reference}} = state) do
    Enum.each(pids(state), &Process.exit(&1, :kill))
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  # What `env` and `secure` hold is for nobody's log, and Erlang's formatters know no Inspect.
  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)

  @spec format_status(map) :: map
  def format_status(%{state: %__MODULE__{} = state} = status) do
    listener = Listener.hide(state.listener)
    acceptors = Acceptors.change(state.acceptors, listener)
    %{status | state: %{state | listener: listener, acceptors: acceptors}}
  end

  def format_status(status), do: status

  # The server's Drain has been here before, unless something failed.
  @impl true
  def terminate(_reason, state) do
    Enum.each(pids(state), &Process.exit(&1, :shutdown))
    timer = Process.send_after(self(), :kill, @grace)
    await(state, Acceptors.size(state.acceptors) + map_size(state.leaving) + count(state))
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

  # --- handlers -------------------------------------------------------------------------------

  defp handler(%{acceptors: acceptors, handlers: handlers} = state, pid) do
    # Accepted just before the listening socket was closed.
    if state.mode == :draining, do: say_drain(pid, state)
    %{state | acceptors: Acceptors.accepted(acceptors, pid), handlers: handlers + 1}
  end

  defp count(state), do: state.handlers + map_size(state.monitored)

  # The common case: a native connection, and nothing to tell.
  defp ended(%{permits: nil, foreign: %{connections: none}} = state, _pid, :normal)
       when map_size(none) == 0,
       do: state

  defp ended(state, pid, reason) do
    {connection, failing} = Map.pop(state.failing, pid)
    foreign = Foreign.ended(state.foreign, pid, reason, connection)
    permits = Permits.returned(state.permits, pid)
    %{state | foreign: foreign, permits: permits, failing: failing}
  end

  defp say_drain(pid, %{listener: listener}) do
    if listener.going_away, do: send(pid, {Reactor, :going_away})
    listener.transport.drain_handler(pid, listener)
  end

  defp handlers(state) do
    Enum.reject(pids(state), &(Acceptors.waits?(&1) or is_map_key(state.leaving, &1)))
  end

  # All of them: the links of this process are its parent and what it spawned.
  defp pids(state) do
    {:links, links} = Process.info(self(), :links)
    parent = hd(Process.get(:"$ancestors"))
    spawned = for pid <- links, is_pid(pid), pid != parent, pid != whereis(parent), do: pid
    spawned ++ Map.keys(state.monitored)
  end

  defp whereis(name) when is_atom(name), do: Process.whereis(name)
  defp whereis(_pid), do: nil

  defp gone(%{drained: {from, reference}} = state) do
    if count(state) == 0 and Acceptors.size(state.acceptors) == 0 do
      %{ended: ended, cut: cut} = state.foreign
      send(from, {reference, {:drained, ended, cut || 0}})
      %{state | mode: :suspended, drained: nil, foreign: Foreign.drained(state.foreign)}
    else
      state
    end
  end

  defp gone(state), do: state
end
