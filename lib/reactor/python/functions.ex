defmodule Reactor.Python.Functions do
  @moduledoc false

  # The functions that Python may call by name, for the whole VM. This process owns their table and does
  # nothing else, so it outlives those who register. The native side knows the names, because
  # Python's `from erlang import name` has to know whether there is one.

  use GenServer

  alias Reactor.Native

  @type name :: atom | String.t()
  @type target :: fun | {module, atom}

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @spec register(String.t(), target) :: :ok | {:error, :not_started}
  def register(name, target) do
    :ets.insert(__MODULE__, {name, target})
    Native.function_known(name, true)
  rescue
    # No table: the application does not run.
    ArgumentError -> {:error, :not_started}
  end

  @spec unregister(String.t()) :: :ok
  def unregister(name) do
    Native.function_known(name, false)
    :ets.delete(__MODULE__, name)
    :ok
  rescue
    ArgumentError -> :ok
  end

  @spec fetch(String.t()) :: {:ok, target} | :error
  def fetch(name) do
    case :ets.lookup(__MODULE__, name) do
      [{_, target}] -> {:ok, target}
      [] -> :error
    end
  rescue
    ArgumentError -> :error
  end

  @impl true
  def init(_) do
    Native.functions_unknown()
    :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    {:ok, nil}
  end
end
