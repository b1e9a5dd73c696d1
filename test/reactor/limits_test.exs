defmodule Reactor.LimitsTest do
  # Two thousand clients keep both cores busy: nothing runs beside it.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.{Isolations, Program}

  @limit 100
  @clients 2_000

  # Handlers count themselves in and out: {inside now, most ever}.
  defmodule Tally do
    def new, do: :atomics.new(2, [])

    def enter(tally), do: raise_most(tally, :atomics.add_get(tally, 1, 1))
    def leave(tally), do: :atomics.sub(tally, 1, 1)
    def counts(tally), do: {:atomics.get(tally, 1), :atomics.get(tally, 2)}

    defp raise_most(tally, now) do
      most = :atomics.get(tally, 2)

      if now > most and :atomics.compare_exchange(tally, 2, most, now) != :ok,
        do: raise_most(tally, now)
    end
  end

  # Echoes 64 bytes twice, and closes.
  defmodule Counted do
    use Reactor
    alias Reactor.Socket

    def handle(connection) do
      tally = connection.listener.env
      Tally.enter(tally)
      exchange(connection, 2)
      Tally.leave(tally)
    end

    defp exchange(_connection, 0), do: :ok

    defp exchange(connection, times) do
      with {:ok, data} <- Socket.recv(connection, 64),
           :ok <- Socket.send(connection, data),
           do: exchange(connection, times - 1)
    end
  end

  defmodule PyCounted do
    use Reactor, python: "counted:Counted"
  end

  # Takes what protocols tell, wherever they live.
  defmodule Count do
    use GenServer

    def start_link(tally), do: GenServer.start_link(__MODULE__, tally, name: __MODULE__)

    @impl true
    def init(tally), do: {:ok, tally}

    @impl true
    def handle_info(1, tally) do
      Tally.enter(tally)
      {:noreply, tally}
    end

    def handle_info(-1, tally) do
      Tally.leave(tally)
      {:noreply, tally}
    end
  end

  @kinds [
    {"Elixir", Counted, []},
    {"Elixir on gen_tcp", Counted, [transport: :tcp]}
    | for(
        isolation <- Isolations.all(),
        options = [isolation: isolation, contexts: 2, paths: [Program.protocols()]],
        do: {"Python #{isolation}", PyCounted, options}
      )
  ]

  for {name, module, options} <- @kinds do
    describe "#{name}, 100 connections for 2,000 clients:" do
      @describetag handler: module, own: options

      test ":wait lets nobody be the 101st, and serves all", context do
        {server, tally} = serve_limited(context, overload: :wait)
        crowd = crowd(server, @clients)

        # As many as there is room for, and they stay until they are let go.
        counts = Program.ask(crowd, "held #{@limit}")
        assert counts.held == @limit
        assert %{connections: @limit, max_connections: @limit} = Reactor.info(server)

        counts = let_go(crowd)
        assert %{served: @clients, refused: 0, wrong: 0, failed: 0} = counts
        assert most(tally) == @limit
        assert %{rejected: 0, accepted: @clients} = Reactor.info(server)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      test ":reject serves those there is room for, and closes the others at once", context do
        {server, tally} = serve_limited(context, overload: :reject)
        crowd = crowd(server, @clients)

        counts = Program.ask(crowd, "settled")
        assert counts.held == @limit
        assert counts.refused == @clients - @limit
        assert Reactor.info(server).rejected == counts.refused
        report(context, "refused after #{ms(counts.refused_p50_ms)}", counts.refused_max_ms)

        counts = let_go(crowd)
        assert %{served: @limit, wrong: 0, failed: 0} = counts
        assert most(tally) == @limit
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      test ":reject while connections come and go: every client is counted once", context do
        {server, tally} = serve_limited(context, overload: :reject)
        crowd = crowd(server, @clients)
        counts = let_go(crowd)

        assert %{wrong: 0, failed: 0} = counts
        assert counts.served + counts.refused == @clients
        assert counts.served >= @limit
        assert %{rejected: rejected, accepted: accepted} = Reactor.info(server)
        assert {rejected, accepted} == {counts.refused, counts.served}
        assert most(tally) <= @limit
      end
    end
  end

  for {name, module, options} <- @kinds, options[:transport] == nil do
    describe "#{name}:" do
      @describetag handler: module, own: options

      test "max_connections_per_ip holds for each address by itself", context do
        {server, tally} =
          serve_limited(context, max_connections: :infinity, max_connections_per_ip: 3)

        crowd = crowd(server, 100, 5)

        # Twenty come from each of five addresses.
        assert %{held: 15, refused: 85, wrong: 0} = Program.ask(crowd, "settled")
        assert %{connections: 15, rejected: 85} = Reactor.info(server)

        assert %{served: 15} = let_go(crowd)
        assert most(tally) == 15
        assert eventually(fn -> Reactor.info(server).connections == 0 end)

        # What was taken has been given back.
        assert %{held: 15, refused: 85} = Program.ask(crowd(server, 100, 5), "settled")
      end

      test "accept_rate is never exceeded by more than a burst, and all are served", context do
        {server, _tally} = serve_limited(context, max_connections: :infinity, accept_rate: 200)
        crowd = crowd(server, 200)

        assert %{served: 200, refused: 0, wrong: 0} = let_go(crowd)

        # Bursts are of a tenth of a second's worth. An answer comes after its accept, so a machine
        # that is slow makes this easier; one more because the first may count from any moment.
        %{times: times} = Program.ask(crowd, "times")

        for {seconds, n} <- Enum.with_index(times, 1) do
          assert n <= 20 + 200 * seconds + 1, "#{n} after #{seconds} s"
        end

        report(context, "200 at 200 a second", List.last(times) * 1_000)
      end
    end
  end

  # --- what the tests share -------------------------------------------------------------------

  defp serve_limited(%{handler: module, own: own} = context, options) do
    tally = Tally.new()
    limits = [max_connections: @limit, backlog: 4_096, env: tally]
    options = limits |> Keyword.merge(options) |> Keyword.merge(own)
    if module == PyCounted, do: start_supervised!({Count, tally})
    {serve(context, module, options), tally}
  end

  defp crowd(server, clients, sources \\ 1) do
    Program.clients("crowd.py", [port(server), clients, sources])
  end

  # Every client finishes, those too that come only now.
  defp let_go(crowd) do
    Program.ask(crowd, "go")
    Program.ask(crowd, "done")
  end

  # The most that were ever inside; nobody is any more.
  defp most(tally) do
    assert eventually(fn -> match?({0, _most}, Tally.counts(tally)) end)
    {0, most} = Tally.counts(tally)
    most
  end

  # REACTOR_SOAK=1 shows the figures.
  defp report(context, text, most_ms) do
    if System.get_env("REACTOR_SOAK") == "1",
      do: IO.puts("#{context.describe} #{text}, at most #{ms(most_ms)}")
  end

  defp ms(value), do: "#{Float.round(value, 1)} ms"
end
