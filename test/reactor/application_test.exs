defmodule Reactor.ApplicationTest do
  # Others are reported to as well, and would miss it.
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{Server, Socket}

  defp restart(name) do
    before = Process.whereis(name)
    monitor = Process.monitor(before)
    Process.exit(before, :kill)
    assert_receive {:DOWN, ^monitor, _, _, :killed}
    assert eventually(fn -> Process.whereis(name) not in [nil, before] end)
  end

  setup do
    {:ok, server} = Reactor.start(MyApp.Echo, ip: :loopback)
    on_exit(fn -> Reactor.stop(server, 0) end)
    %{server: server}
  end

  defp drains, do: :pg.get_local_members(Reactor.Drains, :drain)

  test "a server and its connections survive what they report to", %{server: server} do
    {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
    drain = server |> Server.board() |> Server.whereis(:drain)
    assert drain in drains()

    for name <- [Reactor.Runtime, Reactor.Drains] do
      restart(name)
      Socket.send!(connection, "still")
      assert Socket.recv!(connection, 5, 5_000) == "still"
      {:ok, another} = Reactor.connect("localhost", Reactor.info(server).port)
      Socket.send!(another, "new")
      assert Socket.recv!(another, 3, 5_000) == "new"
    end

    # It is told again when the VM stops.
    assert eventually(fn -> drain in drains() end)
    assert {:ok, %{connections: 3}} = Reactor.drain(server)
  end

  defmodule Slow do
    use Reactor, protocol: :udp, ip: :loopback

    def handle(connection) do
      Socket.active!(connection, true)
      test = connection.listener.env
      send(test, {:here, self()})
      receive(do: (:take -> :ok))
      for _ <- 1..1_024, do: receive(do: ({:udp, _, _, _} -> :ok))
      receive(do: ({:udp, _, _, data} -> send(test, {:more, data})))
    end
  end

  test "an owner of datagrams that was being looked at is sent more, when nobody looks any more" do
    {:ok, server} = Reactor.start(Slow, env: self())
    assert_receive {:here, owner}
    {:ok, client} = :gen_udp.open(0)
    put = fn -> :ok = :gen_udp.send(client, {127, 0, 0, 1}, Reactor.info(server).port, "x") end

    assert eventually(fn ->
             put.()
             Process.info(owner, :message_queue_len) == {:message_queue_len, 1_024}
           end)

    restart(Reactor.Runtime)
    send(owner, :take)
    put.()
    assert_receive {:more, "x"}, 5_000
    :gen_udp.close(client)
    Reactor.stop(server, 0)
  end
end
