defmodule Reactor.SystemStopTest do
  use ExUnit.Case, async: false

  @support Path.expand("../support", __DIR__)

  # Longer than a drain (of 2 s, since somebody never reads) with others on both cores, shorter than what is busy is.
  @limit 10_000

  test "a VM that stops under load exits in time, with its status" do
    for status <- [0, 7] do
      {elapsed, output, exit_status} = run("stop_under_load.exs", [Integer.to_string(status)])
      assert exit_status == status, output
      assert elapsed < @limit, "#{elapsed} ms\n#{output}"
    end
  end

  # Those that end by themselves, and those that have to be interrupted, or are left.
  for isolation <- Reactor.Isolations.all(), busy <- ["spin", "sleep 60", "stubborn 1000000"] do
    test "a VM that stops while Python is busy (#{isolation}, #{busy}) exits in time, with its status" do
      arguments = ["7", "#{unquote(isolation)}", unquote(busy)]
      {elapsed, output, exit_status} = run("stop_while_busy.exs", arguments)
      assert exit_status == 7, output
      assert elapsed < @limit, "#{elapsed} ms\n#{output}"
      refute output =~ "Fatal Python error"
    end
  end

  # The milliseconds from the word "stopping" to the end of the process.
  defp run(script, arguments) do
    paths = for dir <- [:reactor], do: ["-pa", Path.join(:code.lib_dir(dir), "ebin")]

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args:
          List.flatten(paths) ++
            [Path.join(@support, script) | arguments] ++ [Path.join(@support, "python")]
      ])

    await(port, "", nil)
  end

  defp await(port, output, stopping) do
    receive do
      {^port, {:data, data}} ->
        output = output <> data
        stopping = stopping || if(output =~ "stopping", do: System.monotonic_time(:millisecond))
        await(port, output, stopping)

      {^port, {:exit_status, status}} ->
        now = System.monotonic_time(:millisecond)
        {now - (stopping || 0), output, status}
    after
      50_000 -> flunk("no end in sight:\n" <> output)
    end
  end
end
