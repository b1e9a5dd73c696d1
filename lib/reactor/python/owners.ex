defmodule Reactor.Python.Owners do
  @moduledoc false

  # The processes that have something of their own in a context: names, or streams. The context's process
  # monitors them, and has Python forget what they had when they end. A process that was entered once finds
  # itself in the table, and asks nobody again.

  alias Reactor.Native

  # How many processes may have something in one context.
  @most 16_384

  # Until those that could not be forgotten are tried again, in ms.
  @pause 100

  @enforce_keys [:table]
  defstruct [:table, ended: [], forgetting: nil]

  @typedoc "Kept by the context's process: who has ended, and the call that has Python forget some of those."
  @type t :: %__MODULE__{
          table: :ets.table(),
          ended: [String.t()],
          forgetting: {reference, Native.call()} | nil
        }

  @doc "Nobody yet. By the context's process, which alone changes it."
  @spec new() :: t
  def new,
    do: %__MODULE__{table: :ets.new(__MODULE__, [:set, :protected, read_concurrency: true])}

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
  @spec add(t, pid) :: :ok | {:error, :overloaded}
  def add(%{table: table}, pid) do
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
  @spec remove(t, pid, Native.context()) :: t
  def remove(%{table: table} = owners, pid, context) do
    case :ets.take(table, pid) do
      [] -> owners
      [_entered] -> forget(%{owners | ended: [key(pid) | owners.ended]}, context)
    end
  end

  @doc "For the context's process: those that have ended and could not be forgotten are tried again."
  @spec forget(t, Native.context()) :: t
  def forget(%{ended: [_ | _] = ended, forgetting: nil} = owners, context) do
    reference = make_ref()

    case Native.call_start(context, reference, :forget, [ended], []) do
      {:ok, call} ->
        %{owners | ended: [], forgetting: {reference, call}}

      {:error, :overloaded} ->
        Process.send_after(self(), :forget, @pause)
        owners

      {:error, :closed} ->
        %{owners | ended: []}
    end
  end

  def forget(owners, _context), do: owners

  @doc "For the context's process: that call was answered, and the next one may be made."
  @spec forgotten(t, reference, Native.context()) :: t
  def forgotten(%{forgetting: {reference, _call}} = owners, reference, context),
    do: forget(%{owners | forgetting: nil}, context)

  def forgotten(owners, _reference, _context), do: owners
end
