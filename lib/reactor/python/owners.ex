defmodule Reactor.Python.Owners do
  @moduledoc false

  # The processes that have something of their own in a context: names, or streams. The context's process
  # monitors them, and has Python forget what they had when they end. A process that was entered once finds
  # itself in the table, and asks nobody again.

  alias Reactor.Native

  # How many processes may have something in one context.
  @most 16_384

  @doc "A table for them. By the context's process, which alone changes it."
  @spec new() :: :ets.table()
  def new, do: :ets.new(__MODULE__, [:set, :protected, read_concurrency: true])

  # In the dictionary of a process that answers a question of Python's.
  @acts_for :"$reactor_python_owner"

  @doc """
  Whose names the calling process has: its own, unless it answers a question of Python's. Then they are those of the
  process that called Python, of which the question is.
  """
  @spec current() :: pid
  def current, do: Process.get(@acts_for, self())

  @doc "From now on the calling process answers a question that was asked on behalf of these, the nearest first."
  @spec act_for([pid]) :: :ok
  def act_for([]), do: :ok

  def act_for([caller | _]) do
    Process.put(@acts_for, owner_of(caller))
    :ok
  end

  # It may have been answering a question itself. It waits for this one, so it is there.
  defp owner_of(caller) do
    with {:dictionary, dictionary} <- Process.info(caller, :dictionary),
         {_, owner} <- List.keyfind(dictionary, @acts_for, 0) do
      owner
    else
      _none -> caller
    end
  end

  @doc """
  On whose behalf the calling process asks: of `callers`, and of whom a `Task` has in `$callers`. A task that another
  node has started has processes of that node there, which Python does not wait for.
  """
  @spec callers([pid]) :: [pid]
  def callers(callers \\ []) do
    for pid <- callers ++ Process.get(:"$callers", []),
        is_pid(pid) and node(pid) == node(),
        do: pid
  end

  @doc "What Python knows a process by."
  @spec key(pid) :: String.t()
  def key(pid), do: pid |> :erlang.pid_to_list() |> List.to_string()

  @doc "Has a process known to the context from now on, until it ends."
  @spec enter(:ets.table(), context :: pid, pid) :: :ok | {:error, :closed | :overloaded}
  def enter(table, context, pid) do
    if :ets.member(table, pid), do: :ok, else: GenServer.call(context, {:own, pid}, :infinity)
  rescue
    # Its context has ended, and the table with it.
    ArgumentError -> {:error, :closed}
  catch
    :exit, _reason -> {:error, :closed}
  end

  @doc "For the context's process: a process has something here from now on."
  @spec add(:ets.table(), pid) :: :ok | {:error, :overloaded}
  def add(table, pid) do
    cond do
      :ets.member(table, pid) ->
        :ok

      :ets.info(table, :size) >= @most ->
        {:error, :overloaded}

      true ->
        :ets.insert(table, {pid, Process.monitor(pid)})
        :ok
    end
  end

  @doc "For the context's process: a process has ended, and what it had here is forgotten."
  @spec remove(:ets.table(), pid, Native.context()) :: :ok
  def remove(table, pid, context) do
    case :ets.take(table, pid) do
      [] -> :ok
      [_entered] -> Native.context_forget(context, [key(pid)])
    end
  end
end
