defmodule Reactor.Python.ParallelTest do
  # What contexts with a GIL of their own are for. It measures, so it runs when it is asked for, by
  # REACTOR_SOAK=1, on a machine that has nothing else to do; and where there are such contexts.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.Isolations

  @python Path.expand("../../support/python", __DIR__)

  # Milliseconds that each measurement takes, and how often it is made. What else the machine does can only
  # spoil one, so the best counts.
  @time 1_000
  @rounds 3

  # Of data_received: about a millisecond, and tens of them.
  @work 10_000
  @heavy 400_000

  @moduletag timeout: 120_000

  cond do
    System.get_env("REACTOR_SOAK") != "1" ->
      @moduletag skip: "measures, and is asked for by REACTOR_SOAK=1"

    :subinterpreter not in Isolations.all() ->
      @moduletag skip: "this Python has no interpreters with a GIL of their own"

    System.schedulers_online() < 2 ->
      @moduletag skip: "there is one core"

    true ->
      :ok
  end

  defmodule Py do
    use Reactor, python: "patience:Obeys"
  end

  # A server with one context.
  defp start(context, isolation) do
    serve(context, Py, paths: [@python], isolation: isolation)
  end

  # Of two idle cores that is 1.6 times the work of one.
  test "two do at least 0.8 times as much more than one as the machine can", context do
    servers = for _ <- 1..2, do: start(context, :subinterpreter)
    sharing = for _ <- 1..2, do: start(context, :shared)

    {:ok, %{executable: python}} = Reactor.Python.Doctor.report()

    [one, two, shared, process, processes] =
      for _ <- 1..@rounds do
        contexts = Enum.map([Enum.take(servers, 1), servers, sharing], &work/1)
        contexts ++ for(n <- 1..2, do: processes(python, n))
      end
      |> Enum.zip_with(&Enum.max/1)

    IO.puts(
      "\ncalls a second: #{one} in one context, #{two} in two, " <>
        "#{shared} in two that share a GIL; #{process} in a process of its own, #{processes} in two"
    )

    assert two / one >= 0.8 * processes / process
  end

  test "one that computes does not delay the other", context do
    for isolation <- [:subinterpreter, :shared], into: %{} do
      [light, heavy] = for _ <- 1..2, do: start(context, isolation)

      [alone, beside] =
        for _ <- 1..@rounds do
          alone = latencies(light)
          stop = keep_busy(heavy)
          beside = latencies(light)
          stop.()
          [alone, beside]
        end
        |> Enum.zip_with(&Enum.min_by(&1, fn {_p50, p99} -> p99 end))

      IO.puts("\n#{isolation}: #{text(alone)} alone; #{text(beside)} beside one that computes")
      {isolation, elem(beside, 1) - elem(alone, 1)}
    end
    |> then(fn later ->
      # A callback of the other takes tens of milliseconds; Python gives the GIL away after five.
      assert later.subinterpreter < 2_500
    end)
  end

  # Calls a second, of two clients for each server.
  defp work(servers) do
    until = System.monotonic_time(:millisecond) + @time

    servers
    |> Enum.flat_map(&[&1, &1])
    |> Enum.map(fn server -> Task.async(fn -> calls(dial(server), until, 0) end) end)
    |> Task.await_many(60_000)
    |> Enum.sum()
    |> then(&round(&1 * 1_000 / @time))
  end

  # The same by Python processes without a server: what the machine can.
  defp processes(python, n) do
    code = """
    import time
    end, calls = time.monotonic() + #{@time} / 1000, 0
    while time.monotonic() < end:
        total = 0
        for i in range(#{@work}):
            total += i * i
        calls += 1
    print(calls)
    """

    1..n
    |> Enum.map(fn _ -> Task.async(fn -> System.cmd(python, ["-c", code]) end) end)
    |> Task.await_many(60_000)
    |> Enum.map(fn {calls, 0} -> calls |> String.trim() |> String.to_integer() end)
    |> Enum.sum()
    |> then(&round(&1 * 1_000 / @time))
  end

  defp calls(client, until, n) do
    ask(client, "work #{@work}")
    if System.monotonic_time(:millisecond) < until, do: calls(client, until, n + 1), else: n
  end

  defp keep_busy(server) do
    tasks = for _ <- 1..2, do: Task.async(fn -> endless(dial(server)) end)
    fn -> Enum.each(tasks, &Task.shutdown(&1, :brutal_kill)) end
  end

  defp endless(client) do
    ask(client, "work #{@heavy}")
    endless(client)
  end

  # The median and the 99th percentile of one client that asks again and again, in µs.
  defp latencies(server) do
    client = dial(server, nodelay: true)
    for _ <- 1..200, do: ask(client, "warm")
    measure(client, System.monotonic_time(:millisecond) + @time, [])
  end

  defp measure(client, until, taken) do
    {took, "x"} = :timer.tc(fn -> ask(client, "x") end)
    taken = [took | taken]

    if System.monotonic_time(:millisecond) < until,
      do: measure(client, until, taken),
      else: percentiles(Enum.sort(taken))
  end

  defp percentiles(sorted) do
    at = fn n -> Enum.at(sorted, div(length(sorted) * n, 100)) end
    {at.(50), at.(99)}
  end

  defp text({p50, p99}), do: "p50 #{p50} µs, p99 #{p99} µs"

  defp ask(client, text) do
    :ok = :gen_tcp.send(client, text)
    {:ok, answer} = :gen_tcp.recv(client, 0, 10_000)
    answer
  end
end
