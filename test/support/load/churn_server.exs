# Two Python servers in a VM of their own, each beside a listener whose sockets are handed over to the
# contexts of that server, which live where the argument says. Those of the second are killed now and then.
#
# It answers the ports: of the server and of the listener that are left alone, then of those that are not.
# Commands: `churn MS` kills a context every so often from now on, `calm` does not any more, and `count`
# answers what there is of everything.

defmodule Churn.Steady do
  use Reactor, python: "churned:Churned"
end

defmodule Churn.Churned do
  use Reactor, python: "churned:Churned"
end

defmodule Churn do
  alias Reactor.{Native, Python, Server}

  @python [paths: [Path.expand("protocols", __DIR__)], ip: :loopback, backlog: 4_096]

  def start(isolation) do
    options = [isolation: isolation] ++ @python
    {:ok, steady} = Reactor.start(Churn.Steady, [contexts: 1] ++ options)
    {:ok, churned} = Reactor.start(Churn.Churned, [contexts: 2] ++ options)
    ports = Enum.flat_map([steady, churned], &[Reactor.info(&1).port, handing_over(&1)])
    answer(port: Enum.join(ports, ",") <> ",")
    # Of interpreters of their own the blocks of memory cannot be counted.
    blocks? = isolation != :subinterpreter
    commands(%{steady: steady, churned: churned, blocks?: blocks?, kills: 0, killer: nil})
  end

  # A listener of Erlang's, whose connections go to the contexts of a server.
  defp handing_over(server) do
    options = [:binary, active: false, ip: {127, 0, 0, 1}, backlog: 4_096, reuseaddr: true]
    {:ok, listening} = :gen_tcp.listen(0, options)
    for n <- 1..4, do: spawn_link(fn -> hand_over(listening, server, n) end)
    {:ok, port} = :inet.port(listening)
    # It is closed with its owner, which does not end.
    port
  end

  defp hand_over(listening, server, n) do
    {:ok, socket} = :gen_tcp.accept(listening)
    contexts = contexts(server)
    context = if contexts != [], do: Enum.at(contexts, rem(n, length(contexts)))
    # As a socket, and as a number, in turn.
    {:ok, fd} = :inet.getfd(socket)
    given = if rem(n, 2) == 0, do: socket, else: fd

    # One that was killed a moment ago, or whose peer has gone: it is still ours.
    if context == nil or Python.handoff(context, given, %{n: n}) != :ok,
      do: :gen_tcp.close(socket)

    hand_over(listening, server, n)
  end

  defp contexts(server) do
    server |> Server.board() |> Server.whereis(:contexts) |> Python.Supervisor.contexts()
  catch
    # The supervisor is starting one anew.
    :exit, _reason -> []
  end

  defp commands(state) do
    case IO.gets("") do
      :eof -> System.halt(0)
      line -> line |> String.split() |> command(state) |> commands()
    end
  end

  defp command(["churn", ms], state) do
    test = self()
    kills = state.kills
    killer = spawn_link(fn -> kill(state.churned, String.to_integer(ms), kills, test) end)
    answer(ok: 1)
    %{state | killer: killer}
  end

  defp command(["calm"], state) do
    send(state.killer, :stop)
    kills = receive(do: ({:killed, kills} -> kills))
    answer(kills: kills - state.kills)
    %{state | killer: nil, kills: kills}
  end

  defp command(["count"], state) do
    :erlang.garbage_collect()
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    contexts = contexts(state.steady) ++ contexts(state.churned)
    counted = Enum.map(contexts, &counted(&1, state.blocks?))
    [{_, objects, blocks} | _] = counted
    counters = Native.counters()

    answer(
      open: counters.fds_opened - counters.fds_closed,
      connections: counters.connections,
      contexts: counters.contexts,
      buffers: counters.buffers,
      files: length(File.ls!("/proc/self/fd")),
      processes: length(Process.list()),
      ports: length(Port.list()),
      protocols: counted |> Enum.map(&elem(&1, 0)) |> Enum.sum(),
      objects: objects,
      blocks: blocks,
      resident_kib: resident_kib()
    )

    state
  end

  # In the interpreter of this context, which may be that of all; it may be starting anew.
  defp counted(context, blocks?) do
    case Python.call(context, :churned, :count, [blocks?], timeout: 30_000) do
      {:ok, counted} -> counted
      {:error, _} -> {1, 0, 0}
    end
  end

  defp kill(server, every_ms, kills, to) do
    receive do
      :stop -> send(to, {:killed, kills})
    after
      every_ms ->
        for context <- server |> contexts() |> Enum.take_random(1), do: end_it(context, kills)
        kill(server, every_ms, kills + 1, to)
    end
  end

  # A process of its own is killed itself every other time.
  defp end_it(context, kills) do
    with 1 <- rem(kills, 2), {:ok, %{os_pid: pid}} <- Python.info(context) do
      System.cmd("kill", ["-KILL", "#{pid}"], stderr_to_stdout: true)
    else
      _ -> Process.exit(context, :kill)
    end
  end

  defp resident_kib do
    [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/self/status"))
    kib
  end

  defp answer(values) do
    IO.puts(["=" | Enum.map(values, fn {name, value} -> " #{name}=#{value}" end)])
  end
end

Logger.configure(level: :none)
{:ok, _} = Application.ensure_all_started(:reactor)
[isolation] = System.argv()
Churn.start(String.to_atom(isolation))
