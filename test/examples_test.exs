defmodule ExamplesTest do
  use ExUnit.Case, async: true

  @examples Path.expand("../examples", __DIR__)

  test "serve.exs serves in both languages, and ends well when told to" do
    # What `mix run` does.
    program = """
    {:ok, _} = Application.ensure_all_started(:reactor)
    Code.require_file(#{inspect(Path.join(@examples, "serve.exs"))})
    """

    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        env: [{~c"PORT", ~c"0"}, {~c"PY_PORT", ~c"0"}],
        args: ["-pa", Path.join(:code.lib_dir(:reactor), "ebin"), "-e", program]
      ])

    output = read_until(port, "", ~r/Elixir .* (\d+)\n(.*\n)*Python .* (\d+)\n/)
    [elixir] = Regex.run(~r/Elixir .* (\d+)\n/, output, capture: :all_but_first)
    [python] = Regex.run(~r/Python .* (\d+)\n/, output, capture: :all_but_first)

    for number <- [elixir, python] do
      {:ok, connection} = Reactor.connect("localhost", String.to_integer(number))
      Reactor.Socket.send!(connection, "hello\n")
      assert Reactor.Socket.recv!(connection, 6, 5_000) == "hello\n"
    end

    {:os_pid, pid} = Port.info(port, :os_pid)
    {_, 0} = System.cmd("kill", ["-TERM", Integer.to_string(pid)])
    assert_receive {^port, {:exit_status, 0}}, 10_000
  end

  test "calculator.exs calls Python in a process of its own, also after that was killed" do
    program = """
    {:ok, _} = Application.ensure_all_started(:reactor)
    Code.require_file(#{inspect(Path.join(@examples, "calculator.exs"))})
    """

    ebin = Path.join(:code.lib_dir(:reactor), "ebin")
    {output, status} = System.cmd("elixir", ["-pa", ebin, "-e", program])
    assert status == 0, output

    # Between these is what is logged.
    results = for "{:" <> _ = line <- String.split(output, "\n"), do: line <> "\n"

    assert Enum.join(results) == """
           {:ok, 42}
           {:ok, 3}
           {:ok, "Hello, world"}
           {:error, {:undefined, :thrice}}
           {:ok, 8}
           """
  end

  defp read_until(port, output, pattern) do
    if output =~ pattern do
      output
    else
      receive do
        {^port, {:data, data}} -> read_until(port, output <> data, pattern)
        {^port, {:exit_status, status}} -> flunk("ended with #{status}:\n#{output}")
      after
        30_000 -> flunk(output)
      end
    end
  end
end
