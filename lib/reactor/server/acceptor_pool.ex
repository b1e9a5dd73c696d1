defmodule Reactor.Server.AcceptorPool do
  @moduledoc false

  # Keeps the number of waiting acceptors. One that accepted is replaced by its connection
  # supervisor at once, without asking here; one that failed is replaced from here, later each time,
  # so that nothing spins while, say, no file descriptor is left.

  use GenServer

  require Logger

  alias Reactor.Server

  # Milliseconds: before the first replacement, before any, and without a failure until the count starts anew.
  @min_delay 10
  @max_delay 1_000
  @calm 5_000

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

  @doc "How long to wait after so many failures in a row, in ms."
  @spec delay(pos_integer) :: pos_integer
  def delay(failures) do
    min(@max_delay, @min_delay * Integer.pow(2, min(failures - 1, 10)))
  end

  @impl true
  def init(board) do
    Server.register(board, :acceptor_pool)
    %{acceptors: acceptors} = Server.listener(board)
    partitions = Server.partitions(board)
    share = div(acceptors, length(partitions))
    rest = rem(acceptors, length(partitions))

    for {supervisor, index} <- Enum.with_index(partitions) do
      extra = if index < rest, do: 1, else: 0
      Server.ConnectionSupervisor.start_acceptors(supervisor, share + extra)
    end

    {:ok, %{board: board, waiting: [], failures: 0, last: nil, timer: nil}}
  end

  @impl true
  def handle_cast({:failed, supervisor, reason}, state) do
    now = System.monotonic_time(:millisecond)
    state = if state.last && now - state.last > @calm, do: %{state | failures: 0}, else: state
    state = %{state | waiting: [supervisor | state.waiting], last: now}
    {:noreply, schedule(state, reason)}
  end

  # All that fail while one timer runs are one failure: a hundred acceptors see the same EMFILE.
  defp schedule(%{timer: nil} = state, reason) do
    failures = state.failures + 1
    delay = delay(failures)
    %{module: module, port: port} = Server.listener(state.board)

    Logger.error(
      "#{inspect(module)} cannot accept on port #{port}: #{describe(reason)}; next attempt in #{delay} ms"
    )

    timer = Process.send_after(self(), :replace, delay)
    %{state | failures: failures, timer: timer}
  end

  defp schedule(state, _reason), do: state

  defp describe({:accept, reason}), do: inspect(reason)
  defp describe(reason), do: Exception.format_exit(reason)

  @impl true
  def handle_info(:replace, state) do
    for {supervisor, n} <- Enum.frequencies(state.waiting) do
      Server.ConnectionSupervisor.start_acceptors(supervisor, n)
    end

    {:noreply, %{state | waiting: [], timer: nil}}
  end
end
