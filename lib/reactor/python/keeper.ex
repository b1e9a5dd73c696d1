defmodule Reactor.Python.Keeper do
  @moduledoc false

  # Keeps one context of Reactor.Python.Contexts: the supervisor that starts it anew when it dies is below
  # this process, which says so when that gives up. While Python hangs in a start the supervisor hears
  # nothing; this one does, and ends it when its time is over.

  use GenServer

  require Logger

  alias Reactor.Python.{Context, Directory, Options}

  # For a keeper to end what did not end in time, in ms.
  @grace 1_000

  @doc "As a child: it may take as long to end as its context, and not longer."
  @spec child_spec(Options.t()) :: Supervisor.child_spec()
  def child_spec(options) do
    limit = Context.longest_end(options) + @grace
    # Not the options: a supervisor shows this in its reports.
    start = {GenServer, :start_link, [__MODULE__, {options.name, limit}]}
    %{id: __MODULE__, start: start, shutdown: limit + @grace, restart: :temporary}
  end

  @doc "The supervisor below it."
  @spec supervisor(pid) :: pid
  def supervisor(keeper), do: GenServer.call(keeper, :supervisor, :infinity)

  @impl true
  def init({name, limit}) do
    Process.flag(:trap_exit, true)
    {:ok, supervisor} = Supervisor.start_link([], strategy: :one_for_one)
    {:ok, %{name: name, limit: limit, supervisor: supervisor}}
  end

  @impl true
  def handle_call(:supervisor, _from, state), do: {:reply, state.supervisor, state}

  @impl true
  def handle_info({:EXIT, supervisor, _reason}, %{supervisor: supervisor} = state) do
    Logger.error("#{who(state.name)} is given up: it died more than 3 times within 5 seconds")
    {:stop, :shutdown, %{state | supervisor: nil}}
  end

  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, %{supervisor: nil}), do: :ok

  def terminate(_reason, %{supervisor: supervisor, limit: limit}) do
    Process.exit(supervisor, :shutdown)

    receive do
      {:EXIT, ^supervisor, _reason} -> :ok
    after
      limit ->
        Process.exit(supervisor, :kill)

        receive do
          {:EXIT, ^supervisor, _reason} -> :ok
        end
    end
  end

  defp who(nil), do: "A Python context without a name"
  defp who(name), do: "Python context #{Directory.text(name)}"
end
