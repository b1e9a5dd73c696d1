defmodule Reactor.Server.Drain do
  @moduledoc false

  # Ends the connections of a server in order: for `Reactor.drain/2`, and when the server stops, since
  # it is the last child and so the first to stop. Nothing is accepted any more, idle connections are
  # closed, the others have a time to finish; then they are cut, their handlers shut down, and
  # killed if they do not obey.
  #
  # A drain that runs is a state, not a call that waits: so the server can still be stopped, and the
  # drain goes on from where it is, with less time.

  use GenServer

  alias Reactor.{Native, Server, Transport}
  alias Reactor.Server.{ConnectionSupervisor, ListeningSocket, Reporter}

  # For what is left after the cut, in ms. It is above the supervisors' own grace.
  @grace 600

  # What OTP takes to stop a VM that has nothing to stop, in ms.
  @vm_stop 1_000

  @registry Reactor.Drains

  # Until it looks again for a registry that is not there, in ms.
  @pause 100

  # `drain` is nil, or
  #
  #   waiting    who has still to say that it is drained: {partition, monitor, ended} with how many of its
  #              connections had ended when it began, or {:loops, socket, closed}
  #   deadline   when what is left is cut, or, once that has been done, given up; in ms, or :infinity
  #   phase      :waiting, then :cutting
  #   ended, cut   connections since it began, as told by those who are drained
  #   callers    of Reactor.drain/2
  defstruct [:board, drain: nil]

  @type counts :: %{
          connections: non_neg_integer,
          finished: non_neg_integer,
          cut: non_neg_integer
        }

  @spec child_spec(Server.board()) :: Supervisor.child_spec()
  def child_spec(board) do
    # terminate/2 is bounded by itself, and by what Reactor.stop/2 says.
    %{id: __MODULE__, start: {__MODULE__, :start_link, [board]}, shutdown: :infinity}
  end

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "The application's child that lets all servers of a VM that stops drain at the same time."
  @spec registry() :: Supervisor.child_spec()
  def registry, do: %{id: @registry, start: {:pg, :start_link, [@registry]}}

  @doc """
  Drains the server, and leaves it suspended. Who comes while it drains joins in; the shorter
  timeout counts. Exits if the server does not run.
  """
  @spec drain(Server.board(), timeout) :: counts
  def drain(board, timeout) do
    case Server.whereis(board, :drain) do
      nil -> exit({:noproc, {__MODULE__, :drain, [board, timeout]}})
      pid -> GenServer.call(pid, {:drain, timeout}, :infinity)
    end
  end

  @impl true
  def init(board) do
    Process.flag(:trap_exit, true)
    Server.label(:drain, Server.listener(board).module)
    join()
    Server.register(board, :drain)
    # One before this, that failed, may have begun.
    with pid when is_pid(pid) <- listening_socket(board), do: ListeningSocket.drained(pid)
    {:ok, %__MODULE__{board: board}}
  end

  # The registry starts anew if it fails: nobody's connections depend on it.
  defp join do
    Process.monitor(@registry)
    :ok = :pg.join(@registry, :drain, self())
  catch
    # The monitor says so too.
    :exit, _noproc -> :ok
  end

  # --- while the server runs ------------------------------------------------------------------

  @impl true
  def handle_call({:drain, timeout}, from, state) do
    state |> event({:drain, from, timeout}) |> wait()
  end

  @impl true
  def handle_info(:vm_stops, state) do
    state |> begin(budget(state.board)) |> wait()
  end

  def handle_info(:join, state) do
    join()
    wait(state)
  end

  def handle_info({:DOWN, _, :process, {@registry, _node}, _reason}, state) do
    Process.send_after(self(), :join, @pause)
    wait(state)
  end

  def handle_info(message, state), do: state |> event(message) |> wait()

  # The timeout of a GenServer is that of the phase: any message starts it anew, with what is left.
  defp wait(%{drain: nil} = state), do: {:noreply, state}
  defp wait(%{drain: %{waiting: []}} = state), do: state |> finish() |> wait()

  defp wait(%{drain: %{deadline: deadline}} = state) do
    case left(deadline) do
      0 -> state |> expire() |> wait()
      left -> {:noreply, state, left}
    end
  end

  # --- when it stops --------------------------------------------------------------------------

  @impl true
  def terminate(reason, state) do
    cond do
      # Without its table the server did not stop: it was killed, and its processes end with it.
      :ets.info(state.board) == :undefined -> reason
      Server.whole?(state.board) -> stop(state)
      true -> reason
    end
  end

  defp stop(state) do
    if vm_stops?(), do: tell_others()
    state |> begin(budget(state.board)) |> await()
    stop_contexts(Server.contexts(state.board))
  end

  defp await(%{drain: nil} = state), do: state
  defp await(%{drain: %{waiting: []}} = state), do: finish(state)

  defp await(%{drain: %{deadline: deadline}} = state) do
    receive do
      {:"$gen_call", from, {:drain, timeout}} ->
        state |> event({:drain, from, timeout}) |> await()

      message ->
        state |> event(message) |> await()
    after
      left(deadline) -> state |> expire() |> await()
    end
  end

  # Their connections are gone. Until their threads have ended too the server has not.
  defp stop_contexts(contexts) do
    waiting =
      for context <- contexts do
        reference = Process.monitor(context)
        Reactor.Python.Context.drain(context, reference, 0)
        reference
      end

    deadline = now() + @grace

    for reference <- waiting do
      receive do
        {^reference, :drained} -> :ok
        {:DOWN, ^reference, _, _, _} -> :ok
      after
        left(deadline) -> :ok
      end
    end

    :ok
  end

  # --- a drain --------------------------------------------------------------------------------

  defp event(state, {:drain, from, timeout}) do
    running? = state.drain == nil and Server.state(state.board) == :running
    state = begin(state, timeout)
    if running?, do: Reporter.report(state.board, :suspended)
    update_in(state.drain.callers, &[from | &1])
  end

  defp event(%{drain: nil} = state, _message), do: state

  defp event(state, {reference, {:drained, ended, cut}}) do
    Process.demonitor(reference, [:flush])
    drained(state, reference, ended, cut)
  end

  # What was cut of these has been counted then.
  defp event(state, {:"$reactor_drained", socket}) do
    drained(state, socket, Native.listener_info(socket).closed, 0)
  end

  defp event(state, {:DOWN, reference, _, _, _}) do
    update_in(state.drain.waiting, &List.keydelete(&1, reference, 1))
  end

  defp event(state, _message), do: state

  defp drained(%{drain: drain} = state, reference, ended, cut) do
    case List.keytake(drain.waiting, reference, 1) do
      {{_who, _reference, before}, waiting} ->
        {ended, cut} = {drain.ended + ended - before, drain.cut + cut}
        %{state | drain: %{drain | waiting: waiting, ended: ended, cut: cut}}

      nil ->
        state
    end
  end

  # One that has begun has no more time than the newcomer gives it.
  defp begin(%{drain: %{phase: :waiting} = drain} = state, timeout) do
    %{state | drain: %{drain | deadline: min(drain.deadline, deadline(timeout))}}
  end

  defp begin(%{drain: %{}} = state, _timeout), do: state

  defp begin(%{board: board} = state, timeout) do
    listener = Server.listener(board)

    drain = %{
      waiting: [],
      deadline: deadline(timeout),
      phase: :waiting,
      ended: 0,
      cut: 0,
      callers: []
    }

    # Without it the server is about to start anew.
    case listening_socket(board) do
      nil -> %{state | drain: drain}
      pid -> %{state | drain: begin(drain, listener, pid, board, timeout)}
    end
  end

  defp begin(drain, listener, listening_socket, board, timeout) do
    connections = connections(listener, board)
    Reporter.report(board, {:drain_started, %{connections: connections, timeout: timeout}})
    partitions = Enum.map(Server.partitions(board), &partition/1)
    loops = loops(listener)
    ListeningSocket.drain(listening_socket, partitions)
    for {:loops, socket, _closed} <- loops, do: Native.listener_await(socket)
    %{drain | waiting: loops ++ partitions}
  end

  # One that dies meanwhile is told of by its monitor.
  defp partition(pid) do
    monitor = Process.monitor(pid)
    {pid, monitor, ended(pid)}
  end

  defp ended(pid) do
    ConnectionSupervisor.counts(pid).ended
  catch
    :exit, _reason -> 0
  end

  # It is only told: a drain does not fail for it.
  defp connections(listener, board) do
    Server.counts(listener, board).connections
  catch
    :exit, _reason -> 0
  end

  # The loops know more than the handlers: what is still to be written after a handler's end, and
  # the connections of Python.
  defp loops(%{transport: Transport.Native, socket: socket}) do
    [{:loops, socket, Native.listener_info(socket).closed}]
  end

  defp loops(_listener), do: []

  # The time is over, the first time that to finish, the second time that to obey.
  defp expire(%{drain: %{phase: :waiting} = drain} = state) do
    cut = drain.waiting |> Enum.map(&cut/1) |> Enum.sum()
    drain = %{drain | phase: :cutting, deadline: deadline(@grace), cut: drain.cut + cut}
    %{state | drain: drain}
  end

  defp expire(%{drain: drain} = state) do
    ended = drain.waiting |> Enum.map(&given_up/1) |> Enum.sum()
    %{state | drain: %{drain | waiting: [], ended: drain.ended + ended}}
  end

  # How many have ended, or will: what is cut and cannot end yet, since its context hangs, is nobody's any more.
  defp given_up({:loops, socket, closed}) do
    info = Native.listener_info(socket)
    info.closed - closed + info.connections
  end

  defp given_up(_partition), do: 0

  # How many are cut; a partition says that later.
  defp cut({:loops, socket, _closed}), do: Native.listener_cut(socket)

  defp cut({partition, _reference, _ended}) do
    ConnectionSupervisor.cut(partition)
    0
  end

  defp finish(%{drain: %{ended: ended, cut: cut} = drain, board: board} = state) do
    # Of what was cut some may not have ended yet.
    connections = max(ended, cut)
    counts = %{connections: connections, finished: connections - cut, cut: cut}
    with pid when is_pid(pid) <- listening_socket(board), do: ListeningSocket.drained(pid)
    Reporter.report(board, {:drain_stopped, counts})
    Enum.each(drain.callers, &GenServer.reply(&1, counts))
    %{state | drain: nil}
  end

  defp listening_socket(board), do: Server.whereis(board, :listening_socket)

  # --- time -----------------------------------------------------------------------------------

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: now() + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  # A supervisor stops its children one after the other. When the whole VM stops, the servers
  # share the time of one, so that ten do not take ten times as long: the first to stop tells
  # the others to begin. Of that time the VM needs some itself: from System.stop/1 to the end no more
  # than the timeout should pass.
  defp budget(board) do
    timeout = Server.stop_timeout(board)

    if vm_stops?() do
      max(timeout - @vm_stop - (now() - stopping_since()), 0)
    else
      timeout
    end
  end

  defp vm_stops?, do: match?({:stopping, _}, :init.get_status())

  defp tell_others do
    if Process.whereis(@registry) do
      for pid <- :pg.get_local_members(@registry, :drain),
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
