defmodule Reactor.SlowClientsTest do
  # What honest clients see is measured: nothing may run beside it.
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.Program

  # REACTOR_SOAK=1 makes it one byte every ten seconds, and shows the figures.
  @soak System.get_env("REACTOR_SOAK") == "1"
  @period if @soak, do: 10, else: 4
  @deadline if @soak, do: 5_000, else: 2_000
  @min_rate_ms if @soak, do: 15_000, else: 2_000
  @alone_s if @soak, do: 5, else: 0.5
  @slow 2_000
  @honest 100
  @moduletag timeout: 120_000

  # A server for each deadline, so that there is no doubt which one it is that cuts. A byte every
  # period is too little for each of them, and 64 twenty times a second is enough.
  @deadlines [
    first_byte_timeout: @deadline,
    idle_timeout: @deadline,
    min_rate: {16, @min_rate_ms}
  ]

  @python [paths: [Path.expand("../support/python", __DIR__)]]

  for {name, module, options} <- [{"Elixir", Load.Echo, []}, {"Python", Load.PyEcho, @python}] do
    test "#{name}: each deadline cuts its slow clients, all of them and nobody else" do
      servers = for deadline <- @deadlines, do: {unquote(module), [deadline | unquote(options)]}
      server = Program.vm("load_server.exs", [servers])
      %{port: ports} = Program.answer(server)
      clients = Program.clients("slow.py", [@honest | ports])

      alone = Program.ask(clients, "alone #{@alone_s}")
      assert alone.failed == 0
      assert alone.exchanges > @honest

      assert %{dialed: @slow} = Program.ask(clients, "slow #{@slow} #{@period}")
      beside = Program.ask(clients, "beside")
      assert %{failed: 0, cut: cut} = beside
      assert cut == [667, 667, 666]

      # Nobody is cut before the time, whatever the machine is busy with.
      assert beside.first_cut_s * 1_000 >= @deadline - 100

      # Every deadline cut its own, and no connection ended in any other way. Events come a moment
      # after what they tell of.
      expected = %{"first_byte_timeout" => 667, "idle_timeout" => 667, "min_rate" => 666}
      assert eventually(fn -> ends(server) == expected end), inspect(ends(server))

      assert %{failed: 0} = Program.ask(clients, "end")
      report(unquote(name), alone, beside)
      Program.stop(clients)
      Program.stop(server)
    end
  end

  # How many connections ended for each reason.
  defp ends(server) do
    for {event, n} <- Program.ask(server, "events"),
        "connection_stop_" <> reason <- [Atom.to_string(event)],
        into: %{},
        do: {reason, n}
  end

  defp report(name, alone, beside) do
    if @soak do
      IO.puts(
        "#{name}: #{@honest} honest clients alone: p50 #{alone.p50_ms} ms, p99 #{alone.p99_ms} ms; " <>
          "beside #{@slow} slow ones: p50 #{beside.p50_ms} ms, p99 #{beside.p99_ms} ms; " <>
          "the last was cut after #{beside.last_cut_s} s"
      )
    end
  end
end
