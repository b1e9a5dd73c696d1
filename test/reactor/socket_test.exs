for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.SocketTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    # The names of messages in active mode.
    tags = Reactor.TransportCase.tags(%{transport: transport})
    @data tags.data
    @closed tags.closed
    @passive tags.passive

    describe "recv" do
      test "takes what there is, or a number of bytes", context do
        {connection, client} = pair(context)
        put(client, "hello world")
        assert Socket.recv(connection, 5) == {:ok, "hello"}
        assert Socket.recv(connection, 1) == {:ok, " "}
        assert Socket.recv(connection) == {:ok, "world"}
      end

      test "waits for as many as asked", context do
        {connection, client} = pair(context)
        receiver = Task.async(fn -> Socket.recv(connection, 6, 5_000) end)
        for part <- ["ab", "cd", "ef"], do: put(client, part)
        assert Task.await(receiver) == {:ok, "abcdef"}
      end

      test "gives up after the timeout, and loses nothing", context do
        {connection, client} = pair(context)
        assert Socket.recv(connection, 0, 0) == {:error, :timeout}
        assert Socket.recv(connection, 0, 10) == {:error, :timeout}
        put(client, "abc")
        assert Socket.recv(connection, 3, 5_000) == {:ok, "abc"}
        put(client, "de")
        assert Socket.recv(connection, 4, 10) == {:error, :timeout}
        put(client, "fg")
        assert Socket.recv(connection, 4, 5_000) == {:ok, "defg"}
      end

      test "a timeout leaves no message behind", context do
        {connection, client} = pair(context)

        for i <- 1..200 do
          sender = Task.async(fn -> put(client, <<i>>) end)

          case Socket.recv(connection, 1, rem(i, 2)) do
            {:ok, data} -> assert data == <<i>>
            {:error, :timeout} -> assert Socket.recv(connection, 1, 5_000) == {:ok, <<i>>}
          end

          Task.await(sender)
        end

        {:messages, messages} = Process.info(self(), :messages)
        assert messages == []
      end

      test "ends with :closed, after the data", context do
        {connection, client} = pair(context)
        put(client, "last")
        hang_up(client)
        assert Socket.recv(connection, 4) == {:ok, "last"}
        assert Socket.recv(connection) == {:error, :closed}
        assert Socket.recv(connection) == {:error, :closed}
      end

      test "is refused in active mode", context do
        {connection, _client} = pair(context)
        Socket.active!(connection)
        assert Socket.recv(connection, 0, 0) == {:error, :einval}
      end

      # With :ssl the second waits for the first.
      if transport != :SSL do
        test "takes one process at a time", context do
          {connection, client} = pair(context)
          other = Task.async(fn -> Socket.recv(connection, 1, 5_000) end)
          # It waits for nothing before its `recv` does.
          eventually(fn -> Process.info(other.pid, :status) == {:status, :waiting} end)
          assert Socket.recv(connection, 1, 0) == {:error, :ealready}

          put(client, "x")
          assert Task.await(other) == {:ok, "x"}
        end

        test "of a packet has no length", context do
          {connection, client} = pair(context, packet: 2)
          put(client, <<3::16, "two">>)
          assert Socket.recv(connection, 2, 5_000) == {:error, :einval}
          assert Socket.recv(connection, 0, 5_000) == {:ok, "two"}
        end
      end

      test "of more than 64 MiB at once is refused", context do
        {connection, _client} = pair(context)
        assert Socket.recv(connection, 64 * 1024 * 1024 + 1, 0) == {:error, :enomem}
      end

      test "says what a length and a timeout are", context do
        {connection, _client} = pair(context)

        for wrong <- [-1, 1.5, :all, nil] do
          message =
            "expected a length that is 0 (for what there is) or a number of bytes, " <>
              "got: #{inspect(wrong)}"

          assert_raise ArgumentError, message, fn -> Socket.recv(connection, wrong) end
        end

        for wrong <- [-1, 1.5, nil, 4_294_967_296] do
          message =
            "expected a timeout that is :infinity or a number of milliseconds up to 4294967295, " <>
              "got: #{inspect(wrong)}"

          assert_raise ArgumentError, message, fn -> Socket.recv(connection, 0, wrong) end
        end
      end
    end

    describe "recv!" do
      test "is nil at the end of the stream", context do
        {connection, client} = pair(context)
        put(client, "data")
        assert Socket.recv!(connection, 4) == "data"
        shut(client, :write)
        assert Socket.recv!(connection) == nil
      end

      test "raises otherwise", context do
        {connection, _client} = pair(context)

        error = assert_raise Socket.Error, fn -> Socket.recv!(connection, 0, 0) end
        assert %{operation: :recv, reason: :timeout} = error
        assert Exception.message(error) =~ ":timeout"
      end
    end

    describe "send" do
      test "takes iodata", context do
        {connection, client} = pair(context)
        assert Socket.send(connection, ["a", [?b, "c"], <<"d">>]) == :ok
        assert {:ok, "abcd"} = take(client, 4)
      end

      test "of much waits for a slow reader, who gets it all", context do
        {connection, client} = pair(context, sndbuf: 131_072)
        data = :crypto.strong_rand_bytes(4_000_000)

        sender =
          Task.async(fn ->
            for <<part::binary-size(100_000) <- data>>, do: :ok = Socket.send(connection, part)
            Socket.shutdown(connection, :write)
          end)

        assert read_all(client) == data
        assert Task.await(sender) == :ok
      end

      test "what was sent arrives though the connection closes", context do
        {connection, client} = pair(context)
        data = :crypto.strong_rand_bytes(200_000)
        sender = Task.async(fn -> Socket.send(connection, data) end)
        {:ok, first} = take(client, 100_000)
        assert Task.await(sender) == :ok
        Socket.close(connection)
        assert first <> read_all(client) == data
      end

      test "to a closed connection fails", context do
        {connection, _client} = pair(context)
        Socket.close(connection)
        assert Socket.send(connection, "x") == {:error, :closed}
        assert_raise Socket.Error, ~r/closed/, fn -> Socket.send!(connection, "x") end
      end

      test "says what data is, and shows none", context do
        {connection, client} = pair(context)
        expected = "expected data that is iodata (a binary, or a list of binaries and bytes)"

        assert_raise ArgumentError, expected <> ", got: :hello", fn ->
          Socket.send(connection, :hello)
        end

        for wrong <- [1, {"secret"}, ["secret", :atom], ["secret", 256], ["secret" | 1]] do
          assert_raise ArgumentError, expected, fn -> Socket.send(connection, wrong) end
        end

        # It is as good as before.
        assert Socket.send(connection, "still here") == :ok
        assert take(client, 10) == {:ok, "still here"}
      end
    end

    describe "active" do
      test "true sends everything as messages, and the end", context do
        {%{socket: socket} = connection, client} = pair(context)
        assert Socket.active!(connection) == :ok
        put(client, "one")
        assert_receive {@data, ^socket, "one"}
        put(client, "two")
        assert_receive {@data, ^socket, "two"}
        hang_up(client)
        assert_receive {@closed, ^socket}
      end

      test "once sends one message", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection, :once)
        put(client, "one\ntwo\n")
        assert_receive {@data, ^socket, "one\n"}
        assert {:ok, %{active: false}} = Socket.options(connection)
        refute_received {@data, _, _}
        Socket.active!(connection, :once)
        assert_receive {@data, ^socket, "two\n"}
      end

      test "n sends n messages, and then says that it is passive", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection, 2)
        put(client, "one\ntwo\nthree\n")
        assert_receive {@data, ^socket, "one\n"}
        assert_receive {@data, ^socket, "two\n"}
        assert_receive {@passive, ^socket}
        refute_received {@data, _, _}
        assert Socket.recv(connection) == {:ok, "three\n"}
      end

      test "passive! ends it", context do
        {%{socket: socket} = connection, client} = pair(context)
        Socket.active!(connection)
        put(client, "one")
        assert_receive {@data, ^socket, "one"}
        Socket.passive!(connection)
        put(client, "two")
        assert Socket.recv(connection, 3) == {:ok, "two"}
        refute_received {@data, _, _}
      end

      test "has no other value", context do
        {connection, _client} = pair(context)
        assert {:error, %Reactor.ConfigError{option: :active}} = Socket.active(connection, 0)

        assert_raise Reactor.ConfigError,
                     "option :active must be true, false, :once or an integer from 1 to 32767, got: :twice",
                     fn -> Socket.active!(connection, :twice) end
      end

      test "can be a listener's option", context do
        {%{socket: socket}, client} = pair(context, active: true)
        put(client, "data")
        assert_receive {@data, ^socket, "data"}
      end
    end

    describe "options" do
      test "are those given to the listener", context do
        {connection, _client} = pair(context, nodelay: false, keepalive: true, packet_size: 1_000)
        assert {:ok, options} = Socket.options(connection)

        assert %{nodelay: false, keepalive: true, packet_size: 1_000, packet: :raw, active: false} =
                 options
      end

      test "can be set", context do
        {connection, _client} = pair(context)
        assert Socket.options(connection, packet: 2, keepalive: true) == :ok
        assert {:ok, %{packet: 2, keepalive: true}} = Socket.options(connection)
      end

      test "a wrong one is named, and none is set", context do
        {connection, _client} = pair(context)

        assert {:error, %Reactor.ConfigError{option: :packet}} =
                 Socket.options(connection, nodelay: false, packet: 3)

        assert {:ok, %{nodelay: true}} = Socket.options(connection)
        assert {:error, error} = Socket.options(connection, :nodelay)
        assert Exception.message(error) == "option :options must be a keyword list, got: :nodelay"
      end

      test "are judged together with those that are set", context do
        {connection, _client} = pair(context, high_watermark: 10_000, low_watermark: 5_000)

        assert {:error, %Reactor.ConfigError{option: :low_watermark} = error} =
                 Socket.options(connection, low_watermark: 10_001)

        assert Exception.message(error) =~ "no more than :high_watermark (10000)"
        assert Socket.options(connection, low_watermark: 10_001, high_watermark: 20_000) == :ok
      end

      test "of a closed connection cannot be had", context do
        {connection, _client} = pair(context)
        Socket.close(connection)
        assert Socket.options(connection) == {:error, :closed}
        assert Socket.options(connection, nodelay: true) == {:error, :closed}
      end
    end

    describe "packet" do
      test "changes the framing of what comes next", context do
        {connection, client} = pair(context)
        put(client, "raw")
        assert Socket.recv(connection, 3) == {:ok, "raw"}
        assert Socket.packet(connection, 2) == :ok
        put(client, <<3::16, "two", 0::16, 4::16, "four">>)
        assert Socket.recv(connection) == {:ok, "two"}
        assert Socket.recv(connection) == {:ok, ""}
        assert Socket.recv(connection) == {:ok, "four"}
        Socket.send!(connection, ["a", "b"])
        assert {:ok, <<2::16, "ab">>} = take(client, 4)
      end

      for width <- [1, 2, 4] do
        test "of a header of #{width} bytes is at most as large as :packet_size", context do
          {connection, client} = pair(context, packet: unquote(width), packet_size: 100)
          full = String.duplicate("x", 100)
          put(client, [<<100::size(unquote(width))-unit(8)>>, full])
          assert Socket.recv(connection, 0, 5_000) == {:ok, full}
          # What the header says is enough: nothing of it needs to have come.
          put(client, <<101::size(unquote(width))-unit(8)>>)
          assert Socket.recv(connection, 0, 5_000) == {:error, :emsgsize}
          assert Socket.recv(connection, 0, 5_000) == {:error, :closed}
        end
      end

      test "of lines is at most as large as :packet_size", context do
        {connection, client} = pair(context, packet: :line, packet_size: 100)
        full = String.duplicate("x", 99) <> "\n"
        put(client, full)
        assert Socket.recv(connection, 0, 5_000) == {:ok, full}
        put(client, [String.duplicate("x", 100), "\n"])

        # gen_tcp has it come in pieces.
        if context.transport == :TCP do
          assert Socket.recv(connection, 0, 5_000) == {:ok, String.duplicate("x", 100)}
          assert Socket.recv(connection, 0, 5_000) == {:ok, "\n"}
        else
          assert Socket.recv(connection, 0, 5_000) == {:error, :emsgsize}
        end
      end

      test "is what is sent, too", context do
        {connection, client} = pair(context, packet: 1)
        assert Socket.send(connection, String.duplicate("x", 255)) == :ok
        assert {:ok, <<255, _::binary-size(255)>>} = take(client, 256)
        assert Socket.send(connection, String.duplicate("x", 256)) == {:error, :emsgsize}
        assert Socket.send(connection, "still here") == :ok
        assert take(client, 11) == {:ok, <<10, "still here">>}
      end

      test "has no other value", context do
        {connection, _client} = pair(context)
        assert {:error, error} = Socket.packet(connection, :http)

        assert Exception.message(error) ==
                 "option :packet must be :raw, :line, 1, 2 or 4, got: :http"
      end

      test "a packet can be cut short by the end", context do
        {connection, client} = pair(context, packet: 4)
        put(client, <<10::32, "abc">>)
        hang_up(client)
        assert Socket.recv(connection) == {:error, :closed}
      end
    end

    describe "process!" do
      test "moves a passive connection", context do
        {connection, client} = pair(context)

        other =
          Task.async(fn ->
            receive(do: (:go -> Socket.recv(connection, 4, 5_000)))
          end)

        assert Socket.process!(connection, other.pid) == :ok
        send(other.pid, :go)
        put(client, "data")
        assert Task.await(other) == {:ok, "data"}
      end

      test "moves an active one with its messages, in order", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection)
        put(client, "1\n2\n3\n")
        # Two are in the mailbox for certain, the third may be.
        assert eventually(fn ->
                 match?(
                   {:message_queue_len, n} when n >= 2,
                   Process.info(self(), :message_queue_len)
                 )
               end)

        other =
          Task.async(fn ->
            for _ <- 1..4, do: receive(do: ({@data, ^socket, line} -> line))
          end)

        assert Socket.process!(connection, other.pid) == :ok
        put(client, "4\n")
        assert Task.await(other) == ["1\n", "2\n", "3\n", "4\n"]
        refute_received {@data, _, _}
      end

      test "is the owner's alone to do", context do
        {connection, _client} = pair(context)

        thief =
          Task.async(fn ->
            assert_raise Socket.Error, fn -> Socket.process!(connection, self()) end
          end)

        assert %Socket.Error{operation: :process, reason: :not_owner} = Task.await(thief)
      end

      test "wants a process that runs", context do
        {connection, client} = pair(context)
        {ended, monitor} = spawn_monitor(fn -> :ok end)
        assert_receive {:DOWN, ^monitor, _, _, _}
        error = assert_raise Socket.Error, fn -> Socket.process!(connection, ended) end
        assert error.reason == :badarg

        assert_raise ArgumentError, "expected a pid, got: :me", fn ->
          Socket.process!(connection, :me)
        end

        Socket.send!(connection, "still here")
        assert take(client, 10) == {:ok, "still here"}
      end

      test "the connection then ends with the new owner", context do
        {connection, client} = pair(context)
        owner = spawn(fn -> receive(do: (:end -> :ok)) end)
        Socket.process!(connection, owner)
        send(owner, :end)
        assert read_all(client) == ""
      end
    end

    describe "local and remote" do
      test "are the two ends", context do
        {connection, client} = pair(context)
        assert Socket.local(connection) == peer_address(client)
        assert Socket.remote(connection) == own_address(client)
      end

      test "fail once closed", context do
        {connection, _client} = pair(context)
        Socket.close(connection)
        assert Socket.remote(connection) == {:error, :closed}
        assert Socket.local(connection) == {:error, :closed}
      end
    end

    describe "statistics" do
      # With TLS they are those of the wire.
      if transport not in [:SSL, :NativeTLS] do
        test "count what came and went", context do
          {connection, client} = pair(context)

          assert {:ok, %{received: 0, sent: 0, reads: 0, writes: 0, queued: 0}} =
                   Socket.statistics(connection)

          put(client, "hello")
          assert Socket.recv(connection, 5) == {:ok, "hello"}
          Socket.send!(connection, "good bye")
          assert take(client, 8) == {:ok, "good bye"}

          assert {:ok, %{received: 5, sent: 8, reads: 1, writes: 1, queued: 0}} =
                   Socket.statistics(connection)
        end
      end

      test "grow with what comes and goes", context do
        {connection, client} = pair(context)
        {:ok, before} = Socket.statistics(connection)
        put(client, String.duplicate("x", 1_000))
        assert {:ok, _} = Socket.recv(connection, 1_000)
        Socket.send!(connection, String.duplicate("x", 2_000))
        assert {:ok, _} = take(client, 2_000)
        {:ok, now} = Socket.statistics(connection)
        assert now.received >= before.received + 1_000
        assert now.sent >= before.sent + 2_000
        assert now.reads > before.reads and now.writes > before.writes
      end

      test "say what a peer has not taken yet", context do
        {connection, client} = pair(context, send_timeout: 1, sndbuf: 10_000)

        # The kernel may make room after a sender has given up.
        assert eventually(fn ->
                 fill(connection)
                 {:ok, %{queued: queued}} = Socket.statistics(connection)
                 queued > 0
               end)

        {:ok, _} = take(client, 100_000)
      end

      if transport in [:Native, :NativeTLS] do
        test "say how old the connection is", context do
          {connection, _client} = pair(context)
          {:ok, %{age: age}} = Socket.statistics(connection)
          assert age in 0..5_000

          assert eventually(fn ->
                   {:ok, %{age: later}} = Socket.statistics(connection)
                   later > age
                 end)
        end
      end

      test "end with the connection", context do
        {connection, _client} = pair(context)
        Socket.close(connection)
        # :ssl's process ends a moment later.
        assert eventually(fn -> Socket.statistics(connection) == {:error, :closed} end)
      end
    end

    describe "a socket" do
      test "is what a transport knows" do
        for wrong <- [:socket, nil, self(), {:sslsocket_not, 1}, {}] do
          assert_raise ArgumentError,
                       ~r/^expected a Reactor.Connection, or the socket of one/,
                       fn ->
                         Socket.recv(wrong)
                       end
        end
      end
    end

    describe "close" do
      test "can be repeated", context do
        {connection, client} = pair(context)
        assert Socket.close(connection) == :ok
        assert Socket.close(connection) == :ok
        assert read_all(client) == ""
      end
    end

    test "the bare socket is as good as the connection", context do
      {%{socket: socket}, client} = pair(context)
      Socket.send!(socket, "ping")
      assert {:ok, "ping"} = take(client, 4)
      put(client, "pong")
      assert Socket.recv!(socket, 4) == "pong"
    end
  end
end
