# The Hex package :telemetry cannot be had where this is developed: this has its functions, and what
# its documentation promises of them, for the tests. Where the real one is there, that is used.
here = Path.expand(Mix.Project.compile_path())

real? =
  case :code.which(:telemetry) do
    :non_existing -> false
    path -> path |> to_string() |> Path.expand() |> Path.dirname() != here
  end

unless real? do
  defmodule :telemetry do
    @moduledoc false

    # As there, a process owns the table of the handlers and everybody reads it. It starts with the
    # first handler, since there is no application to start it.

    use GenServer

    require Logger

    @table :telemetry_handler_table

    def attach(id, event, function, config), do: attach_many(id, [event], function, config)

    def attach_many(id, events, function, config) when is_function(function, 4) do
      Enum.each(events, &check/1)
      GenServer.call(table_owner(), {:attach, id, events, function, config})
    end

    def detach(id), do: GenServer.call(table_owner(), {:detach, id})

    def list_handlers(prefix) do
      check(prefix)

      for {event, id, function, config} <- all(), List.starts_with?(event, prefix) do
        %{id: id, event_name: event, function: function, config: config}
      end
    end

    def execute(event, measurements), do: execute(event, measurements, %{})

    def execute(event, value, metadata) when is_number(value) do
      execute(event, %{value: value}, metadata)
    end

    # A handler that fails is detached from all its events, and the others are still called.
    def execute(event, measurements, metadata) when is_map(measurements) and is_map(metadata) do
      for {^event, id, function, config} <- handlers(event) do
        try do
          function.(event, measurements, metadata, config)
        catch
          kind, reason ->
            detach(id)

            Logger.error(
              "Handler #{inspect(id)} has failed and has been detached. " <>
                Exception.format(kind, reason, __STACKTRACE__)
            )

            execute([:telemetry, :handler, :failure], %{}, %{
              event_name: event,
              handler_id: id,
              handler_config: config,
              kind: kind,
              reason: reason,
              stacktrace: __STACKTRACE__
            })
        end
      end

      :ok
    end

    defp check(event) do
      unless is_list(event) and Enum.all?(event, &is_atom/1), do: :erlang.error(:badarg, [event])
    end

    defp all, do: if(:ets.whereis(@table) == :undefined, do: [], else: :ets.tab2list(@table))

    defp handlers(event) do
      if :ets.whereis(@table) == :undefined, do: [], else: :ets.lookup(@table, event)
    end

    defp table_owner do
      case GenServer.start(__MODULE__, [], name: __MODULE__) do
        {:ok, pid} -> pid
        {:error, {:already_started, pid}} -> pid
      end
    end

    @impl true
    def init([]) do
      :ets.new(@table, [:duplicate_bag, :named_table, :protected, read_concurrency: true])
      {:ok, nil}
    end

    @impl true
    def handle_call({:attach, id, events, function, config}, _from, state) do
      if known?(id) do
        {:reply, {:error, :already_exists}, state}
      else
        for event <- events, do: :ets.insert(@table, {event, id, function, config})
        {:reply, :ok, state}
      end
    end

    def handle_call({:detach, id}, _from, state) do
      reply = if known?(id), do: :ok, else: {:error, :not_found}
      :ets.match_delete(@table, {:_, id, :_, :_})
      {:reply, reply, state}
    end

    defp known?(id), do: :ets.match(@table, {:_, id, :_, :_}) != []
  end
end

defmodule Reactor.EventRelay do
  @moduledoc false

  # Sends telemetry events to a test, which so can wait for one: {event, measurements, metadata}.

  import ExUnit.Assertions

  @doc """
  Has events sent to the caller until its test ends: those whose metadata has what `match` has, as
  `module: MyServer`, so that tests that run at the same time do not get each other's.
  """
  def attach(match \\ [], events \\ Reactor.Telemetry.events()) do
    id = make_ref()
    config = {self(), Map.new(match)}
    :ok = :telemetry.attach_many(id, events, &__MODULE__.relay/4, config)
    # In these tests it belongs to this application, and so does not run yet when that starts.
    Reactor.Telemetry.refresh()
    # It may have failed, and so be detached.
    ExUnit.Callbacks.on_exit(fn -> :telemetry.detach(id) end)
    id
  end

  @doc "Waits for an event that has what `Reactor.Telemetry` documents, no less and no more."
  def assert_event(event, timeout \\ 20_000) do
    assert_receive {^event, measurements, metadata}, timeout
    documented = Reactor.Telemetry.keys(event)
    assert Enum.sort(Map.keys(measurements)) == Enum.sort(documented.measurements)
    assert Enum.sort(Map.keys(metadata)) == Enum.sort(documented.metadata)
    assert Enum.all?(Map.values(measurements), &is_integer/1)
    {measurements, metadata}
  end

  @doc "Waits for a connection to end for this reason."
  def assert_stopped(reason) do
    assert_receive {[:reactor, :connection, :stop], _, %{reason: ^reason}}, 20_000
  end

  @doc false
  def relay(event, measurements, metadata, {pid, match}) do
    if Map.take(metadata, Map.keys(match)) == match do
      send(pid, {event, measurements, metadata})
    end
  end
end
