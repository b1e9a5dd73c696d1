for transport <- Reactor.TransportCase.transports() do
  defmodule Module.concat(Reactor.SocketTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    # Gives each connection to the test, and waits for it to be over.
    defmodule Lend do
      use Reactor

      def handle(connection) do
        Socket.process!(connection, connection.listener.env)
        send(connection.listener.env, {:lent, connection})
        monitor = Process.monitor(connection.listener.env)
        receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
      end
    end

    # A connection that the test owns, and its peer.
    defp pair(context, options \\ []) do
      client = context |> serve(Lend, options) |> dial()
      assert_receive {:lent, connection}
      {connection, client}
    end

    describe "recv" do
      test "takes what there is, or a number of bytes", context do
        {connection, client} = pair(context)
        :gen_tcp.send(client, "hello world")
        assert Socket.recv(connection, 5) == {:ok, "hello"}
        assert Socket.recv(connection, 1) == {:ok, " "}
        assert Socket.recv(connection) == {:ok, "world"}
      end

      test "waits for as many as asked", context do
        {connection, client} = pair(context)
        receiver = Task.async(fn -> Socket.recv(connection, 6, 5_000) end)
        for part <- ["ab", "cd", "ef"], do: :gen_tcp.send(client, part)
        assert Task.await(receiver) == {:ok, "abcdef"}
      end

      test "gives up after the timeout, and loses nothing", context do
        {connection, client} = pair(context)
        assert Socket.recv(connection, 0, 0) == {:error, :timeout}
        assert Socket.recv(connection, 0, 10) == {:error, :timeout}
        :gen_tcp.send(client, "abc")
        assert Socket.recv(connection, 3, 5_000) == {:ok, "abc"}
        :gen_tcp.send(client, "de")
        assert Socket.recv(connection, 4, 10) == {:error, :timeout}
        :gen_tcp.send(client, "fg")
        assert Socket.recv(connection, 4, 5_000) == {:ok, "defg"}
      end

      test "a timeout leaves no message behind", context do
        {connection, client} = pair(context)

        for i <- 1..200 do
          sender = Task.async(fn -> :gen_tcp.send(client, <<i>>) end)

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
        :gen_tcp.send(client, "last")
        :gen_tcp.close(client)
        assert Socket.recv(connection, 4) == {:ok, "last"}
        assert Socket.recv(connection) == {:error, :closed}
        assert Socket.recv(connection) == {:error, :closed}
      end

      test "is refused in active mode", context do
        {connection, _client} = pair(context)
        Socket.active!(connection)
        assert Socket.recv(connection, 0, 0) == {:error, :einval}
      end

      test "takes one process at a time", context do
        {connection, client} = pair(context)
        test = self()

        other =
          Task.async(fn ->
            send(test, {:trying, self()})
            Socket.recv(connection, 1, 5_000)
          end)

        assert_receive {:trying, _}
        # Of two that wait, whichever came second is told so.
        case Socket.recv(connection, 1, 0) do
          {:error, :ealready} -> :ok
          {:error, :timeout} -> :ok
        end

        :gen_tcp.send(client, "x")
        assert Task.await(other) == {:ok, "x"}
      end
    end

    describe "recv!" do
      test "is nil at the end of the stream", context do
        {connection, client} = pair(context)
        :gen_tcp.send(client, "data")
        assert Socket.recv!(connection, 4) == "data"
        :gen_tcp.shutdown(client, :write)
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
        assert {:ok, "abcd"} = :gen_tcp.recv(client, 4, 5_000)
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
        {:ok, first} = :gen_tcp.recv(client, 100_000, 5_000)
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
    end

    describe "active" do
      test "true sends everything as messages, and the end", context do
        {%{socket: socket} = connection, client} = pair(context)
        assert Socket.active!(connection) == :ok
        :gen_tcp.send(client, "one")
        assert_receive {:tcp, ^socket, "one"}
        :gen_tcp.send(client, "two")
        assert_receive {:tcp, ^socket, "two"}
        :gen_tcp.close(client)
        assert_receive {:tcp_closed, ^socket}
      end

      test "once sends one message", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection, :once)
        :gen_tcp.send(client, "one\ntwo\n")
        assert_receive {:tcp, ^socket, "one\n"}
        assert {:ok, %{active: false}} = Socket.options(connection)
        refute_received {:tcp, _, _}
        Socket.active!(connection, :once)
        assert_receive {:tcp, ^socket, "two\n"}
      end

      test "n sends n messages, and then says that it is passive", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection, 2)
        :gen_tcp.send(client, "one\ntwo\nthree\n")
        assert_receive {:tcp, ^socket, "one\n"}
        assert_receive {:tcp, ^socket, "two\n"}
        assert_receive {:tcp_passive, ^socket}
        refute_received {:tcp, _, _}
        assert Socket.recv(connection) == {:ok, "three\n"}
      end

      test "passive! ends it", context do
        {%{socket: socket} = connection, client} = pair(context)
        Socket.active!(connection)
        :gen_tcp.send(client, "one")
        assert_receive {:tcp, ^socket, "one"}
        Socket.passive!(connection)
        :gen_tcp.send(client, "two")
        assert Socket.recv(connection, 3) == {:ok, "two"}
        refute_received {:tcp, _, _}
      end

      test "can be a listener's option", context do
        {%{socket: socket}, client} = pair(context, active: true)
        :gen_tcp.send(client, "data")
        assert_receive {:tcp, ^socket, "data"}
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
      end
    end

    describe "packet" do
      test "changes the framing of what comes next", context do
        {connection, client} = pair(context)
        :gen_tcp.send(client, "raw")
        assert Socket.recv(connection, 3) == {:ok, "raw"}
        assert Socket.packet(connection, 2) == :ok
        :gen_tcp.send(client, <<3::16, "two", 0::16, 4::16, "four">>)
        assert Socket.recv(connection) == {:ok, "two"}
        assert Socket.recv(connection) == {:ok, ""}
        assert Socket.recv(connection) == {:ok, "four"}
        Socket.send!(connection, ["a", "b"])
        assert {:ok, <<2::16, "ab">>} = :gen_tcp.recv(client, 4, 5_000)
      end

      test "too large a packet is an error", context do
        {connection, client} = pair(context, packet: 4, packet_size: 100)
        :gen_tcp.send(client, <<101::32>>)
        assert Socket.recv(connection) == {:error, :emsgsize}
      end

      test "a packet can be cut short by the end", context do
        {connection, client} = pair(context, packet: 4)
        :gen_tcp.send(client, <<10::32, "abc">>)
        :gen_tcp.close(client)
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
        :gen_tcp.send(client, "data")
        assert Task.await(other) == {:ok, "data"}
      end

      test "moves an active one with its messages, in order", context do
        {%{socket: socket} = connection, client} = pair(context, packet: :line)
        Socket.active!(connection)
        :gen_tcp.send(client, "1\n2\n3\n")
        # Two are in the mailbox for certain, the third may be.
        assert eventually(fn ->
                 match?(
                   {:message_queue_len, n} when n >= 2,
                   Process.info(self(), :message_queue_len)
                 )
               end)

        other =
          Task.async(fn ->
            for _ <- 1..4, do: receive(do: ({:tcp, ^socket, line} -> line))
          end)

        assert Socket.process!(connection, other.pid) == :ok
        :gen_tcp.send(client, "4\n")
        assert Task.await(other) == ["1\n", "2\n", "3\n", "4\n"]
        refute_received {:tcp, _, _}
      end

      test "is the owner's alone to do", context do
        {connection, _client} = pair(context)

        thief =
          Task.async(fn ->
            assert_raise Socket.Error, fn -> Socket.process!(connection, self()) end
          end)

        assert %Socket.Error{operation: :process, reason: :not_owner} = Task.await(thief)
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
        assert Socket.local(connection) == :inet.peername(client)
        assert Socket.remote(connection) == :inet.sockname(client)
      end

      test "fail once closed", context do
        {connection, _client} = pair(context)
        Socket.close(connection)
        assert {:error, _} = Socket.remote(connection)
      end
    end

    describe "shutdown" do
      test "of writing lets reading go on", context do
        {connection, client} = pair(context)
        :inet.setopts(client, exit_on_close: false)
        Socket.send!(connection, "bye")
        assert Socket.shutdown(connection, :write) == :ok
        assert read_all(client) == "bye"
        :gen_tcp.send(client, "still here")
        assert Socket.recv(connection, 10) == {:ok, "still here"}
      end

      test "of reading ends a wait for data", context do
        {connection, client} = pair(context)
        assert Socket.shutdown(connection, :read) == :ok
        assert Socket.recv(connection, 0, 5_000) == {:error, :closed}
        _ = client
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
      assert {:ok, "ping"} = :gen_tcp.recv(client, 4, 5_000)
      :gen_tcp.send(client, "pong")
      assert Socket.recv!(socket, 4) == "pong"
    end
  end
end
