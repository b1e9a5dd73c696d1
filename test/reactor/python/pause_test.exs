defmodule Reactor.Python.PauseTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{Python, Server}

  @python Path.expand("../../support/python", __DIR__)

  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "apart:Apart"
  end

  # A server whose only context has died too often: it waits for a second before it starts again.
  setup context do
    server = serve(context, Py, contexts: 1, isolation: :process, paths: [@python])
    board = Server.board(server)
    %{server: server, board: board, paused: paused(board, 5)}
  end

  # On a machine that stops for a while the pause may be over when it is looked at.
  defp paused(board, tries) do
    assert tries > 0, "it has started at once, and the supervisor had to wait for that"
    [before] = Server.contexts(board)
    now = System.monotonic_time(:millisecond)
    :ets.insert(board, {{:context_deaths, 1}, 100, now})
    Process.exit(before, :kill)
    assert eventually(fn -> Server.contexts(board) not in [[], [before]] end)
    [paused] = Server.contexts(board)
    if paused?(paused), do: paused, else: paused(board, tries - 1)
  end

  defp paused?(pid), do: Python.Directory.native(pid) == {:error, :noproc}

  test "nobody waits for the pause who asks the server", %{server: server, board: board} do
    assert %{connections: 0, state: :running} = Reactor.info(server)
    assert Reactor.connections(server) == []

    # Nor who asks the process what a context without connections can say: this pause is longer than a call waits.
    {:ok, long} = Python.Pause.start_link(board, 1, 60_000)
    assert GenServer.call(long, :survey) == :ok
    assert paused?(long)
  end

  test "what has to be answered by Python ends the pause", %{server: server, paused: paused} do
    assert {:error, %Python.Error{}} = Reactor.update(server, python: "no_such_module:Protocol")
    refute paused?(paused)
    assert Reactor.update(server, python: "careful_echo:CarefulEcho") == :ok
    client = dial(server)
    :ok = :gen_tcp.send(client, "echo")
    assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "echo"}
  end

  test "a server that is stopped does not wait for it", %{server: server, paused: paused} do
    monitor = Process.monitor(paused)
    assert Reactor.stop(server) == :ok
    assert_receive {:DOWN, ^monitor, :process, ^paused, :shutdown}
  end

  test "after it the context serves as before", %{server: server, paused: paused} do
    assert eventually(fn -> not paused?(paused) end)
    client = dial(server)
    :ok = :gen_tcp.send(client, "pid")
    assert {:ok, os_pid} = :gen_tcp.recv(client, 0, 5_000)
    assert os_pid =~ ~r/^\d+$/
    assert {:ok, %{state: :running}} = Python.info(paused)
  end
end
