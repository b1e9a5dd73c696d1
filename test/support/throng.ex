defmodule Reactor.Throng do
  @moduledoc false

  # Clients and callers that keep a server of test/support/python/apart.py busy while something happens to one of its
  # contexts, and what they saw of it:
  #
  #   * talkers have a connection each, and expect back whatever they send;
  #   * visitors come, are served, and go; who is turned away comes again;
  #   * callers call the contexts in turn.

  import ExUnit.Assertions
  import Reactor.TransportCase, only: [dial: 1]

  alias Reactor.{Python, Server}

  @talkers 24
  @visitors 8
  @callers 4

  # So much of each is looked at, from the moment that something happened.
  @rounds 3

  # How long a visit may take, in ms: who has not been served by then gives up.
  @patience 2_000

  # What has no limit that a test is about: a machine that is busy, or stops for a while, may take long.
  @long 20_000

  @doc "Starts them, and waits until all have been served. A caller gives up after so many ms."
  def start(server, call_timeout) do
    homes = homes(server, MapSet.new(), 500)

    talkers =
      for n <- 1..@talkers, do: spawn_one(fn test -> talk(server, home(homes, n), test) end)

    visitors = for _ <- 1..@visitors, do: spawn_one(fn test -> visit(server, test) end)
    callers = for _ <- 1..@callers, do: spawn_one(fn test -> call(server, call_timeout, test) end)
    homes = for talker <- talkers, into: %{}, do: {talker, receive(do: ({^talker, home} -> home))}
    for other <- visitors ++ callers, do: receive(do: ({^other, :busy} -> :ok))
    %{talkers: homes, visitors: visitors, callers: callers}
  end

  # Those of the server's two contexts.
  defp homes(server, found, left) do
    assert left > 0, "all go to one context: #{inspect(found)}"
    client = dial(server)
    {:ok, home} = ask(client, "home")
    :gen_tcp.close(client)
    found = MapSet.put(found, home)
    if MapSet.size(found) == 2, do: MapSet.to_list(found), else: homes(server, found, left - 1)
  end

  defp home(homes, n), do: Enum.at(homes, rem(n, 2))

  defp spawn_one(work) do
    test = self()
    spawn_link(fn -> work.(test) end)
  end

  @doc """
  What they see from now on, when something has happened to the context of that home: how long visits took at
  most, in ms, what calls came to, and how many talked on, all of those whose home is another.
  """
  def look(throng, home) do
    others = for {talker, other} <- throng.talkers, other != home, do: talker
    assert length(others) == div(@talkers, 2)
    asked = throng.visitors ++ throng.callers ++ others
    for one <- asked, do: send(one, :look)
    seen = fn ones -> for one <- ones, do: receive(do: ({^one, {:seen, seen}} -> seen)) end
    visits = throng.visitors |> seen.() |> List.flatten()
    calls = throng.callers |> seen.() |> List.flatten()
    for talked <- seen.(others), do: assert(talked == @rounds)
    assert Enum.max(for {ms, _} <- calls, do: ms) < 2 * @patience
    %{longest_visit: Enum.max(visits), calls: for({_, result} <- calls, do: result)}
  end

  @doc "Ends them."
  def stop(throng) do
    for one <- Map.keys(throng.talkers) ++ throng.visitors ++ throng.callers do
      Process.unlink(one)
      Process.exit(one, :kill)
    end
  end

  @doc "Asks the protocol of a connection."
  def ask(client, text, timeout \\ @long) do
    with :ok <- :gen_tcp.send(client, text), do: :gen_tcp.recv(client, 0, timeout)
  end

  defp talk(server, wanted, test) do
    client = dial(server)

    case ask(client, "home") do
      {:ok, ^wanted} ->
        send(test, {self(), wanted})
        talk_on(client, test, nil)

      {:ok, _other} ->
        :gen_tcp.close(client)
        talk(server, wanted, test)
    end
  end

  # Who has lost its connection has nothing more to say.
  defp talk_on(client, test, left) do
    if left == 0, do: send(test, {self(), {:seen, @rounds}})

    case ask(client, "word", 60_000) do
      {:ok, "word"} -> talk_on(client, test, left(left))
      {:error, reason} -> receive(do: (:look -> send(test, {self(), {:seen, reason}})))
    end
  end

  # How many rounds are left to be looked at.
  defp left(nil), do: receive(do: (:look -> @rounds), after: (0 -> nil))
  defp left(0), do: nil
  defp left(left), do: left - 1

  defp visit(server, test) do
    visited(server, now())
    send(test, {self(), :busy})
    look_at(test, fn -> visited(server, now()) end)
  end

  # How long it took, in ms.
  defp visited(server, begun) do
    client = dial(server)
    answer = ask(client, "knock", max(begun + @patience - now(), 0))
    :gen_tcp.close(client)

    case answer do
      {:ok, "knock"} -> now() - begun
      {:error, :timeout} -> @patience
      {:error, _closed} -> visited(server, begun)
    end
  end

  defp call(server, timeout, test) do
    {_ms, {:ok, 4}} = called(server, @long)
    send(test, {self(), :busy})
    look_at(test, fn -> called(server, timeout) end)
  end

  # The next one of those that there are just now.
  defp called(server, timeout) do
    case server |> Server.board() |> Server.contexts() do
      [] ->
        called(server, timeout)

      contexts ->
        turn = Process.get(:turn, 0)
        Process.put(:turn, turn + 1)
        context = Enum.at(contexts, rem(turn, length(contexts)))
        begun = now()
        result = Python.call(context, :apart, :twice, [2], timeout: timeout)
        {now() - begun, result}
    end
  end

  # Does something all the time, and tells what came of it from the moment that it is asked.
  defp look_at(test, work) do
    receive do
      :look -> send(test, {self(), {:seen, for(_ <- 1..@rounds, do: work.())}})
    after
      0 -> work.()
    end

    look_at(test, work)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
