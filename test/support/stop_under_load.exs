# Run by system_stop_test.exs in a VM of its own: two servers under load in the tree of an application,
# and then System.stop/1. Arguments: the status to exit with, and the directory of the Python files.

[status, python] = System.argv()

defmodule Load.Echo do
  use Reactor

  def handle(connection) do
    case Reactor.Socket.recv(connection) do
      {:ok, data} ->
        Reactor.Socket.send(connection, data)
        handle(connection)

      {:error, _reason} ->
        :ok
    end
  end
end

defmodule Load.PyEcho do
  use Reactor, python: "plain_echo:PlainEcho"
end

defmodule Load.Application do
  use Application

  def start(_type, python) do
    children = [
      {Load.Echo, ip: :loopback, name: :elixir_server, drain_timeout: 2_000},
      {Load.PyEcho,
       ip: :loopback, name: :python_server, paths: [python], contexts: 2, drain_timeout: 2_000}
    ]

    Supervisor.start_link(children, strategy: :one_for_one)
  end
end

defmodule Load.Client do
  # Reports after some round trips, and goes on until the connection ends.
  def run(port, parent) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    loop(socket, parent, 0)
  end

  defp loop(socket, parent, n) do
    if n == 20, do: send(parent, :warm)

    with :ok <- :gen_tcp.send(socket, :binary.copy("x", 1_000)),
         {:ok, _} <- :gen_tcp.recv(socket, 1_000) do
      loop(socket, parent, n + 1)
    end
  end
end

:ok =
  :application.load(
    {:application, :load,
     [
       description: ~c"servers under load",
       vsn: ~c"1",
       modules: [],
       registered: [],
       applications: [:kernel, :stdlib, :elixir, :reactor],
       mod: {Load.Application, python}
     ]}
  )

{:ok, _} = Application.ensure_all_started(:load)
parent = self()

for server <- [:elixir_server, :python_server] do
  port = Reactor.info(server).port

  for _ <- 1..20, do: spawn(fn -> Load.Client.run(port, parent) end)

  # One that sends and never reads, so that the server has something left to write.
  spawn(fn ->
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    send(parent, :warm)
    Enum.each(Stream.cycle([:binary.copy("x", 65_536)]), &:gen_tcp.send(socket, &1))
  end)
end

for _ <- 1..42, do: receive(do: (:warm -> :ok))
IO.puts("stopping")
System.stop(String.to_integer(status))
Process.sleep(:infinity)
