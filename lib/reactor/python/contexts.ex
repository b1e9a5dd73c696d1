defmodule Reactor.Python.Contexts do
  @moduledoc false

  # The contexts that Reactor.Python.start_context/1 started. Each has a supervisor of its own, which
  # starts it anew when it dies: so one that takes long to import, or that cannot start any more, holds up
  # no other and takes no other along.

  use DynamicSupervisor

  alias Reactor.Python.{Context, Options}

  @spec start_link(term) :: Supervisor.on_start()
  def start_link(_options), do: DynamicSupervisor.start_link(__MODULE__, [], name: __MODULE__)

  @spec start(Options.t()) :: {:ok, pid} | {:error, term}
  def start(options) do
    keeper = %{
      id: :keeper,
      start: {Supervisor, :start_link, [[], [strategy: :one_for_one]]},
      type: :supervisor,
      restart: :temporary
    }

    with {:ok, keeper} <- start_keeper(keeper) do
      # By a function, since a supervisor shows it in its reports: setup code may hold a password.
      start = {Context, :start_kept, [fn -> options end, keeper]}

      case Supervisor.start_child(keeper, %{id: Context, start: start, shutdown: :infinity}) do
        {:ok, pid} ->
          {:ok, pid}

        {:error, reason} ->
          stop(keeper)
          {:error, cause(reason)}
      end
    end
  end

  defp start_keeper(keeper) do
    DynamicSupervisor.start_child(__MODULE__, keeper)
  catch
    :exit, {:noproc, _call} -> {:error, :not_started}
  end

  # What failed, without where it did.
  defp cause({reason, child}) when is_tuple(child) and elem(child, 0) == :child, do: reason
  defp cause(reason), do: reason

  @doc "Drains and ends the context that has this supervisor."
  @spec stop(pid) :: :ok
  def stop(keeper) do
    # It may be ending by itself.
    _ = DynamicSupervisor.terminate_child(__MODULE__, keeper)
    :ok
  end

  @impl true
  def init([]), do: DynamicSupervisor.init(strategy: :one_for_one)
end
