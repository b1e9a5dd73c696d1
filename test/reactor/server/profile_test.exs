for transport <- Reactor.TransportCase.transports() do
  defmodule Module.concat(Reactor.Server.ProfileTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    import Reactor.{EventRelay, LogRelay}

    # Makes garbage, then waits.
    defmodule Works do
      use Reactor

      def handle(connection) do
        Enum.each(1..200, fn _ -> Enum.to_list(1..1_000) end)

        case Reactor.Socket.recv(connection) do
          {:ok, "crash"} -> exit(:crash)
          _other -> :ok
        end
      end
    end

    test "measures a handler, and reports and logs it at its end", context do
      server = serve(context, Works, profile: true)
      Reactor.EventRelay.attach(module: Works, port: port(server))
      Reactor.LogRelay.attach()
      began = System.monotonic_time()
      client = dial(server)
      {:ok, address} = own_address(client)
      hang_up(client)
      {measured, metadata} = assert_event([:reactor, :connection, :profile])
      passed = System.monotonic_time() - began

      assert %{remote: ^address, id: id} = metadata
      assert measured.duration in 1..passed
      assert measured.run_time in 1..measured.duration
      # What it makes cannot be had for less.
      assert measured.reductions > 10_000
      assert measured.garbage_collections > 0
      assert measured.memory > 0

      {level, text, _} = assert_logged("handler of connection #{id} took")
      assert level == :info
      assert text =~ ~r/Works: .* ms, ran .* ms, with \d+ reductions, \d+ bytes, \d+ garbage/
    end

    test "reports one that fails too", context do
      server = serve(context, Works, profile: true)
      Reactor.EventRelay.attach(module: Works, port: port(server))
      client = dial(server)
      put(client, "crash")
      assert_receive {[:reactor, :connection, :profile], measured, _metadata}
      assert measured.duration > 0 and measured.garbage_collections > 0
    end

    defmodule GivesAway do
      use Reactor
      def start(connection), do: GenServer.start(__MODULE__, connection)

      use GenServer

      def init(connection), do: {:ok, connection}

      def handle_info({Reactor, :ack}, connection) do
        Reactor.Socket.recv(connection)
        {:stop, :normal, connection}
      end
    end

    test "reports nothing of one that start/1 returned: it was not its work that was measured",
         context do
      server = serve(context, GivesAway, profile: true)
      Reactor.EventRelay.attach(module: GivesAway, port: port(server))
      server |> dial() |> hang_up()
      assert eventually(fn -> match?(%{accepted: 1, connections: 0}, Reactor.info(server)) end)
      refute_receive {[:reactor, :connection, :profile], _, _}, 100
    end

    test "does nothing unless it is asked for, and can be asked for later", context do
      server = serve(context, Works)
      Reactor.EventRelay.attach(module: Works, port: port(server))
      server |> dial() |> hang_up()
      assert eventually(fn -> match?(%{accepted: 1, connections: 0}, Reactor.info(server)) end)
      assert Reactor.update(server, profile: true) == :ok
      client = dial(server)
      {:ok, address} = own_address(client)
      hang_up(client)
      {_measured, %{remote: ^address}} = assert_event([:reactor, :connection, :profile])
    end
  end
end
