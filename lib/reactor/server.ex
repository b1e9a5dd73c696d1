defmodule Reactor.Server do
  @moduledoc false

  # The supervision tree of one listener, rest_for_one:
  #
  #   Reactor.Server.Reporter                 tells what happens; first, so it hears of everything
  #   Reactor.Server.ListeningSocket          owns the listening socket and the server's state
  #   for Python, and for a module with route/1:
  #     Reactor.Python.Supervisor             the contexts
  #   for Elixir:
  #     Reactor.Server.ConnectionSupervisor   one per partition: spawns acceptors, knows handlers
  #     Reactor.Server.AcceptorPool           how many wait, and when a failed one is replaced
  #   Reactor.Server.Control                  changes to the running server, one after the other
  #   Reactor.Server.Drain                    last, so it stops first
  #
  # The children find each other in a table, the board, that this supervisor owns: asking the
  # supervisor itself would deadlock while it starts or stops them. The board is also the id of the
  # listener, and holds its environment. Others find it in the supervisor's process dictionary, which can
  # be read whatever the supervisor does.

  use Supervisor

  alias Reactor.{Listener, Native, Server, Socket, Transport}

  @type board :: :ets.tid()
  @board :"$reactor_board"

  @type state :: :running | :suspended | :draining

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
    label(:server, listener.module)
    board = :ets.new(:reactor_server, [:set, :public, read_concurrency: true])
    :ets.insert(board, [{:env, listener.env}, {:state, :running}])
    put_listener(board, %{listener | id: board})
    Process.put(@board, board)

    children =
      [{Server.Reporter, board}, {Server.ListeningSocket, board}] ++
        contexts_of(listener, board) ++
        handlers(listener, board) ++
        [{Server.Control, board}, {Server.Drain, board}]

    Supervisor.init(children, strategy: :rest_for_one)
  end

  defp contexts_of(%{python: nil, route: false}, _board), do: []
  defp contexts_of(_listener, board), do: [{Reactor.Python.Supervisor, board}]

  defp handlers(%{python: nil}, board) do
    # As many as can run at once, even with fewer acceptors: there may be more of those later.
    partitions = System.schedulers_online()
    permits = Server.Permits.new(partitions)
    :ets.insert(board, [{:partitions, partitions}, {:permits, permits}])

    Enum.map(1..partitions, &{Server.ConnectionSupervisor, {board, &1}}) ++
      [{Server.AcceptorPool, board}]
  end

  defp handlers(_python, _board), do: []

  # What really failed, without the supervisors that it went through.
  defp cause({:shutdown, reason}), do: cause(reason)
  defp cause({:failed_to_start_child, _id, reason}), do: cause(reason)
  defp cause(reason), do: reason

  @doc "Names the calling process for tools that show processes, where OTP can (from 27)."
  @spec label(atom, module) :: :ok
  if Code.ensure_loaded?(:proc_lib) and function_exported?(:proc_lib, :set_label, 1) do
    def label(role, module), do: :proc_lib.set_label({role, module})
  else
    def label(_role, _module), do: :ok
  end

  # --- the board ------------------------------------------------------------------------------

  @doc "The descriptor as it is now: with its socket and its real port, once it listens."
  @spec listener(board) :: Listener.t()
  def listener(board), do: :ets.lookup_element(board, :listener, 2)

  @doc "Makes this the descriptor for connections from now on."
  @spec put_listener(board, Listener.t()) :: true
  def put_listener(board, listener) do
    :ets.insert(board, [{:listener, listener}, {:version, listener.version}])
  end

  @doc """
  The descriptor as a literal, which is not copied to processes that are spawned with it: a handler
  then has it for the price of a word. It is there from the first time that somebody listens.
  """
  @spec shared(board) :: Listener.t()
  def shared(board), do: :persistent_term.get({__MODULE__, board}, nil) || listener(board)

  @doc "Makes the descriptor a literal. To replace one costs a look at every process of the VM."
  @spec share(board) :: :ok
  def share(board), do: :persistent_term.put({__MODULE__, board}, listener(board))

  @doc "For the last process of the server that ends."
  @spec unshare(board) :: boolean
  def unshare(board), do: :persistent_term.erase({__MODULE__, board})

  @doc "That of the descriptor, or nil when the server is gone."
  @spec version(board) :: non_neg_integer | nil
  def version(board) do
    :ets.lookup_element(board, :version, 2)
  rescue
    ArgumentError -> nil
  end

  @spec state(board) :: state
  def state(board), do: :ets.lookup_element(board, :state, 2)

  @doc "For the process that owns the listening socket."
  @spec put_state(board, state) :: true
  def put_state(board, state), do: :ets.insert(board, {:state, state})

  @doc "Says which process has a role in this server."
  @spec register(board, term) :: true
  def register(board, role), do: :ets.insert(board, {role, self()})

  @spec whereis(board, term) :: pid | nil
  def whereis(board, role) do
    case :ets.lookup(board, role) do
      [{^role, pid}] -> if Process.alive?(pid), do: pid
      [] -> nil
    end
  rescue
    # The server was killed, and its table is gone with it.
    ArgumentError -> nil
  end

  @doc """
  False if some process of the server has died: then its others are not ended because the server
  stops, but to start anew.
  """
  @spec whole?(board) :: boolean
  def whole?(board) do
    roles = [:reporter, :listening_socket, :contexts, :acceptor_pool, :control]
    registered = Enum.flat_map(roles, &:ets.lookup(board, &1))
    Enum.all?(registered ++ partitions_ever(board), fn {_role, pid} -> Process.alive?(pid) end)
  end

  @doc "The connection supervisors of a server for Elixir, in order; `[]` for Python."
  @spec partitions(board) :: [pid]
  def partitions(board) do
    for {_role, pid} <- partitions_ever(board), Process.alive?(pid), do: pid
  end

  defp partitions_ever(board) do
    case :ets.lookup(board, :partitions) do
      [{:partitions, n}] -> Enum.flat_map(1..n, &:ets.lookup(board, {:partition, &1}))
      [] -> []
    end
  end

  @doc "The processes of the Python contexts that run; `[]` if there are none."
  @spec contexts(board) :: [pid]
  def contexts(board) do
    case whereis(board, :contexts) do
      nil -> []
      supervisor -> Reactor.Python.Supervisor.contexts(supervisor)
    end
  end

  @doc "How long a stop lets connections finish, in ms: what Reactor.stop/2 said, or the option."
  @spec stop_timeout(board) :: non_neg_integer
  def stop_timeout(board) do
    case :ets.lookup(board, :stop_timeout) do
      [{:stop_timeout, timeout}] -> timeout
      [] -> listener(board).drain_timeout
    end
  end

  @spec put_stop_timeout(board, non_neg_integer) :: true
  def put_stop_timeout(board, timeout), do: :ets.insert(board, {:stop_timeout, timeout})

  @doc "What counts the connections of a transport that does not count them itself."
  @spec permits(board) :: Server.Permits.shared()
  def permits(board), do: :ets.lookup_element(board, :permits, 2)

  # --- from outside ---------------------------------------------------------------------------

  @doc "The board of a running server, also while that starts or stops. Exits if there is none."
  @spec board(Supervisor.supervisor()) :: board
  def board(server) do
    with pid when is_pid(pid) and node(pid) == node() <- GenServer.whereis(server),
         {:dictionary, dictionary} <- Process.info(pid, :dictionary),
         {@board, board} <- List.keyfind(dictionary, @board, 0) do
      board
    else
      _nobody_or_no_server -> exit({:noproc, {__MODULE__, :board, [server]}})
    end
  end

  @described [
    :module,
    :name,
    :transport,
    :protocol,
    :ip,
    :port,
    :backlog,
    :acceptors,
    :max_connections,
    :overload,
    :max_connections_per_ip,
    :accept_rate,
    :drain_timeout,
    :going_away,
    :profile,
    :options
  ]

  @spec info(board) :: map
  def info(board) do
    listener = listener(board)
    survey(listener, board)
    partitions = partition_counts(board)

    listener
    |> Map.take(@described)
    |> Map.put(:state, state(board))
    |> Map.put(:acceptors, acceptors(listener, partitions))
    |> Map.merge(contexts_info(listener, board))
    |> Map.merge(counts(listener, board, partitions))
  end

  defp acceptors(%{python: nil}, partitions), do: sum(partitions, :acceptors)
  defp acceptors(_python, _partitions), do: 0

  # What goes through connections is counted where they are.
  defp survey(%{isolation: :process}, board), do: Reactor.Python.Supervisor.survey(board)
  defp survey(_listener, _board), do: :ok

  defp contexts_info(%{python: nil, route: false}, _board), do: %{}

  defp contexts_info(listener, board) do
    listener
    |> Map.take([:python, :contexts, :isolation])
    |> Map.put(:interpreter, interpreter(listener, board))
  end

  defp interpreter(%{isolation: :process}, board),
    do: Reactor.Python.Supervisor.interpreter(board)

  defp interpreter(_listener, _board), do: Native.python_info()

  @doc "How many connections there are, and what is counted of all there were."
  @spec counts(Listener.t(), board) :: map
  def counts(listener, board), do: counts(listener, board, partition_counts(board))

  defp counts(%{transport: Transport.Native} = listener, _board, partitions) do
    counts = Native.listener_info(listener.socket)

    counts
    |> Map.take([:connections, :accepted, :rejected, :received, :sent])
    # Those that an accept/1 of the module's own brought from elsewhere.
    |> Map.merge(%{
      connections: counts.connections + sum(partitions, :foreign),
      accepted: counts.accepted + sum(partitions, :accepted)
    })
  end

  defp counts(listener, board, partitions) do
    permits = permits(board)

    open =
      if listener.max_connections == :infinity,
        do: sum(partitions, :foreign),
        else: Server.Permits.open(permits)

    %{
      connections: open,
      accepted: sum(partitions, :accepted),
      rejected: Server.Permits.rejected(permits),
      # Nobody adds up those of connections that have ended.
      received: nil,
      sent: nil
    }
  end

  defp sum(partitions, count), do: partitions |> Enum.map(& &1[count]) |> Enum.sum()

  defp partition_counts(board) do
    ask_partitions(board, &Server.ConnectionSupervisor.counts/1)
  end

  # One that ends, alone or with its server, has nothing any more.
  defp ask_partitions(board, ask) do
    Enum.flat_map(partitions(board), fn partition ->
      try do
        [ask.(partition)]
      catch
        :exit, {reason, _call} when reason != :timeout -> []
      end
    end)
  end

  @spec connections(board) :: [map]
  def connections(board) do
    survey(listener(board), board)
    foreign = board |> ask_partitions(&Server.ConnectionSupervisor.foreign/1) |> Enum.concat()
    native(listener(board)) ++ Enum.map(foreign, &describe/1)
  end

  defp native(%{transport: Transport.Native, socket: socket}) do
    for connection <- Native.listener_list(socket) do
      Map.update!(connection, :since, &DateTime.from_unix!(&1, :millisecond))
    end
  end

  defp native(_other), do: []

  # It may close while it is described.
  defp describe({id, socket, since, owner}) do
    {received, sent, queued} =
      case Socket.statistics(socket) do
        {:ok, statistics} -> {statistics.received, statistics.sent, statistics.queued}
        {:error, _reason} -> {0, 0, 0}
      end

    remote =
      case Socket.remote(socket) do
        {:ok, remote} -> remote
        {:error, _reason} -> nil
      end

    %{
      id: id,
      remote: remote,
      since: DateTime.from_unix!(since, :millisecond),
      received: received,
      sent: sent,
      queued: queued,
      owner: owner,
      state: :open
    }
  end
end
