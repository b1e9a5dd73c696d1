for transport <- [:Native, :NativeTLS], isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.FlowTest, transport, isolation]) do
    use Reactor.TransportCase, async: true, transport: transport

    @moduletag isolation: isolation

    import Reactor.Flow

    alias Reactor.Socket

    setup context do
      %{control: controller(context), name: unique()}
    end

    # Clients of which the halves end one by one: :ssl's closes when its peer has said that it ends, and does
    # not say so itself.
    defp connect(server, context) do
      secure =
        if context.transport == :NativeTLS,
          do: [secure: Reactor.Certificates.trusting()],
          else: []

      {:ok, client} = Reactor.connect("localhost", port(server), secure)
      client
    end

    defp introduced(server, context, at_eof \\ "") do
      client = connect(server, context)
      :ok = Socket.send(client, "#{context.name} #{at_eof}")
      {:ok, "ok"} = Socket.recv(client, 2, 5_000)
      client
    end

    defp rest(client, read \\ []) do
      case Socket.recv(client, 0, 10_000) do
        {:ok, data} -> rest(client, [read, data])
        {:error, :closed} -> IO.iodata_to_binary(read)
      end
    end

    describe "reading" do
      test "pauses and goes on, from another thread, and nothing is lost",
           %{control: control, name: name} = context do
        server = serve_flow(context, "Flow")
        client = dial_named(server, name)
        assert ask(control, "pause #{name}") == "done"
        assert ask(control, "pause #{name}") == "done"
        :ok = put(client, "one")
        turn(server)
        :ok = put(client, "two")
        turn(server)
        assert ask(control, "got #{name}") == "nothing"
        assert ask(control, "resume #{name}") == "done"
        assert eventually(fn -> ask(control, "got #{name}") == "onetwo" end)
        :ok = put(client, "three")
        assert eventually(fn -> ask(control, "got #{name}") == "onetwothree" end)
      end

      test "pauses in the callback itself", %{control: control, name: name} = context do
        server = serve_flow(context, "Sips")
        client = dial_named(server, name)
        :ok = put(client, "one")
        assert eventually(fn -> ask(control, "got #{name}") == "one" end)
        :ok = put(client, "two")
        turn(server)
        assert ask(control, "got #{name}") == "one"
        assert ask(control, "resume #{name}") == "done"
        assert eventually(fn -> ask(control, "got #{name}") == "onetwo" end)
      end

      # Whoever controls it has to be in another context, of the same interpreter.
      if isolation == :shared do
        test "waits with what was read already, if another protocol pauses it",
             %{control: control, name: name} = context do
          server = serve_flow(context, "Obeys")
          [first, second] = names = [unique(), unique()]
          [holds, pauses] = for name <- names, do: dial_named(server, name)
          client = dial_named(server, name)
          :ok = put(holds, "block")
          assert eventually(fn -> ask(control, "notes #{first}") == "blocked" end)
          # All that comes while the loop is held up is read in one turn, in order.
          :ok = put(pauses, "pause #{name}")
          :ok = put(client, "data")
          ask(control, "release all")
          assert eventually(fn -> ask(control, "got #{second}") == "pause #{name}" end)
          turn(server)
          assert ask(control, "got #{name}") == "nothing"
          assert ask(control, "resume #{name}") == "done"
          assert eventually(fn -> ask(control, "got #{name}") == "data" end)
        end
      end

      test "of no bytes at all is not the end", %{control: control, name: name} = context do
        server = serve_flow(context, "Flow")
        client = dial_named(server, name)
        assert ask(control, "look #{name}") == "done"
        :ok = put(client, "one")
        assert eventually(fn -> ask(control, "got #{name}") == "one" end)
        hang_up(client)
        assert eventually(fn -> ask(control, "notes #{name}") =~ "lost" end)
      end

      test "that is paused holds the peer back", %{control: control, name: name} = context do
        server = serve_flow(context, "Flow", recbuf: 32_768)
        client = dial_named(server, name, send_timeout: 200, sndbuf: 32_768)
        ask(control, "pause #{name}")
        sent = pour(client, 0)
        assert ask(control, "got #{name}") == "nothing"
        ask(control, "resume #{name}")
        # What did not fit is on its way from here.
        assert eventually(fn -> byte_size(ask(control, "got #{name}")) >= 1 end)
        assert sent > 0
      end

      # Until the peer takes no more; far more than buffers hold would mean that nobody holds it back.
      defp pour(client, sent) when sent < 64_000_000 do
        case put(client, :binary.copy("y", 16_384)) do
          :ok -> pour(client, sent + 16_384)
          {:error, :timeout} -> sent
        end
      end

      test "that is paused has no deadline", %{control: control, name: name} = context do
        # Time enough to pause it, on a machine that stops for a while.
        server = serve_flow(context, "Flow", idle_timeout: 800)
        client = dial_named(server, name)
        ask(control, "pause #{name}")
        # Another one, which is not paused, is cut in this time.
        other = unique()
        dial_named(server, other)
        assert eventually(fn -> ask(control, "notes #{other}") =~ "lost idle_timeout" end)
        assert ask(control, "notes #{name}") == "done"
        :ok = put(client, "still")
        ask(control, "resume #{name}")
        assert eventually(fn -> ask(control, "got #{name}") == "still" end)
        assert eventually(fn -> ask(control, "notes #{name}") =~ "lost idle_timeout" end)
      end

      test "that is paused is waited for by a drain", %{control: control, name: name} = context do
        server = serve_flow(context, "Flow")
        client = dial_named(server, name)
        ask(control, "pause #{name}")
        :ok = put(client, "last")
        draining = Task.async(fn -> Reactor.drain(server, 10_000) end)
        assert eventually(fn -> Reactor.info(server).state == :draining end)
        assert ask(control, "notes #{name}") == "done"
        ask(control, "resume #{name}")
        assert {:ok, %{connections: 1, finished: 1, cut: 0}} = Task.await(draining)
        assert ask(control, "got #{name}") == "last"
        assert ask(control, "notes #{name}") =~ "lost drained Drained"
      end
    end

    describe "writing" do
      @bytes 12_000_000

      test "is said to be too much, and little enough again, once each",
           %{control: control, name: name} = context do
        server = serve_flow(context, "Flow", high_watermark: 100_000, low_watermark: 20_000)
        client = dial_named(server, name)
        ask(control, "send #{name} #{@bytes}")
        assert eventually(fn -> ask(control, "notes #{name}") == "pause" end)
        assert read_exactly(client, @bytes) == @bytes
        assert eventually(fn -> ask(control, "notes #{name}") == "pause; resume" end)
        ask(control, "send #{name} 10")
        assert take(client, 10) == {:ok, "xxxxxxxxxx"}
        assert ask(control, "notes #{name}") == "pause; resume"
      end

      test "is said to be too much while the peer takes nothing at all",
           %{control: control, name: name} = context do
        marks = [high_watermark: 100_000, low_watermark: 20_000]
        server = serve_flow(context, "Flow", [sndbuf: 32_768] ++ marks)
        client = dial_named(server, name, recbuf: 32_768)
        # Little at a time, so that what the loop has queued alone is never too much.
        sent = send_until(control, name, "pause", 0)
        assert read_exactly(client, sent) == sent
        # As often as it had to: :ssl reads some by itself.
        told = ~r/^(pause; resume(; )?)+$/
        assert eventually(fn -> ask(control, "notes #{name}") =~ told end)
      end

      defp send_until(control, name, note, sent) do
        if ask(control, "notes #{name}") =~ note or sent > 64_000_000 do
          sent
        else
          ask(control, "send #{name} 50000")
          send_until(control, name, note, sent + 50_000)
        end
      end

      test "is little enough again once the protocol has cleared it itself",
           %{control: control, name: name} = context do
        server = serve_flow(context, "Clears", high_watermark: 100_000, low_watermark: 20_000)
        client = dial_named(server, name)
        ask(control, "send #{name} #{@bytes}")
        assert eventually(fn -> ask(control, "notes #{name}") == "pause" end)

        assert eventually(fn ->
                 take(client, 0, 100)
                 ask(control, "notes #{name}") == "pause; resume"
               end)

        ask(control, "send #{name} 10")
        assert eventually(fn -> {:ok, "xxxxxxxxxx"} == take(client, 10) end)
      end

      test "is not spoken of to a protocol that writes by itself",
           %{control: control, name: name} = context do
        server = serve_flow(context, "WritesItself", high_watermark: 1_000, low_watermark: 100)
        client = dial_named(server, name)
        ask(control, "send #{name} #{@bytes}")
        assert read_exactly(client, @bytes) == @bytes
        assert ask(control, "notes #{name}") == "done"
      end

      test "lets a protocol hold its source back", %{control: control} = context do
        marks = [high_watermark: 100_000, low_watermark: 20_000]
        server = serve_flow(context, "Relay", [sndbuf: 32_768] ++ marks)
        source = dial_named(server, "source")
        sink = dial_named(server, "sink", recbuf: 32_768)
        sending = Task.async(fn -> receive(do: (:go -> put_all(source, @bytes))) end)
        :ok = give(source, sending.pid)
        send(sending.pid, :go)
        assert eventually(fn -> ask(control, "notes sink") =~ "pause" end)
        assert read_exactly(sink, @bytes) == @bytes
        assert Task.await(sending, 20_000) == :ok
        # The high-water mark, and what some reads of up to 128 KiB bring before the loop looks.
        assert String.to_integer(ask(control, "peak sink")) < 1_000_000
      end

      defp put_all(client, bytes), do: put(client, :binary.copy("x", bytes))

      defp read_exactly(client, bytes, read \\ 0)
      defp read_exactly(_client, bytes, read) when read >= bytes, do: read

      defp read_exactly(client, bytes, read) do
        case take(client, 0, 10_000) do
          {:ok, data} -> read_exactly(client, bytes, read + byte_size(data))
          {:error, _reason} -> read
        end
      end
    end

    describe "the peer ends what it sends, and the protocol" do
      defp half_closed(context, class, at_eof) do
        client = context |> serve_flow(class) |> introduced(context, at_eof)
        :ok = Socket.send(client, "data")
        :ok = Socket.shutdown(client, :write)
        client
      end

      test "does not care: the connection ends", %{control: control, name: name} = context do
        client = half_closed(context, "Plain", "")
        assert rest(client) == ""
        assert ask(control, "got #{name}") == "data"
        assert ask(control, "notes #{name}") == "lost remote NoneType: None"
      end

      test "says nothing: the connection ends", %{control: control, name: name} = context do
        client = half_closed(context, "Flow", "")
        assert rest(client) == ""
        assert ask(control, "notes #{name}") == "eof; lost remote NoneType: None"
      end

      for action <- [:close, :write_pending] do
        test "answers #{action}", %{control: control, name: name} = context do
          client = half_closed(context, "Flow", unquote(to_string(action)))
          assert rest(client) == "bye"
          assert ask(control, "got #{name}") == "data"
          assert ask(control, "notes #{name}") == "eof; lost remote NoneType: None"
        end
      end

      test "answers later", %{control: control, name: name} = context do
        client = half_closed(context, "Flow", "async_pending")
        assert eventually(fn -> ask(control, "notes #{name}") == "eof" end)
        ask(control, "send #{name} 3")
        assert rest(client) == "xxx"
        assert ask(control, "notes #{name}") == "eof; lost remote NoneType: None"
      end

      for action <- [:continue, :read_pending] do
        test "answers #{action}, and sends more until it closes",
             %{control: control, name: name} = context do
          client = half_closed(context, "Flow", unquote(to_string(action)))
          assert eventually(fn -> ask(control, "notes #{name}") == "eof" end)

          for _ <- 1..3 do
            ask(control, "send #{name} 3")
            assert Socket.recv(client, 3, 5_000) == {:ok, "xxx"}
          end

          ask(control, "close #{name}")
          assert rest(client) == ""
          assert ask(control, "notes #{name}") == "eof; lost local NoneType: None"
        end
      end

      # :ssl's clients close with a goodbye, and ours with what is queued.
      if transport == :Native do
        test "goes on, until its peer resets", %{control: control, name: name} = context do
          server = serve_flow(context, "Flow")
          client = dial_named(server, name, [linger: {true, 0}], "continue")
          :ok = shut(client, :write)
          assert eventually(fn -> ask(control, "notes #{name}") == "eof" end)
          hang_up(client)
          lost = "eof; lost reset"
          assert eventually(fn -> ask(control, "notes #{name}") =~ lost end)
        end
      end

      test "goes on, until its server drains", %{control: control, name: name} = context do
        server = serve_flow(context, "Flow")
        client = introduced(server, context, "continue")
        :ok = Socket.shutdown(client, :write)
        assert eventually(fn -> ask(control, "notes #{name}") == "eof" end)
        assert {:ok, %{connections: 1, finished: 1}} = Reactor.drain(server, 10_000)
        assert ask(control, "notes #{name}") =~ "eof; lost drained Drained"
      end

      @tag :capture_log
      test "raises", %{control: control, name: name} = context do
        client = half_closed(context, "Flow", "raise")
        assert rest(client) == ""
        assert ask(control, "notes #{name}") == "eof; lost exception ValueError: no end"
      end
    end

    describe "the protocol ends what it sends, and" do
      for bytes <- [0, 5, 5_000_000] do
        test "#{bytes} bytes come before the end, and more can be sent to it",
             %{control: control, name: name} = context do
          server = serve_flow(context, "Flow", high_watermark: 100_000, low_watermark: 20_000)
          client = introduced(server, context)
          ask(control, "send_eof #{name} #{unquote(bytes)}")
          assert byte_size(rest(client)) == unquote(bytes)
          :ok = Socket.send(client, "more")
          assert eventually(fn -> ask(control, "got #{name}") == "more" end)
          :ok = Socket.close(client)
          assert eventually(fn -> ask(control, "notes #{name}") =~ "eof; lost remote" end)
        end
      end

      @tag :capture_log
      test "does so as it is connected", %{control: control, name: name} = context do
        server = serve_flow(context, "Greets")
        client = connect(server, context)
        assert {:ok, "hello"} = Socket.recv(client, 5, 5_000)
        assert {:error, :closed} = Socket.recv(client, 0, 5_000)
        # There can be no answer: what would be one is an error.
        :ok = Socket.send(client, name)

        assert eventually(fn ->
                 ask(control, "notes #{name}") =~ "write_buffer has 2 more bytes"
               end)
      end

      test "writes by itself", %{control: control, name: name} = context do
        server = serve_flow(context, "WritesItself")
        client = introduced(server, context)
        ask(control, "send #{name} 300000")
        ask(control, "send_eof #{name} 0")
        assert byte_size(rest(client)) == 300_000
        :ok = Socket.send(client, "more")
        assert eventually(fn -> ask(control, "got #{name}") == "more" end)
      end

      @tag :capture_log
      test "then has more to send, which is an error",
           %{control: control, name: name} = context do
        server = serve_flow(context, "Flow")
        client = introduced(server, context)
        ask(control, "send_eof #{name} 0")
        assert byte_size(rest(client)) == 0
        ask(control, "send #{name} 7")

        assert eventually(fn ->
                 ask(control, "notes #{name}") =~
                   "lost exception RuntimeError: write_buffer has 7 more bytes after write_eof()"
               end)
      end
    end
  end
end
