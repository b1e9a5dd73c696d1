defmodule Reactor.Runtime do
  @moduledoc false

  # The process that the native side reports to. The loops start when the first socket is made, and
  # stop with the application, not with this process: a restart here disturbs no connection.

  use GenServer

  require Logger

  @levels [:debug, :info, :warning, :error]

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options) do
    GenServer.start_link(__MODULE__, [], name: __MODULE__)
  end

  @impl true
  def init([]) do
    with {:module, _} <- Code.ensure_loaded(Reactor.Native),
         :ok <- Reactor.Native.runtime_start(options()) do
      {:ok, nil}
    else
      # Why it is so was logged when the module did not load.
      {:error, :on_load_failure} -> {:stop, :native_library_not_loaded}
      {:error, reason} -> {:stop, reason}
    end
  end

  # 0 loops: as many as measured best.
  defp options do
    %{
      loops: Application.get_env(:reactor, :loops, 0),
      log_to: self(),
      log_level: Enum.find(@levels, :error, &(Logger.compare_levels(&1, Logger.level()) != :lt))
    }
  end

  @impl true
  def handle_info({:"$reactor_log", level, target, message, metadata}, state)
      when level in @levels do
    Logger.log(level, message, [{:target, target} | Enum.map(metadata, &metadata/1)])
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  # Names of fields are written in the native sources: there are few, and no input makes new ones.
  defp metadata({name, value}), do: {String.to_atom(name), value}
end
