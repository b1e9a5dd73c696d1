defmodule Reactor.SystemStopTest do
  use ExUnit.Case, async: false

  @support Path.expand("../support", __DIR__)

  # Longer than a drain, shorter than anybody's patience.
  @limit 5_000

  test "a VM that stops under load exits in time, with its status" do
    for status <- [0, 7] do
      {elapsed, output, exit_status} = run(status)
      assert exit_status == status, output
      assert elapsed < @limit, "#{elapsed} ms\n#{output}"
    end
  end

  # The milliseconds from the word "stopping" to the end of the process.
  defp run(status) do
    paths = for dir <- [:reactor], do: ["-pa", Path.join(:code.lib_dir(dir), "ebin")]
    script = Path.join(@support, "stop_under_load.exs")

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        args:
          List.flatten(paths) ++
            [script, Integer.to_string(status), Path.join(@support, "python")]
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
