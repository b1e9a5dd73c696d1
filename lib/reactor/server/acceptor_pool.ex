defmodule Reactor.Server.AcceptorPool do
  @moduledoc false

  # Keeps the number of waiting acceptors. One that accepted is replaced by its connection
  # supervisor at once, without asking here; one that failed is replaced from here, later each time,
  # so that nothing spins while, say, no file descriptor is left.

  use GenServer

  require Logger

  alias Reactor.Server
  alias Reactor.Server.ConnectionSupervisor

  # Milliseconds: before the first replacement, before any, and without a failure until the count starts anew.
  @min_delay 10
  @max_delay 1_000
  @calm 5_000

  # `owing` are the supervisors with acceptors that failed.
  defstruct [:board, owing: MapSet.new(), failures: 0, last: nil, timer: nil]

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @doc "Says that an acceptor of this connection supervisor ended without a connection."
  @spec failed(Server.board(), pid, term) :: :ok
  def failed(board, supervisor, reason) do
    case Server.whereis(board, :acceptor_pool) do
      nil -> :ok
      pool -> GenServer.cast(pool, {:failed, supervisor, reason})
    end
  end

  @doc """
  There are to be so many acceptors. Those that are too many end at once with the native transport,
  with another one as they accept.
  """
  @spec resize(pid, pos_integer) :: :ok
  def resize(pool, acceptors), do: GenServer.call(pool, {:resize, acceptors})

  @doc "How long to wait after so many failures in a row, in ms."
  @spec delay(pos_integer) :: pos_integer
  def delay(failures) do
    min(@max_delay, @min_delay * Integer.pow(2, min(failures - 1, 10)))
  end

  @impl true
  def init(board) do
    %{acceptors: acceptors, module: module} = Server.listener(board)
    Server.label(:acceptor_pool, module)
    Server.register(board, :acceptor_pool)

    share(acceptors, board)
    {:ok, %__MODULE__{board: board}}
  end

  # Absolute numbers: after a failure here the supervisors still have theirs. The first ones get one
  # more, if it does not come out even.
  defp share(n, board) do
    partitions = Server.partitions(board)
    {share, rest} = {div(n, length(partitions)), rem(n, length(partitions))}

    for {supervisor, index} <- Enum.with_index(partitions) do
      ConnectionSupervisor.acceptors(supervisor, if(index < rest, do: share + 1, else: share))
    end
  end

  @impl true
  def handle_call({:resize, acceptors}, _from, state) do
    share(acceptors, state.board)
    {:reply, :ok, state}
  end

  @impl true
  def handle_cast({:failed, supervisor, reason}, state) do
    now = System.monotonic_time(:millisecond)
    state = if state.last && now - state.last > @calm, do: %{state | failures: 0}, else: state
    state = %{state | owing: MapSet.put(state.owing, supervisor), last: now}
    {:noreply, schedule(state, reason)}
  end

  # All that fail while one timer runs are one failure: a hundred acceptors see the same EMFILE.
  defp schedule(%{timer: nil} = state, reason) do
    failures = state.failures + 1
    delay = delay(failures)
    %{module: module, port: port} = Server.listener(state.board)
    if failures == 1, do: Server.Reporter.report(state.board, {:accept_error, bare(reason)})

    Logger.error(
      "#{inspect(module)} cannot accept on port #{port}: #{describe(reason)}; next attempt in #{delay} ms",
      port: port
    )

    timer = Process.send_after(self(), :replace, delay)
    %{state | failures: failures, timer: timer}
  end

  defp schedule(state, _reason), do: state

  defp bare({:accept, reason}), do: reason
  defp bare(reason), do: reason

  defp describe({:accept, reason}), do: inspect(reason)
  defp describe(reason), do: Exception.format_exit(reason)

  @impl true
  def handle_info(:replace, state) do
    Enum.each(state.owing, &ConnectionSupervisor.refill/1)
    {:noreply, %{state | owing: MapSet.new(), timer: nil}}
  end

  # It may be a late answer of a call; nothing of a stranger's is worth a restart.
  def handle_info(_message, state), do: {:noreply, state}
end
