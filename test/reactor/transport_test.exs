defmodule Reactor.TransportTest do
  use ExUnit.Case, async: true

  alias Reactor.Transport

  doctest Transport

  # A native one, whose connections are served though it has no callbacks for them.
  defmodule Mine do
    @behaviour Transport

    defdelegate listen(listener), to: Transport.TCP
    defdelegate address(listening), to: Transport.TCP
    defdelegate accept(listening), to: Transport.TCP
    defdelegate drain(listening), to: Transport.TCP
    defdelegate drain_handler(handler, listener), to: Transport.TCP
    defdelegate close_listener(listening), to: Transport.TCP
    defdelegate connect(address, port, options, timeout), to: Transport.TCP
  end

  defmodule Half do
    def drain_handler(_handler, _listener), do: :ok
    def listen(_listener), do: {:error, :half}
  end

  test "modules and their short names" do
    for {name, module} <- [native: Transport.Native, tcp: Transport.TCP, ssl: Transport.SSL] do
      assert Transport.module(name) == {:ok, module}
      assert Transport.module(module) == {:ok, module}
      assert Transport.name(module) == name
    end

    assert Transport.module(Mine) == {:ok, Mine}
    assert Transport.name(Mine) == Mine

    for wrong <- [nil, :pigeon, String, "tcp", 1, Half],
        do: assert(Transport.module(wrong) == :error)
  end

  test "of one's own needs no callbacks for connections" do
    {:ok, server} = Reactor.start(MyApp.Echo, ip: :loopback, transport: Mine)
    port = Reactor.info(server).port
    {:ok, connection} = Reactor.connect("localhost", port, transport: Mine)
    Reactor.Socket.send!(connection, "hello")
    assert Reactor.Socket.recv!(connection, 5) == "hello"
    assert Reactor.stop(server) == :ok
  end

  test "whose a socket is" do
    {:ok, port} = :gen_tcp.listen(0, [])
    assert Transport.of(port) == Transport.TCP
    :gen_tcp.close(port)
    assert Transport.of({:"$inet", :gen_tcp_socket, {self(), :state}}) == Transport.TCP
    # Of OTP 25, and of 28 and newer.
    assert Transport.of({:sslsocket, nil, nil}) == Transport.SSL
    assert Transport.of({:sslsocket, 1, 2, 3, 4, 5, 6, 7}) == Transport.SSL
  end

  test "what is none is named, by whatever is done with it" do
    alias Reactor.{Connection, Socket}

    for call <- [
          &Socket.recv/1,
          &Socket.send(&1, "x"),
          &Socket.send(&1, ["x"]),
          &Socket.active/1,
          &Socket.options/1,
          &Socket.options(&1, packet: :line),
          &Socket.options(&1, low_watermark: 1),
          &Socket.process!(&1, self()),
          &Socket.local/1,
          &Socket.remote/1,
          &Socket.statistics/1,
          &Socket.file(&1, "mix.exs"),
          &Socket.shutdown/1,
          &Socket.close/1,
          &Connection.new/1
        ],
        wrong <- [make_ref(), :foo, %{socket: 1}, {}] do
      error = assert_raise ArgumentError, fn -> call.(wrong) end
      assert error.message =~ "expected a Reactor.Connection, or the socket of one"
      assert error.message =~ "got: #{inspect(wrong)}"
    end
  end

  for transport <- Reactor.TransportCase.all_transports() do
    defmodule Module.concat(__MODULE__, transport) do
      use Reactor.TransportCase, transport: transport, async: true

      alias Reactor.Socket

      test "connections that come after an update have its options", context do
        server = serve(context, Reactor.TransportCase.Lend)
        dial(server)
        assert_receive {:lent, before}
        assert Reactor.update(server, packet: :line, keepalive: true) == :ok
        client = dial(server)
        assert_receive {:lent, later}
        assert {:ok, %{packet: :raw, keepalive: false}} = Socket.options(before)
        assert {:ok, %{packet: :line, keepalive: true}} = Socket.options(later)
        put(client, "one\ntwo\n")
        assert Socket.recv(later, 0, 5_000) == {:ok, "one\n"}
      end
    end
  end
end
