defmodule Reactor.Python.Contexts do
  @moduledoc false

  # The contexts that Reactor.Python.start_context/1 started. Each has a keeper with a supervisor of
  # its own, which starts it anew when it dies: so one that takes long to import, or that cannot start any more, holds up
  # no other and takes no other along.

  use DynamicSupervisor

  alias Reactor.Python.{Context, Keeper, Options}

  @spec start_link(term) :: Supervisor.on_start()
  def start_link(_options), do: DynamicSupervisor.start_link(__MODULE__, [], name: __MODULE__)

  @spec start(Options.t()) :: {:ok, pid} | {:error, term}
  def start(options) do
    with {:ok, keeper} <- start_keeper(options) do
      # By a function, since a supervisor shows it in its reports: setup code may hold a password.
      start = {Context, :start_kept, [fn -> options end, keeper]}

      case start_context(keeper, %{id: Context, start: start, shutdown: :infinity}) do
        {:ok, pid} ->
          {:ok, pid}

        {:error, reason} ->
          stop(keeper)
          {:error, cause(reason)}
      end
    end
  end

  defp start_keeper(options) do
    DynamicSupervisor.start_child(__MODULE__, {Keeper, options})
  catch
    :exit, {:noproc, _call} -> {:error, :not_started}
  end

  defp start_context(keeper, child) do
    keeper |> Keeper.supervisor() |> Supervisor.start_child(child)
  catch
    # It was stopped meanwhile.
    :exit, _reason -> {:error, :closed}
  end

  # What failed, without where it did.
  defp cause({reason, child}) when is_tuple(child) and elem(child, 0) == :child, do: reason
  defp cause(reason), do: reason

  @doc "Drains and ends the context that has this keeper. It is the caller who waits, and no other."
  @spec stop(pid) :: :ok
  def stop(keeper) do
    GenServer.stop(keeper, :shutdown)
  catch
    # It has ended by itself.
    :exit, _reason -> :ok
  end

  @impl true
  def init([]), do: DynamicSupervisor.init(strategy: :one_for_one)
end
