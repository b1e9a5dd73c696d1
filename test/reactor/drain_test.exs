defmodule Reactor.DrainTest do
  # Sixty-four clients in loops: nothing runs beside them.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.{Isolations, Program, Python, Server, Socket}

  @clients 64
  @soak System.get_env("REACTOR_SOAK") == "1"
  @rounds if @soak, do: 10, else: 2

  # A request that takes a while, in ms.
  @slow 100

  # Requests are of 16 bytes, three of them the client's number; the last is f (fast), s (slow) or
  # n (never answered). Handlers count what they have received: in a :counters, the listener's env.
  defmodule Requests do
    def count(received, <<client::binary-3, _::binary>>) do
      :counters.add(received, String.to_integer(client) + 1, 1)
    end

    def letter(request), do: :binary.last(request)
    def answer(request), do: :binary.copy(request, 64)
  end

  defmodule Handled do
    use Reactor

    @slow 100

    def handle(connection) do
      with {:ok, request} <- Socket.recv(connection, 16) do
        Requests.count(connection.listener.env, request)
        work(Requests.letter(request))

        with :ok <- Socket.send(connection, Requests.answer(request)) do
          handle(connection)
        end
      end

      :ok
    end

    defp work(?f), do: :ok
    defp work(?s), do: receive(after: (@slow -> :ok))
    defp work(?n), do: receive(do: (:never -> :ok))
  end

  defmodule Served do
    use Reactor
    use GenServer

    @slow 100

    @impl Reactor.Behaviour
    def start(connection), do: GenServer.start(__MODULE__, connection)

    @impl GenServer
    def init(connection), do: {:ok, {connection, ""}}

    @impl GenServer
    def handle_info({Reactor, :ack}, {connection, ""} = state) do
      Socket.active!(connection, :once)
      {:noreply, state}
    end

    def handle_info({:tcp, _socket, data}, {connection, begun}) do
      received(connection, begun <> data)
    end

    def handle_info({:answer, request}, state), do: answer(request, state)
    def handle_info({:tcp_closed, _socket}, state), do: {:stop, :normal, state}

    defp received(connection, request) when byte_size(request) < 16 do
      Socket.active!(connection, :once)
      {:noreply, {connection, request}}
    end

    defp received(connection, request) do
      Requests.count(connection.listener.env, request)

      case Requests.letter(request) do
        ?f -> answer(request, {connection, ""})
        ?s -> answer_later(request, {connection, ""})
        ?n -> {:noreply, {connection, ""}}
      end
    end

    defp answer_later(request, state) do
      Process.send_after(self(), {:answer, request}, @slow)
      {:noreply, state}
    end

    defp answer(request, {connection, ""} = state) do
      with :ok <- Socket.send(connection, Requests.answer(request)),
           :ok <- Socket.active(connection, :once) do
        {:noreply, state}
      else
        {:error, _reason} -> {:stop, :normal, state}
      end
    end
  end

  defmodule PyRequests do
    use Reactor, python: "requests:Requests"
  end

  @kinds [
    {"handle/1", Handled, nil},
    {"a GenServer", Served, nil}
    | for(isolation <- Isolations.all(), do: {"Python #{isolation}", PyRequests, isolation})
  ]

  for {name, module, isolation} <- @kinds do
    describe "#{name}:" do
      @describetag handler: module
      if isolation, do: @describetag(isolation: isolation)

      test "whatever was received is answered, and the server can go on", context do
        {server, received} = serve_requests(context)
        clients = Program.clients("loops.py", [port(server), @clients, 0])

        for _ <- 1..@rounds do
          %{total: total} = Program.ask(clients, "again")
          Program.ask(clients, "answered #{total + 2_000}")

          {ms, {:ok, counts}} = drain(server, 10_000)
          assert %{connections: n, finished: n, cut: 0} = counts
          # A client's last connection may still be there beside its next.
          assert n in 1..(2 * @clients)
          assert ms < 10_000
          assert %{state: :suspended, connections: 0} = Reactor.info(server)

          # Counted on both sides, for each client.
          assert %{partial: 0, answered: answered} = Program.ask(clients, "refused")
          assert received(received) == answered

          assert Reactor.resume(server) == :ok
          assert %{state: :running} = Reactor.info(server)
        end

        # Everybody is served again, to the end.
        before = Program.ask(clients, "again")
        assert %{partial: 0, answered: answered} = counts = Program.ask(clients, "end")
        assert counts.unanswered == before.unanswered
        assert received(received) == answered
        report(context, counts)
      end

      test "who does not finish in time is cut, and counted", context do
        {server, received} = serve_requests(context)
        clients = Program.clients("loops.py", [port(server), @clients, 10])
        Program.ask(clients, "answered 1000")
        assert eventually(fn -> Enum.take(received(received), 10) == List.duplicate(1, 10) end)

        timeout = 5 * @slow
        {ms, {:ok, counts}} = drain(server, timeout)
        assert %{connections: n, finished: finished, cut: 10} = counts
        assert finished + 10 == n
        # It uses the time that it has; the end of the handlers takes a moment more.
        assert ms >= timeout and ms < timeout + 500
        assert Reactor.info(server).connections == 0

        assert %{partial: 0, answered: answered} = Program.ask(clients, "refused")
        assert Enum.drop(received(received), 10) == Enum.drop(answered, 10)
        assert Enum.take(answered, 10) == List.duplicate(0, 10)
      end
    end
  end

  test "a drain of a server that nobody uses takes no time" do
    {:ok, server} = Reactor.start(Handled, ip: :loopback)
    assert {ms, {:ok, %{connections: 0, finished: 0, cut: 0}}} = drain(server, 10_000)
    assert ms < 1_000
    assert Reactor.stop(server) == :ok
    assert Reactor.drain(server, 1_000) == {:error, :not_found}
  end

  # --- what the tests share -------------------------------------------------------------------

  defp serve_requests(%{handler: PyRequests} = context) do
    server = serve(context, PyRequests, paths: [Program.protocols()], contexts: 2)
    contexts = server |> Server.board() |> Server.contexts()
    # Those that share an interpreter count together.
    contexts = if context.isolation == :shared, do: Enum.take(contexts, 1), else: contexts
    for context <- contexts, do: {:ok, nil} = Python.call(context, :requests, :clear)
    {server, contexts}
  end

  defp serve_requests(%{handler: module} = context) do
    received = :counters.new(@clients, [])
    {serve(context, module, env: received), received}
  end

  defp drain(server, timeout) do
    begun = System.monotonic_time(:millisecond)
    result = Reactor.drain(server, timeout)
    {System.monotonic_time(:millisecond) - begun, result}
  end

  # A request that is on its way when its connection is closed was not received. There are few: before a
  # connection is taken to be idle, the loop looks once more whether something has come.
  defp report(context, %{total: answered, unanswered: unanswered}) do
    if @soak do
      IO.puts(
        "#{context.describe} #{@rounds} drains, #{answered} requests answered, " <>
          "#{unanswered} were on their way when their connection was closed"
      )
    end
  end

  # How many requests of each client handlers have received.
  defp received(contexts) when is_list(contexts) do
    counts =
      for context <- contexts do
        {:ok, counts} = Python.call(context, :requests, :tell)
        counts
      end

    Enum.zip_with(counts, &Enum.sum/1)
  end

  defp received(counters), do: for(i <- 1..@clients, do: :counters.get(counters, i))
end
