# What peers/plain_port.exs and subjects/reactor_port.exs have in common: processes that call a function one call
# after the other, each with its own answer checked, for as long as the runner says.

defmodule PortCalls do
  def run(call) do
    [callers, warmup, seconds] = Enum.map(System.argv(), &parse/1)
    done = :counters.new(1, [:write_concurrency])
    for n <- 1..trunc(callers), do: spawn_link(fn -> repeat(call, done, n) end)
    Process.sleep(trunc(warmup * 1_000))
    IO.puts("MEASURING")
    {from, started} = {:counters.get(done, 1), System.monotonic_time(:microsecond)}
    Process.sleep(trunc(seconds * 1_000))
    {to, ended} = {:counters.get(done, 1), System.monotonic_time(:microsecond)}
    IO.puts("MEASURED #{to - from} #{ended - started}")
    # The end of its input is its own.
    IO.read(:line)
    System.halt(0)
  end

  defp repeat(call, done, n) do
    expected = 2 * n
    ^expected = call.(n)
    :counters.add(done, 1, 1)
    repeat(call, done, rem(n, 100) + 1)
  end

  defp parse(text), do: text |> Float.parse() |> elem(0)
end
