defmodule Reactor.Python.SuiteTest do
  # Not async: other servers would put their paths into the sys.path that they share.
  use Reactor.TransportCase, async: false, transport: :Native

  defmodule Suite do
    use Reactor, python: "suite:SuiteProtocol"
  end

  # The tests of the Python side need a context to run in: a protocol runs them there, and
  # reports to its connection.
  @tag timeout: 120_000
  test "the Python tests pass", context do
    assert_pass(context, :shared)
  end

  if :subinterpreter in Reactor.Isolations.all() do
    @tag timeout: 120_000
    test "the Python tests pass in an interpreter of its own", context do
      assert_pass(context, :subinterpreter)
    end
  end

  @tag timeout: 120_000
  test "the Python tests pass in a process of its own", context do
    assert_pass(context, :process)
  end

  defp assert_pass(context, isolation) do
    client = context |> serve(Suite, paths: ["test/python"], isolation: isolation) |> dial()
    :ok = :gen_tcp.send(client, "run\n")
    report = read_report(client, [])
    last = report |> String.split("\n", trim: true) |> List.last()
    assert last =~ ~r/^OK/, report
  end

  defp read_report(client, read) do
    case :gen_tcp.recv(client, 0, 100_000) do
      {:ok, data} ->
        read_report(client, [read, data])

      {:error, reason} ->
        IO.iodata_to_binary([read, if(reason == :closed, do: "", else: inspect(reason))])
    end
  end
end
