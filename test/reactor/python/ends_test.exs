for transport <- [:Native, :NativeTLS], isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.EndsTest, transport, isolation]) do
    # Not async: tests that count events would see these servers' too.
    use Reactor.TransportCase, async: false, transport: transport

    @moduletag isolation: isolation

    import Reactor.Flow
    import Reactor.EventRelay, only: [assert_event: 1]

    alias Reactor.{EventRelay, Native, Server}

    # What the protocol is told of its end, which telemetry calls the same.
    defp assert_end(%{control: control, name: name}, reason, exception) do
      {_, metadata} = assert_event([:reactor, :connection, :stop])
      assert metadata.reason == reason
      assert eventually(fn -> ask(control, "notes #{name}") =~ "lost" end)
      assert ask(control, "notes #{name}") =~ ~r/^(eof; )?lost #{reason} #{exception}$/
    end

    defp named(context, class, options \\ []) do
      server = serve_flow(context, class, options)
      EventRelay.attach(port: port(server))
      {server, dial_named(server, context.name)}
    end

    setup context do
      %{control: controller(context), name: unique()}
    end

    test "the peer ends the stream", context do
      {_, client} = named(context, "Flow")
      hang_up(client)
      assert_end(context, :remote, "NoneType: None")
    end

    test "the protocol says close", context do
      {_, client} = named(context, "Obeys")
      :ok = put(client, "close")
      assert read_all(client) == ""
      assert_end(context, :local, "NoneType: None")
    end

    test "the protocol is closed from another thread", context do
      {_, client} = named(context, "Flow")
      ask(context.control, "close #{context.name}")
      assert read_all(client) == ""
      assert_end(context, :local, "NoneType: None")
    end

    if transport == :NativeTLS do
      # The socket below; newer OTPs have it bare.
      defp socket(client) do
        case elem(client, 1) do
          {_transport, socket, _, _} -> socket
          socket -> socket
        end
      end
    else
      defp reset(client) do
        :ok = :inet.setopts(client, linger: {true, 0})
        :gen_tcp.close(client)
      end

      test "the connection breaks", context do
        {_, client} = named(context, "Flow")
        reset(client)
        assert_end(context, :reset, "ConnectionResetError: \\[Errno 104\\] the connection broke")
      end

      test "the connection breaks while another thread makes an answer", context do
        {_, client} = named(context, "Obeys")
        :ok = put(client, "wait")
        assert eventually(fn -> ask(context.control, "waits #{context.name}") == "True" end)
        # It does not read now.
        reset(client)
        assert_end(context, :reset, "ConnectionResetError: \\[Errno 104\\] the connection broke")
      end
    end

    test "a deadline passes", context do
      # Time enough for a handshake and a first answer, on a machine that stops for a while.
      named(context, "Flow", idle_timeout: 600)
      text = "idle_timeout: the peer sent nothing for too long"
      assert_end(context, :idle_timeout, "DeadlineExceeded: \\[Errno 110\\] #{text}")
    end

    test "the connection is open for too long", context do
      named(context, "Flow", max_lifetime: 600)
      text = "max_lifetime: the connection was open for too long"
      assert_end(context, :max_lifetime, "DeadlineExceeded: \\[Errno 110\\] #{text}")
    end

    test "the server drains", context do
      {server, _} = named(context, "Flow")
      assert {:ok, _} = Reactor.drain(server, 5_000)
      assert_end(context, :drained, "Drained: the server ended, and the connection was idle")
    end

    test "the time to drain is over", context do
      {server, client} = named(context, "Obeys")
      :ok = put(client, "wait")
      assert eventually(fn -> ask(context.control, "waits #{context.name}") == "True" end)
      socket = Server.listener(Server.board(server)).socket
      assert Native.listener_cut(socket) == 1
      text = "the server ended, and the connection was not done in time"
      assert_end(context, :cut, "Cut: #{text}")
    end

    @tag :capture_log
    test "a method raises, and it is that exception", context do
      {_, client} = named(context, "Obeys")
      :ok = put(client, "raise")
      assert read_all(client) == ""
      assert_end(context, :exception, "LookupError: raised on demand")
      assert_event([:reactor, :python, :exception])
    end

    if transport == :NativeTLS do
      test "the stream ends without a word of TLS", context do
        {_, client} = named(context, "Flow")
        :gen_tcp.shutdown(socket(client), :write)
        text = "the stream ended, and TLS had not said that it would"
        assert_end(context, :truncated, "ConnectionAbortedError: \\[Errno 103\\] #{text}")
      end

      test "what comes is no TLS", context do
        {_, client} = named(context, "Flow")
        :ok = :gen_tcp.send(socket(client), "this is no record of TLS, whatever else it is")
        text = "what came was no TLS, or was tampered with"
        assert_end(context, :tls_alert, "ConnectionAbortedError: \\[Errno 103\\] #{text}")
      end
    end
  end
end
