defmodule Reactor.Python.SuiteTest do
  # Not async: other servers would put their paths into the sys.path that they share.
  use Reactor.TransportCase, async: false, transport: :Native

  defmodule Suite do
    use Reactor, python: "suite:SuiteProtocol"
  end

  # The tests of the Python side need a context to run in: a protocol runs them there, and
  # reports to its connection.
  for isolation <- Reactor.Isolations.all() do
    @tag timeout: 120_000
    test "the Python tests pass (#{isolation})", context do
      options = [paths: ["test/python"], isolation: unquote(isolation)]
      client = context |> serve(Suite, options) |> dial()
      :ok = :gen_tcp.send(client, "run\n")
      report = read_report(client, [])
      last = report |> String.split("\n", trim: true) |> List.last()
      assert last =~ ~r/^OK/, report
    end
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
