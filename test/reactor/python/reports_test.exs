for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.ReportsTest, isolation]) do
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.Diary
    import Reactor.EventRelay, only: [assert_event: 1]

    alias Reactor.{EventRelay, Native, Server}

    # A server, and its events from now on.
    defp serve_seen(context, options) do
      server = serve_diary(context, options)
      EventRelay.attach(port: port(server))
      server
    end

    defp listening_socket(server), do: Server.listener(Server.board(server)).socket

    describe "an exception is reported with what raised it," do
      for {callback, factory, reason} <- [
            {"factory", "fails:in_factory", :exception},
            {"connection_made", "fails:InConnectionMade", :exception},
            {"data_received", "fails:InDataReceived", :exception},
            {"write_ready", "fails:InWriteReady", :exception},
            {"going_away", "fails:InGoingAway", :exception},
            {"eof_received", "fails:InEofReceived", :exception},
            {"pause_writing", "fails:InPauseWriting", :exception},
            {"resume_writing", "fails:InResumeWriting", :exception},
            # It was over before that.
            {"connection_lost", "fails:InConnectionLost", :remote}
          ] do
        test "#{callback}, and so is the end of its connection", context do
          marks = [high_watermark: 10_000, low_watermark: 1_000, sndbuf: 16_384]
          server = serve_seen(context, [python: unquote(factory)] ++ marks)
          client = dial(server)
          provoke(unquote(callback), client, server)

          {_, metadata} = assert_event([:reactor, :python, :exception])
          assert %{callback: unquote(callback), kind: :error, id: id} = metadata
          assert %Reactor.Python.Error{type: "RuntimeError", message: message} = metadata.reason
          assert message == unquote(callback) <> " failed"
          assert metadata.reason.traceback =~ "fails.py"

          # What is queued is still sent.
          if unquote(callback) == "pause_writing", do: read_until_closed(client)
          {_, metadata} = assert_event([:reactor, :connection, :stop])
          assert %{id: ^id, reason: unquote(reason)} = metadata
          refute_received {[:reactor, :python, :exception], _, _}
        end
      end
    end

    defp provoke("going_away", client, server) do
      assert echo(client, "x") == "x"
      # Until the client is gone, which it is when this has failed.
      spawn_link(fn -> Reactor.drain(server, 10_000) end)
    end

    defp provoke("eof_received", client, _server) do
      assert echo(client, "x") == "x"
      :ok = :gen_tcp.shutdown(client, :write)
    end

    defp provoke("pause_writing", client, _server), do: :ok = :gen_tcp.send(client, "pour")

    defp provoke("resume_writing", client, _server) do
      :ok = :gen_tcp.send(client, "pour")
      # To the end, though the connection may break before all is read.
      read_until_closed(client)
    end

    defp provoke("connection_lost", client, _server) do
      assert echo(client, "x") == "x"
      :gen_tcp.close(client)
    end

    defp provoke(callback, client, _server) when callback in ["data_received", "write_ready"] do
      :ok = :gen_tcp.send(client, "x")
    end

    defp provoke(_callback, _client, _server), do: :ok

    defp read_until_closed(client) do
      with {:ok, _data} <- :gen_tcp.recv(client, 0, 10_000), do: read_until_closed(client)
    end

    describe "the end of a connection is reported as" do
      defp served(context, options \\ []) do
        server = serve_seen(context, options)
        client = dial(server)
        assert echo(client, "word") == "word"
        {server, client}
      end

      defp assert_reason(reason) do
        {measurements, metadata} = assert_event([:reactor, :connection, :stop])
        assert metadata.reason == reason
        measurements
      end

      test "local, when the protocol closes it", context do
        {_server, client} = served(context)
        :ok = :gen_tcp.send(client, "done")
        assert read_all(client) == "farewell"
        assert %{received: 8, sent: 12} = assert_reason(:local)
      end

      test "remote, when the peer does", context do
        {_server, client} = served(context)
        :gen_tcp.close(client)
        assert %{received: 4, sent: 4} = assert_reason(:remote)
      end

      test "reset, when it breaks", context do
        {_server, client} = served(context)
        :ok = :inet.setopts(client, linger: {true, 0})
        :gen_tcp.close(client)
        assert_reason(:reset)
      end

      test "drained, when it was idle", context do
        {server, _client} = served(context)
        :ok = Native.listener_drain(listening_socket(server))
        assert_reason(:drained)
      end

      test "cut, when it was not done in time", context do
        {server, client} = served(context)
        _closed = hoard(client)
        assert Native.listener_cut(listening_socket(server)) == 1
        assert_reason(:cut)
      end

      test "the deadline that passed", context do
        # Time enough for a first answer, on a machine that stops for a while.
        {_server, _client} = served(context, idle_timeout: 600)
        assert_reason(:idle_timeout)
      end
    end

    describe "a context says" do
      # The load of a second or more in which something was asked of it.
      defp load_after(context, order) do
        server = serve(context, Reactor.Flow.Flows, python: "busy:Busy", paths: [python()])
        EventRelay.attach(port: port(server))
        client = dial(server)
        assert echo(client, order) == order
        keep_busy(client)
        {measurements, _} = assert_event([:reactor, :python, :load])

        Map.new(measurements, fn {key, time} ->
          {key, System.convert_time_unit(time, :native, :millisecond)}
        end)
      end

      test "how long its callbacks took", context do
        load = load_after(context, "work 300")
        assert load.longest_turn >= 300
        assert load.callback_time >= 300
        assert load.lag >= 300
        assert load.busy_time >= 300
      end

      test "how long it waited for the GIL, which is its lag too", context do
        load = load_after(context, "hold 600")
        assert load.longest_gil_wait >= 100
        assert load.gil_wait >= 100
        assert load.lag >= load.longest_gil_wait
      end
    end

    test "a context that is busy says how much", context do
      server = serve_seen(context, [])
      client = dial(server)
      keep_busy(client)
      {measurements, metadata} = assert_event([:reactor, :python, :load])
      assert metadata.context == "diary:Keeps/1"
      assert measurements.calls >= measurements.turns and measurements.turns > 0
      assert measurements.callback_time >= measurements.longest_turn
      assert measurements.longest_turn > 0
      assert measurements.gil_wait >= measurements.longest_gil_wait
      assert measurements.lag >= measurements.longest_turn
      assert measurements.busy_time >= measurements.lag
      assert measurements.busy_time >= measurements.callback_time
    end

    # Until it was reported.
    defp keep_busy(client) do
      assert echo(client, "word") == "word"

      receive do
        {[:reactor, :python, :load], _, _} = event -> send(self(), event)
      after
        0 -> keep_busy(client)
      end
    end
  end
end
