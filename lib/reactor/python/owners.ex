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
