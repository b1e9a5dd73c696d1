defmodule Reactor.Python.Pool do
  @moduledoc """
  Python contexts that share what is asked of them.

      children = [{Reactor.Python.Pool, name: MyApp.Python, size: 4, setup: "import my_model"}]

      Reactor.Python.call(MyApp.Python, :my_model, :predict, [sample])

  Its name or process stands for a context in all functions of `Reactor.Python` but `info/1`, for which there is
  `info/1` here, and `stop_context/1`: a pool is ended as other supervisors are, with `Supervisor.stop/1`. Its contexts
  then end side by side. Code that runs among names of
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

  use DynamicSupervisor

  alias Reactor.{ConfigError, Native}
  alias Reactor.Python.{Context, Directory, Options}

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

  # How often each context may die within 5 seconds.
  @restarts 3

  @doc """
  Starts a pool that is linked to the caller, when all its contexts are ready.

  Errors are those of `Reactor.Python.start_link/1`.
  """
  @spec start_link(keyword) :: {:ok, pid} | {:error, term}
  def start_link(options \\ []) do
    with true <- Keyword.keyword?(options),
         {:ok, size} <- own(options, :size, System.schedulers_online(), 1_024),
         {:ok, max} <- own(options, :max_waiting, 1_024, 4_294_967_295),
         {:ok, context} <- options |> Keyword.drop([:name | @own]) |> Options.new(@own),
         {:ok, %{name: name}} <- options |> Keyword.take([:name]) |> Options.new(),
         true <- Directory.running?() || {:error, :not_started},
         {:ok, pool} <- start(name, size, max) do
      fill(pool, name, size, context)
    else
      false -> {:error, ConfigError.hiding(:options, options, "a keyword list")}
      {:error, error} -> {:error, error}
    end
  end

  defp start(name, size, max) do
    named = if name, do: [name: name], else: []
    DynamicSupervisor.start_link(__MODULE__, {name, size, max}, named)
  end

  # Only a supervisor of this kind has its children end side by side.
  defp fill(pool, name, size, context) do
    Enum.reduce_while(1..size, {:ok, pool}, fn index, started ->
      # A function, since a supervisor shows this in its reports: setup code may hold a password.
      start =
        {__MODULE__, :start_member, [index, fn -> %{context | name: member(name, index)} end]}

      case DynamicSupervisor.start_child(pool, %{id: index, start: start, shutdown: :infinity}) do
        {:ok, _context} ->
          {:cont, started}

        {:error, reason} ->
          Supervisor.stop(pool, :shutdown)
          {:halt, {:error, reason}}
      end
    end)
  catch
    # The pool has given up, or was stopped.
    :exit, _reason -> {:error, :closed}
  end

  # As everywhere, the last of a name counts.
  defp own(options, name, default, most) do
    case options |> Keyword.get_values(name) |> List.last(default) do
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
    with {:ok, pool} <- Directory.pool(pool) do
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
  def init({name, size, max}) do
    :ok =
      Directory.register_pool(%__MODULE__{
        name: name,
        size: size,
        max_waiting: max,
        table: :ets.new(__MODULE__, [:set, :protected, read_concurrency: true]),
        gate: Native.gate_new(max)
      })

    DynamicSupervisor.init(strategy: :one_for_one, max_restarts: @restarts * size)
  end

  # In log lines and in a thread's name; nobody has to find it by that.
  defp member(nil, _index), do: nil

  defp member(name, index),
    do: {:via, Registry, {Reactor.Python.Registry, {__MODULE__, name, index}}}

  @doc false
  @spec start_member(pos_integer, fun) :: {:ok, pid} | {:error, term}
  def start_member(index, options) do
    # By the supervisor, whose table it is.
    with {:ok, %{table: table, gate: gate}} <- Directory.pool(self()),
         :ets.delete(table, index),
         {:ok, pid} <- Context.start_link(%{options.() | gate: gate}),
         {:ok, ^pid, known} <- Directory.place(pid, nil) do
      :ets.insert(table, {index, pid, known})
      {:ok, pid}
    else
      # The registry has died, and knows it no more: it has to start anew itself.
      :error -> {:error, :not_started}
      {:error, reason} -> {:error, reason}
    end
  end
end
