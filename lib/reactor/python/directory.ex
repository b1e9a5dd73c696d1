defmodule Reactor.Python.Directory do
  @moduledoc false

  # Which contexts there are, and pools of them, and what is known of each without a call to its process, which may
  # be starting: whatever goes to a context finds its native side here. A context registers itself when it begins to
  # start.

  alias Reactor.Native
  alias Reactor.Python.{Call, Context, Owners, Pool}

  @registry Reactor.Python.Registry

  @typedoc "What is known of a context; its native side is nil while it starts."
  @type known :: %{
          native: Native.context() | nil,
          keeper: pid | nil | :of_a_server,
          owners: :ets.table()
        }

  @doc "The application's child that knows the native side of each context, by its process."
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_options), do: Registry.child_spec(keys: :unique, name: @registry)

  @doc "True while the application runs, without which there are no contexts."
  @spec running?() :: boolean
  def running?, do: Process.whereis(@registry) != nil

  @doc "Makes the calling process known as a context that starts: the table of those who have something in it."
  @spec register(keeper :: pid | nil | :of_a_server) :: :ets.table()
  def register(keeper) do
    owners = Owners.new()
    known = %{native: nil, keeper: keeper, owners: owners}
    {:ok, _} = Registry.register(@registry, self(), known)
    owners
  end

  @doc "The calling process's context is ready: calls go to it from now on."
  @spec ready(Native.context()) :: :ok
  def ready(context) do
    {_new, _old} = Registry.update_value(@registry, self(), &%{&1 | native: context})
    :ok
  end

  @doc """
  What is known of a context, from the beginning of its start. Only the processes of contexts are to be asked something:
  another one, as that of a pool, would not know what, and die.
  """
  @spec known(Context.server()) :: {:ok, pid, known} | {:error, :noproc}
  def known(context) do
    case registered(context) do
      {:ok, _pid, %{pool: _}} -> {:error, :noproc}
      known_or_none -> known_or_none
    end
  end

  # Likewise, of a context or a pool.
  defp registered(context) do
    with pid when is_pid(pid) and node(pid) == node() <- GenServer.whereis(context),
         [{^pid, known}] <- Registry.lookup(@registry, pid),
         # The registry may not have heard of its end yet.
         true <- Process.alive?(pid) do
      {:ok, pid, known}
    else
      _none -> {:error, :noproc}
    end
  rescue
    # The application is not there.
    ArgumentError -> {:error, :noproc}
  end

  @doc """
  Which context such a call goes to, and what its names are known by. The context forgets what belongs to `others`
  too when they end.
  """
  @spec target(Context.server(), Context.namespace(), others :: [pid]) ::
          {:ok, Native.context(), key :: String.t() | nil} | {:error, :noproc | Call.failure()}
  def target(context, namespace, others \\ []) do
    owner = Owners.current()
    process = if namespace != :any, do: owner
    owners = if namespace == :own, do: [owner | others], else: others

    with {:ok, pid, known} <- place(context, process),
         :ok <- enter(owners, known.owners, pid),
         do: {:ok, known.native, if(namespace == :own, do: Owners.key(owner))}
  end

  defp enter([], _table, _context), do: :ok

  defp enter([owner | rest], table, context) do
    with :ok <- Owners.enter(table, context, owner), do: enter(rest, table, context)
  end

  @doc "The context that a call goes to: of a pool, that which has the names of this process, if there is one."
  @spec place(Context.server(), pid | nil) :: {:ok, pid, known} | {:error, :noproc}
  def place(context, process) do
    case registered(context) do
      {:ok, _pid, %{pool: pool}} -> Pool.place(pool, process)
      {:ok, pid, %{native: native} = known} when native != nil -> {:ok, pid, known}
      _starting_or_none -> {:error, :noproc}
    end
  end

  @doc "The native side of a context that is ready, without a call to its process."
  @spec native(Context.server()) :: {:ok, Native.context()} | {:error, :noproc}
  def native(context) do
    with {:ok, _pid, known} <- place(context, nil), do: {:ok, known.native}
  end

  @doc "Makes the calling process known as a pool's, whose contexts calls go to."
  @spec register_pool(Pool.t()) :: :ok
  def register_pool(pool) do
    {:ok, _} = Registry.register(@registry, self(), %{pool: pool})
    :ok
  end

  @doc "The pool that has this name or process, if it is one."
  @spec pool(Context.server()) :: {:ok, Pool.t()} | :error
  def pool(context) do
    case registered(context) do
      {:ok, _pid, %{pool: pool}} -> {:ok, pool}
      _other -> :error
    end
  end

  @doc "The name of a context in words, as in its thread's name and in what is logged."
  @spec text(GenServer.name() | String.t()) :: String.t()
  def text(name) when is_binary(name), do: name
  def text(name) when is_atom(name), do: inspect(name)
  def text({:global, name}), do: inspect(name)
  def text({:via, Registry, {@registry, {Pool, name, index}}}), do: "#{text(name)}/#{index}"
  def text({:via, _module, {_registry, name}}), do: inspect(name)
  def text({:via, _module, name}), do: inspect(name)
end
