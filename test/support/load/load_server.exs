# Servers in a VM of their own, for tests that take its file descriptors or its CPU time.
#
#     load_server.exs "[{module, options}, ...]"
#
# The modules are those below. It answers the ports, one for each server. Commands: `info N` answers
# counts of the Nth server, and `update N KEY VALUE` changes it; `events` answers how often each
# event happened, under names like accept_error_emfile, and `await EVENT` does so once that one has.

defmodule Load.Twice do
  use Reactor
  alias Reactor.Socket

  # Echoes 64 bytes twice, and closes.
  def handle(connection), do: exchange(connection, 2)

  defp exchange(_connection, 0), do: :ok

  defp exchange(connection, times) do
    with {:ok, data} <- Socket.recv(connection, 64),
         :ok <- Socket.send(connection, data),
         do: exchange(connection, times - 1)
  end
end

defmodule Load.PyTwice do
  use Reactor, python: "counted:Twice"
end

defmodule Load.Echo do
  use Reactor

  def handle(connection) do
    with {:ok, data} <- Reactor.Socket.recv(connection),
         :ok <- Reactor.Socket.send(connection, data) do
      handle(connection)
    else
      {:error, _reason} -> :ok
    end
  end
end

defmodule Load.PyEcho do
  use Reactor, python: "plain_echo:PlainEcho"
end

defmodule Load.Events do
  # Counts what telemetry tells.

  @table :load_events

  def start do
    :ets.new(@table, [:named_table, :public])
    :telemetry.attach_many(@table, Reactor.Telemetry.events(), &__MODULE__.count/4, nil)
  end

  def all, do: :ets.tab2list(@table)

  # [:reactor, :connection, :stop] with the reason :idle_timeout is connection_stop_idle_timeout.
  def count([:reactor | name], measurements, metadata, nil) do
    key = Enum.join(name ++ List.wrap(metadata[:reason]), "_")
    :ets.update_counter(@table, key, Map.get(measurements, :count, 1), {key, 0})
    with [{:waiting, pid}] <- :ets.lookup(@table, :waiting), do: send(pid, {:event, key})
  end

  def await(key) do
    :ets.insert(@table, {:waiting, self()})
    if :ets.member(@table, key), do: :ok, else: receive(do: ({:event, ^key} -> :ok))
    :ets.delete(@table, :waiting)
  end
end

defmodule Load do
  # Code is loaded when it is first needed, unless it is a release: with no file left to be opened
  # that would be too late, whatever it belongs to.
  def load_all do
    for application <- [:kernel, :stdlib, :elixir, :logger, :reactor],
        {:ok, modules} <- [:application.get_key(application, :modules)],
        do: :code.ensure_modules_loaded(modules)
  end

  def answer(values) do
    IO.puts(["=" | Enum.map(values, fn {name, value} -> " #{name}=#{text(value)}" end)])
  end

  defp text(list) when is_list(list), do: Enum.map_join(list, &"#{&1},")
  defp text(value), do: value

  def commands(servers) do
    case IO.gets("") do
      :eof ->
        System.halt(0)

      line ->
        line |> String.split() |> command(servers) |> answer()
        commands(servers)
    end
  end

  defp command(["info", n], servers) do
    servers
    |> Enum.at(String.to_integer(n))
    |> Reactor.info()
    |> Map.take([:connections, :accepted, :rejected])
  end

  defp command(["update", n, key, value], servers) do
    server = Enum.at(servers, String.to_integer(n))
    :ok = Reactor.update(server, [{String.to_existing_atom(key), String.to_existing_atom(value)}])
    []
  end

  defp command(["events"], _servers), do: Load.Events.all()

  defp command(["await", event], _servers) do
    Load.Events.await(event)
    Load.Events.all()
  end
end

[servers] = System.argv()
{servers, []} = Code.eval_string(servers)
{:ok, _} = Application.ensure_all_started(:reactor)
Load.load_all()
Load.Events.start()

servers =
  for {module, options} <- servers do
    options = Keyword.merge([ip: :loopback, backlog: 4_096], options)
    {:ok, server} = Reactor.start(module, options)
    server
  end

Load.answer(port: Enum.map(servers, &Reactor.info(&1).port))
Load.commands(servers)
