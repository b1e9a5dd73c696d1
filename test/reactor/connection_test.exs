for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.ConnectionTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.{Connection, Listener, Socket}

    # Gives its connection to the test, and keeps it until told to end.
    defmodule Show do
      use Reactor

      def handle(connection) do
        send(connection.listener.env.test, {:connection, connection, self()})
        receive(do: (:end -> :ok))
      end
    end

    setup context do
      server = serve(context, Show, env: %{test: self(), motd: "hello"}, drain_timeout: 0)
      %{server: server}
    end

    defp connect(server) do
      client = dial(server)
      assert_receive {:connection, connection, handler}
      {connection, handler, client}
    end

    test "has a number of its own, and the listener that accepted it", %{server: server} do
      {one, _, _} = connect(server)
      {two, _, _} = connect(server)
      assert Connection.id(one) > 0
      assert Connection.id(one) != Connection.id(two)

      listener = Connection.listener(one)
      assert Listener.port(listener) == port(server)
      assert Listener.id(listener) == Listener.id(Reactor.listener(server))
      assert %{id: id} = Enum.find(Reactor.connections(server), &(&1.id == Connection.id(two)))
      assert id == two.id
    end

    test "is secure if its transport is", %{server: server, transport: transport} do
      {connection, _, _} = connect(server)
      assert Connection.secure?(connection) == transport in [:SSL, :NativeTLS]
      assert Listener.secure?(connection.listener) == transport in [:SSL, :NativeTLS]
      assert Connection.negotiated_protocol(connection) == nil
    end

    describe "env" do
      test "is the listener's, until it has one of its own", %{server: server} do
        {one, _, _} = connect(server)
        {two, _, _} = connect(server)
        assert %{motd: "hello"} = Connection.env(one)

        Listener.env(one.listener, :changed)
        assert Connection.env(one) == :changed
        assert Listener.env(Reactor.listener(server)) == :changed

        assert Connection.env(one, {:own, 1}) == :ok
        assert Connection.env(one) == {:own, 1}
        assert Connection.env(two) == :changed

        # nil is an environment like any other.
        Connection.env(one, nil)
        assert Connection.env(one) == nil
      end

      test "is read and written from any process", %{server: server} do
        {connection, _, _} = connect(server)
        Task.await(Task.async(fn -> Connection.env(connection, "from elsewhere") end))
        assert Connection.env(connection) == "from elsewhere"
        assert Task.await(Task.async(fn -> Connection.env(connection) end)) == "from elsewhere"
      end

      test "of a listener that is gone is that of its start", context do
        %{server: server, transport: transport} = context
        {connection, _, _} = connect(server)
        Listener.env(connection.listener, :changed)
        Connection.env(connection, :own)
        Reactor.stop(server, 0)
        assert %{motd: "hello"} = Listener.env(connection.listener)

        # A native connection drops its own with its owner, since it may hold the connection itself.
        own =
          if transport in [:Native, :NativeTLS], do: Listener.env(connection.listener), else: :own

        assert eventually(fn -> Connection.env(connection) == own end)
        assert_raise ArgumentError, fn -> Listener.env(connection.listener, 1) end
      end

      test "of a dialed one is nil at first", %{server: server, transport: transport} do
        options =
          if transport in [:SSL, :NativeTLS],
            do: [secure: Reactor.Certificates.trusting()],
            else: []

        {:ok, connection} = Reactor.connect("localhost", port(server), options)
        assert Connection.env(connection) == nil
        assert Connection.env(connection, 1) == :ok
        assert Connection.env(connection) == 1
        refute Connection.going_away?(connection)
        assert Connection.listener(connection) == nil
      end
    end

    test "env is dropped with the connection", %{server: server} do
      # A listening socket closes when nobody knows it any more: only the environment does.
      port = keep_listener(server)
      assert {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
      :gen_tcp.close(client)

      assert_receive {:keeps, handler, client}
      send(handler, :end)
      read_all(client)
      :erlang.garbage_collect()

      assert eventually(fn ->
               :gen_tcp.connect({127, 0, 0, 1}, port, []) == {:error, :econnrefused}
             end)
    end

    defp keep_listener(server) do
      {connection, handler, client} = connect(server)
      {:ok, listener} = Listener.new(Show, ip: :loopback)
      {:ok, listening} = Reactor.Transport.Native.listen(listener)
      Connection.env(connection, {:keep, listening})
      send(self(), {:keeps, handler, client})
      {:ok, {_ip, port}} = Reactor.Transport.Native.address(listening)
      port
    end

    test "going_away? is true from when its server drains", %{server: server} do
      {connection, handler, client} = connect(server)
      refute Connection.going_away?(connection)

      drain = Task.async(fn -> Reactor.drain(server, 60_000) end)
      assert eventually(fn -> Connection.going_away?(connection) end)
      send(handler, :end)
      assert {:ok, %{connections: 1, finished: 1}} = Task.await(drain)
      assert read_all(client) == ""

      Reactor.stop(server)
      assert Connection.going_away?(connection)
    end

    test "new makes one of a socket from elsewhere", %{server: server} do
      {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
      {:ok, port} = :inet.port(listening)
      {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      {:ok, socket} = :gen_tcp.accept(listening)
      connection = Connection.new(socket, Reactor.listener(server))
      assert %{motd: "hello"} = Connection.env(connection)
      refute Connection.secure?(connection)
      assert {:ok, ^connection} = Connection.handshake(connection)
      Socket.send!(connection, "hi")
      assert take(client, 2) == {:ok, "hi"}
    end
  end
end
