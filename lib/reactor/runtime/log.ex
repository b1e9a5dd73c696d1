defmodule Reactor.Runtime.Log do
  @moduledoc false

  # Gives to Logger what the native side and Python have to say. A process of its own, since Logger may
  # make it wait when there is much; how much may be on its way here is bounded by the native side, which
  # is told of each message that was taken.

  use GenServer

  require Logger

  alias Reactor.Native

  @levels [:debug, :info, :warning, :error]

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options) do
    GenServer.start_link(__MODULE__, [], name: __MODULE__)
  end

  @impl true
  def init([]) do
    with {:module, _} <- Code.ensure_loaded(Native),
         :ok <- Native.log_start(level()) do
      {:ok, nil}
    else
      # Why it is so was logged when the module did not load.
      {:error, :on_load_failure} -> {:stop, :native_library_not_loaded}
      {:error, reason} -> {:stop, reason}
    end
  end

  # What Logger would not take is not sent.
  defp level, do: Enum.find(@levels, :error, &(Logger.compare_levels(&1, Logger.level()) != :lt))

  @impl true
  def handle_info({:"$reactor_log", level, target, message, metadata}, state)
      when level in [:critical | @levels] do
    Logger.log(level, message, [{:target, target} | Enum.map(metadata, &metadata/1)])
    Native.log_taken()
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  # Names of fields are written in the native sources; of what other processes bring, those take only a few new ones.
  defp metadata({name, value}), do: {String.to_atom(name), value}
end
