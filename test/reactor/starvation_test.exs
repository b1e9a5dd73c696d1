defmodule Reactor.StarvationTest do
  # The CPU time of a server without a file descriptor left is measured: nothing runs beside it.
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.Program

  @open_files 256
  @clients 2_000

  # How long its CPU time is measured, and the most it may be, of one core.
  @soak System.get_env("REACTOR_SOAK") == "1"
  @measured_ms if @soak, do: 10_000, else: 1_000
  @most 0.2

  # An episode is over after a second without.
  @calm_ms 1_500

  @moduletag timeout: 180_000

  @python [paths: [Program.protocols()], contexts: 2]

  @several [reuseport: true, num_listen_sockets: 4]

  for {name, module, options} <- [
        {"Elixir", Load.Twice, []},
        {"Elixir on four sockets", Load.Twice, @several},
        {"Python", Load.PyTwice, @python},
        {"Python on four sockets", Load.PyTwice, @python ++ @several}
      ] do
    test "#{name}: it neither spins nor crashes, tells it once, and goes on at once" do
      {server, port} = server(unquote(module), unquote(options))
      {crowd, held} = starve(server, port)
      share = cpu_share(server)
      assert share < @most
      assert accept_errors(server) == 1

      # Those who are there leave, and the others have their turn.
      counts = let_go(crowd)
      assert %{served: @clients, refused: 0, wrong: 0, failed: 0} = counts
      assert counts.resumed_ms < 1_000
      assert accept_errors(server) == 1
      report("#{unquote(name)}, :wait", held, share, "resumed after #{counts.resumed_ms} ms")
      Program.stop(crowd)

      # The next time, which is told of too, whoever comes in vain is closed at once.
      Program.ask(server, "update 0 overload reject")
      pause(@calm_ms)
      crowd = Program.clients("crowd.py", [port, @clients, 1])
      counts = Program.ask(crowd, "settled")
      assert %{held: ^held, wrong: 0, failed: 0, refused: refused} = counts
      assert held + refused == @clients
      assert %{rejected: ^refused, connections: ^held} = Program.ask(server, "info 0")
      share = cpu_share(server)
      assert share < @most
      assert accept_errors(server) == 2
      report("#{unquote(name)}, :reject", held, share, "refused in #{counts.refused_max_ms} ms")

      # And then there is room again.
      assert %{served: ^held, wrong: 0} = let_go(crowd)
      assert eventually(fn -> connections(server) == 0 end)
      crowd = Program.clients("crowd.py", [port, 100, 1])
      counts = let_go(crowd)
      assert %{served: 100, refused: 0} = counts
      Program.stop(server)
    end
  end

  # Its acceptors try again ever later, so that all of 2,000 take a while.
  @tcp_clients if @soak, do: 2_000, else: 500

  test "Elixir on gen_tcp: it neither spins nor crashes, and goes on" do
    {server, port} = server(Load.Twice, transport: :tcp)
    {crowd, held} = starve(server, port, @tcp_clients)
    share = cpu_share(server)
    assert share < @most
    counts = let_go(crowd)
    assert %{served: @tcp_clients, refused: 0, wrong: 0, failed: 0} = counts
    report("gen_tcp, :wait", held, share, "resumed after #{counts.resumed_ms} ms")
    Program.stop(server)
  end

  # A server in a VM of its own that may have few open files, and its port.
  defp server(module, options) do
    server = Program.vm("load_server.exs", @open_files, [[{module, options}]])
    %{port: [port]} = Program.answer(server)
    {server, port}
  end

  # Has so many clients come that most of them must wait; how many have not to.
  defp starve(server, port, clients \\ @clients) do
    crowd = Program.clients("crowd.py", [port, clients, 1])
    assert %{dialed: ^clients, failed: 0} = Program.ask(crowd, "dialed")
    Program.ask(server, "await accept_error_emfile")
    held = connections(server)
    assert held > 100 and held < @open_files
    assert %{held: ^held, refused: 0} = Program.ask(crowd, "held #{held}")
    {crowd, held}
  end

  # Every client finishes, those too that come only now.
  defp let_go(crowd) do
    Program.ask(crowd, "go")
    Program.ask(crowd, "done")
  end

  defp connections(server), do: Program.ask(server, "info 0").connections

  defp accept_errors(server), do: Program.ask(server, "events").accept_error_emfile

  # Of one core, while nothing changes.
  defp cpu_share(server) do
    {cpu, time} = {Program.cpu_ms(server), System.monotonic_time(:millisecond)}
    # Its start took some: this is the VM, and not a shell that waits for it.
    assert cpu > 100
    pause(@measured_ms)
    (Program.cpu_ms(server) - cpu) / (System.monotonic_time(:millisecond) - time)
  end

  # Here the time itself is what is waited for.
  defp pause(ms) do
    Process.send_after(self(), :over, ms)
    assert_receive :over, 2 * ms
  end

  defp report(name, held, share, text) do
    if @soak do
      IO.puts("#{name}: #{held} of #{@clients} connected, #{round(share * 100)} % CPU, #{text}")
    end
  end
end
