defmodule Reactor.Port.Registry do
  @moduledoc false

  # Knows the children of all ports. They are in a table that belongs to the application, and write themselves into it; this
  # process takes those out that have died. So when it dies itself nobody has to wait for the next one, which
  # finds in the table whom to watch.

  use GenServer

  @table __MODULE__

  # A second is enough for one that dies again and again to be seen, and for a few deaths not to matter.
  @restarts [max_restarts: 100, max_seconds: 1]

  @doc "Makes the table. The process that starts the application lives as long as that, and is nobody's to end."
  @spec new() :: :ets.table()
  def new, do: :ets.new(@table, [:named_table, :public, :bag, read_concurrency: true])

  @doc "The application's child. It has a supervisor of its own, whose restarts are not those of others."
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_none) do
    child = %{id: __MODULE__, start: {__MODULE__, :start_link, []}}

    %{
      id: __MODULE__,
      type: :supervisor,
      start: {Supervisor, :start_link, [[child], [strategy: :one_for_one] ++ @restarts]}
    }
  end

  @spec start_link() :: GenServer.on_start()
  def start_link, do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Whether there is one: the application runs."
  @spec running?() :: boolean
  def running?, do: :ets.whereis(@table) != :undefined

  @doc "Has the caller be found by this key, as long as it lives."
  @spec register(key :: term, value :: term) :: :ok
  def register(key, value) do
    true = :ets.insert(@table, {key, self(), value})
    # If it is not there, it will look into the table.
    GenServer.cast(__MODULE__, {:watch, key, self()})
  end

  @doc "Who is found by this key: for a moment also those that have just died."
  @spec lookup(key :: term) :: [{pid, value :: term}]
  def lookup(key) do
    for {_key, pid, value} <- :ets.lookup(@table, key), do: {pid, value}
  rescue
    # The application does not run.
    ArgumentError -> []
  end

  @impl true
  def init(nil) do
    entries = :ets.match(@table, {:"$1", :"$2", :_})
    {:ok, Enum.reduce(entries, %{}, fn [key, pid], watched -> watch(watched, key, pid) end)}
  end

  @impl true
  def handle_cast({:watch, key, pid}, watched), do: {:noreply, watch(watched, key, pid)}

  @impl true
  def handle_info({:DOWN, monitor, :process, pid, _reason}, watched) do
    {key, watched} = Map.pop!(watched, monitor)
    :ets.match_delete(@table, {key, pid, :_})
    {:noreply, watched}
  end

  defp watch(watched, key, pid), do: Map.put(watched, Process.monitor(pid), key)
end
