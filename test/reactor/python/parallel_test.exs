defmodule Reactor.Python.ParallelTest do
  # What contexts with a GIL of their own are for. It measures, so it runs when it is asked for, by
  # REACTOR_SOAK=1, on a machine that has nothing else to do; and where there are such contexts.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.Isolations

  @python Path.expand("../../support/python", __DIR__)

  # Milliseconds that each measurement takes.
  @time 4_000

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

  test "two do at least 1.6 times the work of one", context do
    servers = for _ <- 1..2, do: start(context, :subinterpreter)
    one = work(Enum.take(servers, 1))
    two = work(servers)
    shared = work(for _ <- 1..2, do: start(context, :shared))

    IO.puts(
      "\ncalls a second: #{one} in one context, #{two} in two, " <>
        "#{shared} in two that share a GIL"
    )

    assert two >= 1.6 * one
  end

  test "one that computes does not delay the other", context do
    for isolation <- [:subinterpreter, :shared], into: %{} do
      [light, heavy] = for _ <- 1..2, do: start(context, isolation)
      alone = latencies(light)
      stop = keep_busy(heavy)
      beside = latencies(light)
      stop.()

      IO.puts(
        "\n#{isolation}: p50 #{percentile(alone, 50)} µs, p99 #{percentile(alone, 99)} µs alone; " <>
          "p50 #{percentile(beside, 50)} µs, p99 #{percentile(beside, 99)} µs beside one that computes"
      )

      {isolation, percentile(beside, 99) - percentile(alone, 99)}
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

  # Of one client that asks again and again, in µs.
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
      else: Enum.sort(taken)
  end

  defp percentile(sorted, n), do: Enum.at(sorted, div(length(sorted) * n, 100))

  defp ask(client, text) do
    :ok = :gen_tcp.send(client, text)
    {:ok, answer} = :gen_tcp.recv(client, 0, 10_000)
    answer
  end
end
