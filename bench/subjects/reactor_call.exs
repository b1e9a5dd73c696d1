# Calls from Elixir into one Python context, and what they take.
#
#     elixir reactor_call.exs WARMUP_MS MEASURED_MS
#
# First one process calls, one call after the other; then 1,000 processes at once. Each checks that the answer
# is its own. Prints a name and a number per line.

{:ok, _applications} = Application.ensure_all_started(:reactor)
[warmup, measured] = Enum.map(System.argv(), &String.to_integer/1)
{:ok, context} = Reactor.Python.start_context()

defmodule Calls do
  @callers 1_000

  def sequential(context, ms), do: sequential(context, now() + ms * 1_000_000, [], now())

  defp sequential(context, until, taken, before) when before < until do
    {:ok, 4.0} = Reactor.Python.call(context, :math, :sqrt, [16])
    now = now()
    sequential(context, until, [now - before | taken], now())
  end

  defp sequential(_context, _until, taken, _before), do: taken

  def concurrent(context, ms) do
    until = now() + ms * 1_000_000

    1..@callers
    |> Enum.map(fn caller -> Task.async(fn -> ask(context, caller, until, 0) end) end)
    |> Task.await_many(:infinity)
    |> Enum.sum()
  end

  # The square root of a square: another one for each caller and each call.
  defp ask(context, caller, until, count) do
    if now() < until do
      root = (caller * 10_000 + rem(count, 10_000)) * 1.0
      {:ok, ^root} = Reactor.Python.call(context, :math, :sqrt, [root * root], timeout: 60_000)
      ask(context, caller, until, count + 1)
    else
      count
    end
  end

  defp now, do: System.monotonic_time(:nanosecond)
end

Calls.sequential(context, warmup)
taken = context |> Calls.sequential(measured) |> Enum.sort()
at = fn part -> Enum.at(taken, trunc(length(taken) * part)) / 1_000 end
IO.puts("p50_us #{at.(0.5)}")
IO.puts("p99_us #{at.(0.99)}")
IO.puts("requests_per_s #{length(taken) / (measured / 1_000)}")

begun = System.monotonic_time(:microsecond)
calls = Calls.concurrent(context, measured)
took = System.monotonic_time(:microsecond) - begun
IO.puts("concurrent_per_s #{calls * 1_000_000 / took}")
System.stop(0)
Process.sleep(:infinity)
