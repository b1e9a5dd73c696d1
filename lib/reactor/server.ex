defmodule Reactor.Server do
  @moduledoc false

  # The supervision tree of one listener, rest_for_one:
  #
  #   Reactor.Server.ListeningSocket          owns the listening socket
  #   for Elixir:
  #     Reactor.Server.ConnectionSupervisor   one per partition: spawns acceptors, knows handlers
  #     Reactor.Server.AcceptorPool           how many wait, and when a failed one is replaced
  #   for Python:
  #     Reactor.Python.Supervisor             the contexts
  #   Reactor.Server.Drain                    last, so it stops first
  #
  # The children find each other in a table that this supervisor owns: asking the supervisor itself
  # would deadlock while it starts or stops them.

  use Supervisor

  alias Reactor.{Listener, Server}

  @type board :: :ets.tid()

  @spec start_link(Listener.t()) :: {:ok, pid} | {:error, term}
  def start_link(%Listener{} = listener) do
    options = if listener.name, do: [name: listener.name], else: []

    case Supervisor.start_link(__MODULE__, listener, options) do
      {:ok, pid} -> {:ok, pid}
      {:error, reason} -> {:error, cause(reason)}
    end
  end

  @impl true
  def init(listener) do
    board = :ets.new(:reactor_server, [:set, :public, read_concurrency: true])
    :ets.insert(board, {:listener, listener})

    children =
      [{Server.ListeningSocket, board}] ++
        handlers(listener, board) ++
        [{Server.Drain, board}]

    Supervisor.init(children, strategy: :rest_for_one)
  end

  defp handlers(%{python: nil} = listener, board) do
    partitions = min(listener.acceptors, System.schedulers_online())
    :ets.insert(board, {:partitions, partitions})

    Enum.map(1..partitions, &{Server.ConnectionSupervisor, {board, &1}}) ++
      [{Server.AcceptorPool, board}]
  end

  defp handlers(_python, board), do: [{Reactor.Python.Supervisor, board}]

  # What really failed, without the supervisors that it went through.
  defp cause({:shutdown, reason}), do: cause(reason)
  defp cause({:failed_to_start_child, _id, reason}), do: cause(reason)
  defp cause(reason), do: reason

  # --- the table ------------------------------------------------------------------------------

  @doc "The descriptor as it is now: with its socket and its real port, once it listens."
  @spec listener(board) :: Listener.t()
  def listener(board), do: :ets.lookup_element(board, :listener, 2)

  @spec put_listener(board, Listener.t()) :: true
  def put_listener(board, listener), do: :ets.insert(board, {:listener, listener})

  @doc "Says which process has a role in this server."
  @spec register(board, term) :: true
  def register(board, role), do: :ets.insert(board, {role, self()})

  @spec whereis(board, term) :: pid | nil
  def whereis(board, role) do
    case :ets.lookup(board, role) do
      [{^role, pid}] -> if Process.alive?(pid), do: pid
      [] -> nil
    end
  end

  @doc "The connection supervisors of a server for Elixir, in order; `[]` for Python."
  @spec partitions(board) :: [pid]
  def partitions(board) do
    case :ets.lookup(board, :partitions) do
      [{:partitions, n}] ->
        1..n |> Enum.map(&whereis(board, {:partition, &1})) |> Enum.filter(& &1)

      [] ->
        []
    end
  end

  # --- from outside ---------------------------------------------------------------------------

  @doc "The table of a running server. Exits if there is none."
  @spec board(Supervisor.supervisor()) :: board
  def board(server) do
    # Of the child's specification, since the child itself may be restarting.
    {:ok, %{start: {_, _, [board]}}} = :supervisor.get_childspec(server, Server.ListeningSocket)
    board
  end

  @spec info(board) :: map
  def info(board) do
    listener = listener(board)

    listener
    |> Map.take([:module, :name, :transport, :ip, :port, :backlog, :drain_timeout, :options])
    |> Map.merge(counts(listener, board))
  end

  defp counts(%{python: nil}, board) do
    counts = Enum.map(partitions(board), &Server.ConnectionSupervisor.counts/1)

    %{
      acceptors: counts |> Enum.map(& &1.acceptors) |> Enum.sum(),
      connections: counts |> Enum.map(& &1.handlers) |> Enum.sum()
    }
  end

  defp counts(listener, _board) do
    %{
      python: listener.python,
      contexts: listener.contexts,
      isolation: listener.isolation,
      connections: Reactor.Native.listener_connections(listener.socket),
      interpreter: Reactor.Native.python_info()
    }
  end
end
