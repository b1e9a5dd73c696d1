defmodule Reactor.Python.Pool do
  @moduledoc """
  Python contexts that share what is asked of them.

      children = [{Reactor.Python.Pool, name: MyApp.Python, size: 4, setup: "import my_model"}]

      Reactor.Python.call(MyApp.Python, :my_model, :predict, [sample])

  Its name or process stands for a context in all functions of `Reactor.Python`. Code that runs among names of
  a process (`exec/3`, `eval/4`, and `call/5` of `"__main__"`, with `namespace: :shared` too) always goes to the same
  context for one process, since its names are there. Everything else goes to the context with the fewest
  calls that have no answer yet.

  With `isolation: :subinterpreter` the contexts run side by side. In `:shared` they have one GIL, so what
  they gain is only that one which waits (for a database, or in a library that gives the GIL back) holds up no other.

  ## Options

  Those of `Reactor.Python`, for each of its contexts, but for `:name`, which is the pool's, and

  | option | value | default | meaning |
  |---|---|---|---|
  | `:size` | integer from 1 to 1024 | as many as the VM has schedulers | how many contexts |
  | `:max_waiting` | positive integer | `1024` | how many calls may have no answer yet, in the whole pool. One more is refused with `{:error, :overloaded}`. A context itself has 1,024 at most |

  A context that dies is started again while the others serve. Meanwhile a process whose names were there gets
  `{:error, :noproc}` or `{:error, :closed}`, and has none afterwards. The pool gives up when its contexts die more than
  3 times for each of them within 5 seconds.
  """

  use Supervisor

  alias Reactor.{ConfigError, Native}
  alias Reactor.Python.{Context, Options}

  @enforce_keys [:name, :size, :max_waiting, :table, :gate]
  defstruct [:name, :size, :max_waiting, :table, :gate]

  @typedoc false
  @type t :: %__MODULE__{
          name: GenServer.name() | nil,
          size: pos_integer,
          max_waiting: pos_integer,
          # {index, process, what is known of it}
          table: :ets.table(),
          gate: Native.gate()
        }

  @own [:size, :max_waiting]

  @doc """
  Starts a pool that is linked to the caller, when all its contexts are ready.

  Errors are those of `Reactor.Python.start_link/1`.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, term}
  def start_link(options \\ []) do
    with true <- Keyword.keyword?(options),
         {:ok, size} <- own(options, :size, System.schedulers_online(), 1_024),
         {:ok, max} <- own(options, :max_waiting, 1_024, 4_294_967_295),
         {:ok, context} <- options |> Keyword.drop([:name | @own]) |> Options.new(),
         {:ok, %{name: name}} <- options |> Keyword.take([:name]) |> Options.new() do
      start(name, size, max, context)
    else
      false -> {:error, ConfigError.hiding(:options, options, "a keyword list")}
      {:error, error} -> {:error, error}
    end
  end

  defp start(name, size, max, context) do
    named = if name, do: [name: name], else: []

    with true <- Context.running?(),
         {:ok, pool} <- Supervisor.start_link(__MODULE__, {name, size, max, context}, named) do
      {:ok, pool}
    else
      false -> {:error, :not_started}
      {:error, {:shutdown, {:failed_to_start_child, _index, reason}}} -> {:error, reason}
      {:error, reason} -> {:error, reason}
    end
  end

  defp own(options, name, default, most) do
    case Keyword.get(options, name, default) do
      value when is_integer(value) and value >= 1 and value <= most -> {:ok, value}
      value -> {:error, ConfigError.hiding(name, value, "an integer from 1 to #{most}")}
    end
  end

  @doc "A pool as a supervisor's child. Its id is the `:name`, if there is one."
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    name = if Keyword.keyword?(options), do: options[:name]

    %{
      id: name || __MODULE__,
      # A function keeps setup code out of a supervisor's reports.
      start: {__MODULE__, :start_child, [fn -> options end]},
      type: :supervisor
    }
  end

  @doc false
  @spec start_child(fun) :: {:ok, pid} | {:error, term}
  def start_child(options), do: start_link(options.())

  @doc """
  Tells about a pool: its `:name`, `:size` and `:max_waiting`; `:calls_waiting`, how many calls have no answer yet in
  the whole pool; and `:contexts`, what `Reactor.Python.info/1` says of each that runs.
  """
  @spec info(GenServer.server()) :: {:ok, map} | {:error, :noproc}
  def info(pool) do
    with {:ok, pool} <- Context.pool(pool) do
      contexts = for {_, pid, _} <- rows(pool), {:ok, info} <- [Context.info(pid)], do: info
      described = pool |> Map.from_struct() |> Map.take([:name, :size, :max_waiting])
      waiting = Native.gate_taken(pool.gate)
      {:ok, Map.merge(described, %{calls_waiting: waiting, contexts: contexts})}
    else
      :error -> {:error, :noproc}
    end
  end

  @doc false
  @spec place(t, pid | nil) :: {:ok, pid, map} | {:error, :noproc}
  def place(pool, nil) do
    # One that is being started again is not among those that are open.
    natives = for {index, _, known} <- rows(pool), do: {index, known.native}

    with {:ok, index} <- Native.context_idlest(natives), do: row(pool, index)
  end

  def place(pool, process), do: row(pool, :erlang.phash2(process, pool.size) + 1)

  defp row(pool, index) do
    case :ets.lookup(pool.table, index) do
      [{_, pid, known}] -> {:ok, pid, known}
      [] -> {:error, :noproc}
    end
  rescue
    # It has ended.
    ArgumentError -> {:error, :noproc}
  end

  defp rows(pool) do
    :ets.tab2list(pool.table)
  rescue
    ArgumentError -> []
  end

  @impl true
  def init({name, size, max, context}) do
    table = :ets.new(__MODULE__, [:set, :protected, read_concurrency: true])
    gate = Native.gate_new(max)

    :ok =
      Context.register_pool(%__MODULE__{
        name: name,
        size: size,
        max_waiting: max,
        table: table,
        gate: gate
      })

    children =
      for index <- 1..size do
        of_pool = fn -> %{context | name: member(name, index), gate: gate} end
        start = {__MODULE__, :start_member, [table, index, of_pool]}
        %{id: index, start: start, shutdown: :infinity}
      end

    Supervisor.init(children, strategy: :one_for_one, max_restarts: 3 * size)
  end

  # In log lines and in a thread's name; nobody has to find it by that.
  defp member(nil, _index), do: nil
  defp member(name, index), do: {:via, Registry, {Reactor.Python.Registry, {name, index}}}

  @doc false
  @spec start_member(:ets.table(), pos_integer, fun) :: {:ok, pid} | {:error, term}
  def start_member(table, index, options) do
    # By the supervisor, whose table it is.
    :ets.delete(table, index)

    with {:ok, pid} <- Context.start_link(options.()),
         {:ok, ^pid, known} <- Context.entry(pid) do
      :ets.insert(table, {index, pid, known})
      {:ok, pid}
    end
  end
end
