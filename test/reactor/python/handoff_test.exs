for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.HandoffTest, isolation]) do
    # It counts descriptors, and looks what the whole VM has open.
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.LogRelay

    alias Reactor.{Native, Python, Server}
    alias Reactor.TransportCase.Lend

    @moduletag :capture_log

    @python Path.expand("../../support/python", __DIR__)

    defmodule Serves do
      use Reactor, python: "handed:Remembered"
    end

    defmodule Opens do
      use Reactor, python: "handed:Opens"
    end

    # A context of a running server, and a client of a protocol that opens descriptors here.
    setup context do
      server = serve(context, Serves, paths: [@python])
      opener = context |> in_vm() |> serve(Opens, paths: [@python]) |> dial()
      [python] = Python.Supervisor.contexts(Server.whereis(Server.board(server), :contexts))
      {:ok, server: server, python: python, opener: opener}
    end

    # What has numbers of this VM, or no Python, is served here.
    defp in_vm(context), do: Map.delete(context, :isolation)

    # What is opened by numbers in this VM.
    defp open(context, what),
      do: context |> ask(what) |> String.split() |> Enum.map(&String.to_integer/1)

    defp ask(context, question) do
      :ok = :gen_tcp.send(context.opener, question)
      {:ok, answer} = :gen_tcp.recv(context.opener, 0, 5_000)
      answer
    end

    defp ask_for(context, question, length) do
      :ok = :gen_tcp.send(context.opener, question)
      {:ok, answer} = :gen_tcp.recv(context.opener, length, 5_000)
      answer
    end

    defp received(context, name), do: echo_of(context.server, "received #{name}")
    defp ended?(context, name), do: echo_of(context.server, "ended #{name}") == "True"

    # What a protocol of the context answers to a client of its own.
    defp echo_of(server, question) do
      client = dial(server)
      :ok = :gen_tcp.send(client, question)
      {:ok, answer} = :gen_tcp.recv(client, 0, 5_000)
      :gen_tcp.close(client)
      answer
    end

    # An accepted socket of the caller's, and its client.
    defp accepted(options \\ []) do
      {:ok, listening} =
        :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}] ++ options)

      {:ok, port} = :inet.port(listening)
      {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
      {:ok, socket} = :gen_tcp.accept(listening)
      :gen_tcp.close(listening)
      {socket, client}
    end

    defp said(client, question, length \\ 0) do
      :ok = :gen_tcp.send(client, question)
      {:ok, answer} = :gen_tcp.recv(client, length, 5_000)
      answer
    end

    defp open_fds do
      %{fds_opened: opened, fds_closed: closed} = Native.counters()
      opened - closed
    end

    # Two listeners and the client of the setup, which has been accepted by then: what tests before this one had open is closed.
    defp settled_fds(context) do
      assert ask(context, "blocked") in ["0", "1"]
      assert eventually(fn -> open_fds() == 3 end), "#{open_fds()} are open"
      open_fds()
    end

    defp counts(context) do
      {:ok, native} = Python.Directory.native(context.python)
      Native.context_counts(native)
    end

    describe "a socket of" do
      for {kind, options} <- [
            {":gen_tcp", []},
            {":gen_tcp with sockets", [inet_backend: :socket]}
          ],
          form <- [:socket, :integer],
          not (form == :integer and options != []) do
        test "#{kind}, as #{form}, is the protocol's from then on", context do
          {socket, client} = accepted_by(unquote(options))
          :ok = :gen_tcp.send(client, "early")
          given = if unquote(form) == :integer, do: elem(:inet.getfd(socket), 1), else: socket
          assert Python.handoff(context.python, given, %{name: "tcp"}) == :ok
          assert {:ok, "early"} = :gen_tcp.recv(client, 5, 5_000)
          assert said(client, "and late", 8) == "and late"
          [fd, "True"] = client |> said("fd") |> String.split()

          assert Native.context_counts(elem(Python.Directory.native(context.python), 1)).connections ==
                   1

          # It is one of ours now, with that number unless it is in another process.
          if unquote(isolation != :process),
            do: assert(Python.handoff(context.python, String.to_integer(fd)) == {:error, :in_use})

          # Erlang's own is closed.
          assert {:error, _} = :gen_tcp.send(socket, "x")
          assert Python.handoff(context.python, socket) == {:error, :closed}
          :gen_tcp.close(client)
          assert eventually(fn -> counts(context).connections == 0 end)
          assert ended?(context, "tcp")
        end
      end

      defp accepted_by([]), do: accepted()

      # That option comes first.
      defp accepted_by(inet_backend: backend) do
        options = [{:inet_backend, backend}, :binary, active: false, ip: {127, 0, 0, 1}]
        {:ok, listening} = :gen_tcp.listen(0, options)
        {:ok, {_, port}} = :inet.sockname(listening)
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        {:ok, socket} = :gen_tcp.accept(listening)
        :gen_tcp.close(listening)
        {socket, client}
      end

      for form <- [:socket, :integer] do
        test ":socket, as #{form}", context do
          {:ok, listening} = :socket.open(:inet, :stream, :tcp)
          :ok = :socket.bind(listening, %{family: :inet, addr: {127, 0, 0, 1}, port: 0})
          :ok = :socket.listen(listening)
          {:ok, %{port: port}} = :socket.sockname(listening)
          {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
          {:ok, socket} = :socket.accept(listening)
          {:ok, fd} = :socket.getopt(socket, :otp, :fd)
          given = if unquote(form) == :integer, do: fd, else: socket
          assert Python.handoff(context.python, given) == :ok
          assert said(client, "hello", 5) == "hello"
          assert {:error, :closed} = :socket.send(socket, "x")
          assert Python.handoff(context.python, socket) == {:error, :closed}
          assert Python.dup_fd(socket) == {:error, :closed}
          assert Python.handoff(context.python, listening) == {:error, :listening}
          :socket.close(listening)
          assert said(client, "close") == "bye"
          assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
        end
      end

      test "the native transport", context do
        {connection, client} = pair(in_vm(context))
        :ok = :gen_tcp.send(client, "early")
        assert Python.handoff(context.python, connection, %{"name" => "native"}) == :ok
        assert {:ok, "early"} = :gen_tcp.recv(client, 5, 5_000)
        assert {:error, :closed} = Reactor.Socket.recv(connection)
        assert Python.handoff(context.python, connection) == {:error, :closed}
        assert said(client, "info") =~ ~s("name": "'native'")
        assert counts(context).handed_over == 1
        :gen_tcp.close(client)
        assert eventually(fn -> counts(context).connections == 0 end)
      end

      test "the transport of :gen_tcp", context do
        {connection, client} = pair(in_vm(context), transport: Reactor.Transport.TCP)
        assert Python.handoff(context.python, connection) == :ok
        assert said(client, "hello", 5) == "hello"
        Reactor.Socket.close(connection)
        assert said(client, "again", 5) == "again"
      end

      test "the native transport, in active mode or with packets, stays its owner's", context do
        for options <- [[active: true], [packet: :line]] do
          {connection, client} = pair(in_vm(context))
          :ok = Reactor.Socket.options(connection, options)
          assert Python.handoff(context.python, connection) == {:error, :einval}
          :ok = Reactor.Socket.options(connection, active: false, packet: :raw)
          assert Reactor.Socket.send(connection, "mine") == :ok
          assert {:ok, "mine"} = :gen_tcp.recv(client, 4, 5_000)
        end
      end

      for connected <- [true, false] do
        test ":gen_udp, each read a datagram, #{if connected, do: "connected", else: "to whoever sent the last"}",
             context do
          sizes = [recbuf: 200_000, sndbuf: 200_000, buffer: 100_000]
          options = [:binary, active: false, ip: {127, 0, 0, 1}] ++ sizes
          {:ok, socket} = :gen_udp.open(0, options)
          {:ok, client} = :gen_udp.open(0, options)
          {:ok, port} = :inet.port(socket)
          {:ok, back} = :inet.port(client)
          if unquote(connected), do: :ok = :gen_udp.connect(socket, {127, 0, 0, 1}, back)
          name = "udp #{unquote(connected)}"
          assert Python.handoff(context.python, socket, %{name: name}) == :ok
          send = &:gen_udp.send(client, {127, 0, 0, 1}, port, &1)
          take = fn -> client |> :gen_udp.recv(0, 5_000) |> elem(1) |> elem(2) end
          :ok = send.("one")
          assert take.() == "one"
          # An empty one is no end, and large ones come whole.
          :ok = send.("")
          large = :binary.copy("x", 60_000)
          :ok = send.(large)
          assert take.() == large
          :ok = send.("info")
          assert take.() =~ ~s("type": "'udp'")
          # A peer that is gone is not the end either.
          :gen_udp.close(client)
          refute ended?(context, name)
        end
      end
    end

    test "a datagram that nobody took ends nothing, and the next one comes", context do
      options = [:binary, active: false, ip: {127, 0, 0, 1}]
      {:ok, socket} = :gen_udp.open(0, options)
      {:ok, client} = :gen_udp.open(0, options)
      {:ok, port} = :inet.port(socket)
      {:ok, back} = :inet.port(client)
      :ok = :gen_udp.connect(socket, {127, 0, 0, 1}, back)
      assert Python.handoff(context.python, socket, %{name: "deaf"}) == :ok
      assert eventually(fn -> received(context, "deaf") == "(empty)" end)
      :gen_udp.close(client)
      # The kernel says that there is nobody.
      for _ <- 1..2, do: assert(echo_of(context.server, "say deaf 1 hello") == "said")
      {:ok, client} = :gen_udp.open(back, options)
      :ok = :gen_udp.send(client, {127, 0, 0, 1}, port, "later")
      assert at_last(client) == "at last"
      refute ended?(context, "deaf")
    end

    # What was said before may reach whoever has the address by now, also in front of what is said then.
    defp at_last(client) do
      case :gen_udp.recv(client, 0, 5_000) do
        {:ok, {_, _, "hello"}} -> at_last(client)
        {:ok, {_, _, text}} -> String.replace_leading(text, "hello", "")
      end
    end

    describe "a datagram that is too large" do
      test "to be read is dropped, and the next one is not", context do
        attach()
        [ours, theirs] = open(context, "unix dgram")
        assert Python.handoff(context.python, ours) == :ok
        assert ask(context, "pour #{theirs} 100000") == "100000"
        assert ask(context, "pour #{theirs} 65536") == "65536"
        assert byte_size(ask_for(context, "read #{theirs} 65536", 65_536)) == 65_536
        assert {:warning, _, _} = assert_logged("a datagram larger than 64 KiB was dropped")
      end

      test "to be sent closes its socket, and is logged", context do
        attach()
        {:ok, socket} = :gen_udp.open(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(socket)
        {:ok, client} = :gen_udp.open(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        assert Python.handoff(context.python, socket, %{name: "too large"}) == :ok
        :ok = :gen_udp.send(client, {127, 0, 0, 1}, port, "pour 70000")
        assert {:error, _, _} = assert_logged("a datagram is too large to be sent")
        assert eventually(fn -> ended?(context, "too large") end)
      end
    end

    describe "by a number of its own," do
      test "both ends of a pipe", context do
        [reads, writes] = open(context, "pipe")
        assert Python.handoff(context.python, reads, %{name: "reads", quiet: true}) == :ok
        assert Python.handoff(context.python, writes, %{name: "writes", greeting: "hello"}) == :ok
        assert eventually(fn -> received(context, "reads") == "hello" end)
        assert echo_of(context.server, "say writes 1 more") == "said"
        assert eventually(fn -> received(context, "reads") == "hellomore" end)
        assert counts(context).connections == 2
      end

      test "a pipe ends with its writer, and with its reader", context do
        [reads, writes] = open(context, "pipe")
        assert Python.handoff(context.python, reads, %{name: "reading", quiet: true}) == :ok
        ask(context, "write #{writes} hush")
        assert eventually(fn -> received(context, "reading") == "hush" end)
        ask(context, "close #{writes}")
        assert eventually(fn -> ended?(context, "reading") end)

        [reads, writes] = open(context, "pipe")
        assert Python.handoff(context.python, writes, %{name: "writing"}) == :ok
        refute ended?(context, "writing")
        ask(context, "close #{reads}")
        assert eventually(fn -> ended?(context, "writing") end)
        assert eventually(fn -> counts(context).connections == 0 end)
      end

      test "a pipe that is only read cannot be written to, and the exception says so", context do
        attach()
        [reads, writes] = open(context, "pipe")
        assert Python.handoff(context.python, reads, %{name: "mute"}) == :ok
        ask(context, "write #{writes} hello")
        assert {:error, text, _} = assert_logged("open for reading only")
        assert text =~ "OSError"
        assert eventually(fn -> ended?(context, "mute") end)
        ask(context, "close #{writes}")
      end

      test "a pipe that is full is written to when there is room", context do
        [reads, writes] = open(context, "pipe")
        assert Python.handoff(context.python, writes, %{name: "much", greeting: "begin"}) == :ok
        # Others find it once it has begun.
        assert ask_for(context, "read #{reads} 5", 5) == "begin"
        # More than the kernel keeps.
        for n <- 1..3, do: assert(echo_of(context.server, "say much 60000 #{n}") == "said")
        written = ask_for(context, "read #{reads} 180000", 180_000)
        assert written =~ ~r/\A[123]+\z/
        ask(context, "close #{reads}")
        assert eventually(fn -> ended?(context, "much") end)
      end

      test "a terminal", context do
        [master, slave] = open(context, "pty")
        assert Python.handoff(context.python, master, %{name: "tty"}) == :ok
        ask(context, "write #{slave} info")
        assert ask(context, "read #{slave}") =~ ~s("type": "'tty'")
        ask(context, "close #{slave}")
        assert eventually(fn -> ended?(context, "tty") end)
      end

      for kind <- ["stream", "dgram", "seqpacket"] do
        test "a Unix socket: #{kind}", context do
          [ours, theirs] = open(context, "unix #{unquote(kind)}")
          assert Python.handoff(context.python, ours, %{name: unquote(kind)}) == :ok
          ask(context, "write #{theirs} info")
          answer = ask(context, "read #{theirs}")
          assert answer =~ ~s("type": "'unix'")
          assert answer =~ ~s("pid": "#{System.pid()}")
          ask(context, "write #{theirs} later")
          assert ask(context, "read #{theirs}") == "at last"
          ask(context, "close #{theirs}")
          # A socket for datagrams has no end.
          if unquote(kind) != "dgram" do
            assert eventually(fn -> ended?(context, unquote(kind)) end)
          end
        end
      end

      test "a duplicate, beside the original, over and over", context do
        {socket, client} = accepted()

        for n <- 1..5 do
          assert {:ok, copy} = Python.dup_fd(socket)
          assert Python.handoff(context.python, copy, %{name: "copy#{n}"}) == :ok
          # Both have the socket, until the protocol closes its own.
          assert said(client, "close") == "bye"
          assert eventually(fn -> ended?(context, "copy#{n}") end)
          assert :gen_tcp.send(socket, "still here") == :ok
          assert {:ok, "still here"} = :gen_tcp.recv(client, 10, 5_000)
        end

        :gen_tcp.close(socket)
        assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
      end

      test "a duplicate that is open after the original is closed", context do
        {socket, client} = accepted()
        {:ok, fd} = :inet.getfd(socket)
        assert {:ok, copy} = Python.dup_fd(fd)
        assert copy != fd
        assert Python.handoff(context.python, copy, %{type: :tcp}) == :ok
        :gen_tcp.close(socket)
        assert said(client, "hello", 5) == "hello"
      end

      test "a duplicate of a native connection", context do
        {connection, client} = pair(in_vm(context))
        assert {:ok, copy} = Python.dup_fd(connection)
        Reactor.Socket.close(connection)
        assert Python.handoff(context.python, copy) == :ok
        assert said(client, "hello", 5) == "hello"
      end
    end

    test "the acceptor that handed its socket over dies, and nothing is lost", context do
      test = self()

      {acceptor, monitor} =
        spawn_monitor(fn ->
          {socket, client} = accepted()
          :ok = :gen_tcp.controlling_process(client, test)
          send(test, {:client, client})
          {:ok, fd} = :inet.getfd(socket)
          send(test, {:given, Python.handoff(context.python, fd)})
        end)

      assert_receive {:client, client}
      :ok = :gen_tcp.send(client, "early")
      assert_receive {:given, :ok}
      assert_receive {:DOWN, ^monitor, _, ^acceptor, :normal}
      assert {:ok, "early"} = :gen_tcp.recv(client, 5, 5_000)
      data = :crypto.strong_rand_bytes(1_000_000) |> Base.encode64()
      sender = Task.async(fn -> :gen_tcp.send(client, data) end)
      assert {:ok, ^data} = :gen_tcp.recv(client, byte_size(data), 10_000)
      assert Task.await(sender) == :ok
    end

    test "an answer from another thread", context do
      {socket, client} = accepted()
      assert Python.handoff(context.python, socket) == :ok
      assert said(client, "later", 7) == "at last"
      assert said(client, "and on", 6) == "and on"
    end

    describe "client_info" do
      test "has what is known, and over that what was given", context do
        {socket, client} = accepted()
        {:ok, port} = :inet.port(client)
        assert Python.handoff(context.python, socket) == :ok
        info = said(client, "info")
        assert info =~ ~s("addr": "'127.0.0.1'")
        assert info =~ ~s("port": "#{port}")
        assert info =~ ~s("type": "'tcp'")

        {socket, client} = accepted()
        # As the address comes from inet:ntoa.
        given = %{addr: :inet.ntoa({10, 0, 0, 1}), port: 5000, type: :tcp, id: {1, [2, nil]}}
        assert Python.handoff(context.python, socket, given) == :ok
        info = said(client, "info")
        assert info =~ ~s("addr": "'10.0.0.1'")
        assert info =~ ~s("port": "5000")
        assert info =~ ~s("id": "(1, [2, None]\)")
      end

      test "is made of what Erlang has", context do
        {socket, client} = accepted()

        given = %{
          ~c"letters" => "text",
          "addr" => {0, 0, 0, 0, 0, 0, 0, 1},
          bytes: <<255, 0>>,
          atom: :an_atom,
          yes: true,
          no: nil,
          numbers: [80, 443],
          float: 1.5,
          empty: [],
          map: %{"a" => %{b: ~c"c"}},
          big: 0x7FFF_FFFF_FFFF_FFFF
        }

        assert Python.handoff(context.python, socket, given) == :ok
        info = said(client, "info")

        for text <- [
              ~s("letters": "'text'"),
              ~s("addr": "'::1'"),
              ~S("bytes": "b'\\xff\\x00'"),
              ~s("atom": "'an_atom'"),
              ~s("yes": "True"),
              ~s("no": "None"),
              ~s("numbers": "[80, 443]"),
              ~s("float": "1.5"),
              ~s("empty": "[]"),
              ~s("map": "{'a': {'b': 'c'}}"),
              ~s("big": "9223372036854775807")
            ] do
          assert info =~ text
        end
      end

      test "is refused if Python cannot be given it, and the socket stays", context do
        {socket, client} = accepted()
        deep = Enum.reduce(1..100, nil, fn _, inner -> [inner] end)

        for {wrong, why} <- [
              {[addr: 1], "is a map"},
              {"text", "is a map"},
              {%URI{}, "is a map"},
              {%{text: String.duplicate("x", 70_000)}, "65536 bytes"},
              {%{pid: self()}, "pid"},
              {%{a: make_ref()}, "see \"a\""},
              {%{a: [1 | 2]}, "improper"},
              {%{a: deep}, "deeper"},
              {%{a: 0x8000_0000_0000_0000}, "64 bits"},
              {%{<<255>> => 1}, "UTF-8"},
              {%{1 => 1}, "atoms or strings as keys"},
              {%{a: <<1::3>>}, "see \"a\""},
              {%{a: fn -> 1 end}, "see \"a\""}
            ] do
          error =
            assert_raise ArgumentError, fn -> Python.handoff(context.python, socket, wrong) end

          assert error.message =~ why
        end

        assert :gen_tcp.send(socket, "mine") == :ok
        assert {:ok, "mine"} = :gen_tcp.recv(client, 4, 5_000)
      end
    end

    describe "what is refused stays the caller's:" do
      test "a socket of another process", context do
        test = self()

        owner =
          spawn_link(fn ->
            {socket, client} = accepted()
            send(test, {:owned, socket, client})
            receive(do: (:end -> :ok))
          end)

        assert_receive {:owned, socket, client}
        {:ok, fd} = :inet.getfd(socket)
        assert Python.handoff(context.python, socket) == {:error, :not_owner}
        assert Python.handoff(context.python, fd) == {:error, :not_owner}
        assert Python.dup_fd(socket) == {:error, :not_owner}
        assert :gen_tcp.send(socket, "fine") == :ok
        assert {:ok, "fine"} = :gen_tcp.recv(client, 4, 5_000)
        {connection, _client} = pair(in_vm(context))
        task = Task.async(fn -> Python.handoff(context.python, connection) end)
        assert Task.await(task) == {:error, :not_owner}
        task = Task.async(fn -> Python.dup_fd(connection) end)
        assert Task.await(task) == {:error, :not_owner}
        send(owner, :end)
      end

      test "one in active mode, or with packets", context do
        for options <- [[active: true], [active: :once], [packet: 4], [packet: :line]] do
          {socket, client} = accepted(options)
          assert Python.handoff(context.python, socket) == {:error, :einval}
          {:ok, fd} = :inet.getfd(socket)
          assert Python.handoff(context.python, fd) == {:error, :einval}
          :ok = :inet.setopts(socket, active: false, packet: :raw)
          assert :gen_tcp.send(client, "fine") == :ok
          assert {:ok, "fine"} = :gen_tcp.recv(socket, 4, 5_000)
        end
      end

      test "one whose port has something to send", context do
        {socket, client} = accepted(high_watermark: 50_000_000)
        data = :binary.copy("x", 20_000_000)
        :ok = :gen_tcp.send(socket, data)
        assert Python.handoff(context.python, socket) == {:error, :send_pending}
        assert {:ok, ^data} = :gen_tcp.recv(client, byte_size(data), 30_000)
        assert eventually(fn -> Python.handoff(context.python, socket) == :ok end)
        assert said(client, "hello", 5) == "hello"
      end

      test "numbers that are no descriptors, or not such ones", context do
        for fd <- [
              -1,
              -100_000,
              1_000_000,
              0x7FFF_FFFF,
              0x8000_0000,
              1_000_000_000_000_000_000_000
            ] do
          assert Python.handoff(context.python, fd) == {:error, :ebadf}
          assert Python.dup_fd(fd) == {:error, :ebadf}
        end

        for fd <- 0..2, do: assert(Python.handoff(context.python, fd) == {:error, :standard_io})

        for {what, kind} <- [
              {"open #{__ENV__.file}", :regular},
              {"open /tmp", :directory},
              {"open /dev/null", :device},
              {"epoll", :anonymous}
            ] do
          [fd] = open(context, what)
          assert Python.handoff(context.python, fd) == {:error, {:not_pollable, kind}}
          assert ask(context, "blocking #{fd}") == "1"
          ask(context, "close #{fd}")
          assert Python.handoff(context.python, fd) == {:error, :ebadf}
        end
      end

      if isolation != :process do
        test "what Reactor's loops have", context do
          assert [fd, "True"] = context.server |> echo_of_kept("fd") |> String.split()
          assert Python.handoff(context.python, String.to_integer(fd)) == {:error, :in_use}
        end

        defp echo_of_kept(server, question), do: server |> dial() |> said(question)
      end

      test "a TLS socket, which :ssl has the keys of", context do
        server =
          serve(in_vm(context), Lend,
            transport: Reactor.Transport.SSL,
            secure: Reactor.Certificates.server()
          )

        client = dial(server)
        assert_receive {:lent, connection}
        assert Python.handoff(context.python, connection) == {:error, :tls}
        assert Python.handoff(context.python, connection.socket) == {:error, :tls}
        assert Python.dup_fd(connection) == {:error, :tls}
        assert Reactor.Socket.send(connection, "fine") == :ok
        assert {:ok, "fine"} = :ssl.recv(client, 4, 5_000)
      end

      test "what is none at all", context do
        for wrong <- ["3", nil, :fd, 3.0, {3}, [3], %{}, self(), make_ref()] do
          assert_raise ArgumentError, fn -> Python.handoff(context.python, wrong) end
          assert_raise ArgumentError, fn -> Python.dup_fd(wrong) end
        end
      end

      test "one for a context that is not there", context do
        {socket, client} = accepted()
        assert Python.handoff(:no_such_context, socket) == {:error, :noproc}
        gone = spawn(fn -> :ok end)
        assert Python.handoff(gone, socket) == {:error, :noproc}
        assert Python.handoff(context.python, socket) == :ok
        assert said(client, "hello", 5) == "hello"
      end

      test "a pipe keeps its blocking mode when there is no context any more", context do
        [reads, _writes] = open(context, "pipe")
        {:ok, native} = Python.Directory.native(context.python)
        monitor = Process.monitor(context.python)
        Process.exit(context.python, :kill)
        assert_receive {:DOWN, ^monitor, _, _, _}

        # What is handed over before it has ended it still takes.
        assert eventually(fn ->
                 [other, _] = open(context, "pipe")
                 Native.context_handoff(native, other, false, %{}) == {:error, :closed}
               end)

        assert Native.context_handoff(native, reads, false, %{}) == {:error, :closed}
        assert ask(context, "blocking #{reads}") == "1"
      end
    end

    test "a connection with TLS goes on with it, but not into a process of its own", context do
      server = serve(in_vm(context), Lend, secure: Reactor.Certificates.server())
      client = dial(server)
      assert_receive {:lent, connection}
      assert Python.dup_fd(connection) == {:error, :tls}

      if unquote(isolation == :process) do
        assert Python.handoff(context.python, connection) == {:error, :tls}
        assert Reactor.Socket.send(connection, "mine") == :ok
        assert {:ok, "mine"} = :ssl.recv(client, 4, 5_000)
      else
        assert Python.handoff(context.python, connection) == :ok
        :ok = :ssl.send(client, "hello")
        assert {:ok, "hello"} = :ssl.recv(client, 5, 5_000)
      end
    end

    test "what set_protocol_factory set last makes the protocols", context do
      defmodule Other do
        use Reactor, python: "careful_echo"
      end

      server = serve(context, Other, paths: [@python])
      [python] = Python.Supervisor.contexts(Server.whereis(Server.board(server), :contexts))
      {socket, client} = accepted()
      assert Python.handoff(python, socket) == :ok
      assert said(client, "info", 4) == "info"
    end

    test "as many are closed as were opened, resets and exceptions included", context do
      attach()
      before = settled_fds(context)
      processes = length(Process.list())

      for round <- 1..20 do
        clients =
          for n <- 1..15 do
            {socket, client} = accepted()
            info = if rem(n, 5) == 4, do: %{greeting: "raise"}, else: %{}
            assert Python.handoff(context.python, socket, info) == :ok
            {n, client}
          end

        for {n, client} <- clients do
          case rem(n, 5) do
            0 -> :inet.setopts(client, linger: {true, 0})
            1 -> :gen_tcp.send(client, "raise")
            2 -> said(client, "hello #{round}")
            3 -> said(client, "close")
            4 -> :ok
          end

          :gen_tcp.close(client)
        end
      end

      assert eventually(fn -> counts(context).connections == 0 end)
      assert eventually(fn -> open_fds() == before end), "#{before} before, #{open_fds()} after"

      assert {:ok, %{connections: 0, waiting: 0, handed_over: 300}} = Python.info(context.python)

      assert eventually(fn -> length(Process.list()) <= processes end)
    end

    test "one that its peer has reset already is refused, or lost, but closed either way",
         context do
      before = settled_fds(context)

      for _ <- 1..50 do
        {socket, client} = accepted()
        :inet.setopts(client, linger: {true, 0})
        :gen_tcp.close(client)

        case Python.handoff(context.python, socket) do
          :ok -> assert {:error, _} = :gen_tcp.send(socket, "x")
          {:error, reason} -> assert reason in [:enotconn, :closed, :einval]
        end

        :gen_tcp.close(socket)
      end

      assert eventually(fn -> open_fds() == before end)
    end

    test "connections that are handed over are reported as others are", context do
      Reactor.EventRelay.attach(port: port(context.server))
      {socket, client} = accepted()
      assert Python.handoff(context.python, socket) == :ok
      {_, %{id: id}} = Reactor.EventRelay.assert_event([:reactor, :connection, :start])
      :ok = :gen_tcp.send(client, "raise")
      {_, failed} = Reactor.EventRelay.assert_event([:reactor, :python, :exception])
      assert %{id: ^id, callback: "data_received"} = failed
      {%{received: 5}, stopped} = Reactor.EventRelay.assert_event([:reactor, :connection, :stop])
      assert %{id: ^id, reason: :exception} = stopped
    end

    # They are asked by contexts of the same interpreter.
    if isolation == :shared do
      describe "a context that belongs to no listener" do
        # The calling process is the context's. No setup of ExUnit's, whose formatter would keep the references.
        defp alone(context) do
          {:ok, reporter} = Server.Reporter.start_link({:context, :alone})

          options = %{
            name: "alone",
            paths: [@python],
            python_dir: Application.app_dir(:reactor, "priv/python"),
            isolation: :shared,
            experimental: false,
            callback_timeout: nil,
            stuck_timeout: nil,
            venv: nil,
            requirements: [],
            setup: [],
            report_to: reporter,
            max_connections: 2
          }

          {:ok, alone} = Native.context_start(options)
          assert_receive {:"$reactor_context", ^alone, :ready}
          listening = Server.listener(Server.board(context.server)).socket
          Map.merge(context, %{alone: alone, listening: listening})
        end

        defp gets_a_factory(%{alone: alone, listening: listening}, factory \\ "handed:Handed") do
          :ok = Native.context_serve(alone, listening, factory)
          assert_receive {:"$reactor_context", ^alone, {:serving, ^listening}}
        end

        test "takes nothing before there is a factory", context do
          context = alone(context)
          [ours, theirs] = open(context, "unix stream")
          assert Native.context_handoff(context.alone, ours, false, %{}) == {:error, :no_factory}
          assert ask(context, "blocking #{ours}") == "1"
          gets_a_factory(context)
          assert Native.context_handoff(context.alone, ours, false, %{}) == :ok
          ask(context, "write #{theirs} hello")
          assert ask(context, "read #{theirs} 5") == "hello"
        end

        # Eight answers, which are more than the kernel keeps for a peer that takes none.
        defp filled(context, name) do
          context = alone(context)
          gets_a_factory(context, "handed:Leaves")
          [ours, theirs] = open(context, "unix seqpacket")
          assert Native.context_handoff(context.alone, ours, false, %{"name" => name}) == :ok
          for _ <- 1..8, do: assert(ask(context, "pour_60000 #{theirs}") == "10")
          assert eventually(fn -> byte_size(received(context, name)) >= 50 end)
          Native.context_stop(context.alone, 5_000)
          {context, theirs}
        end

        test "ends, and a goodbye goes behind the message that waits", context do
          {context, theirs} = filled(context, "polite")
          lengths = open(context, "lengths #{theirs} 9")
          assert Enum.sort(lengths) == [7 | List.duplicate(60_000, 8)]
          ask(context, "close #{theirs}")
        end

        test "ends, and says so if a goodbye is lost", context do
          attach()
          {context, theirs} = filled(context, "hasty")
          assert {:warning, _, _} = assert_logged("its last one is lost")
          ask(context, "close #{theirs}")
        end

        test "has no more than it may have, reports them by its name, and drains them", context do
          Reactor.EventRelay.attach(name: :alone)
          context = alone(context)
          gets_a_factory(context)
          pairs = for _ <- 1..3, do: open(context, "unix stream")

          results =
            for [ours, _] <- pairs, do: Native.context_handoff(context.alone, ours, false, %{})

          assert results == [:ok, :ok, {:error, :max_connections}]

          for _ <- 1..2 do
            {_, started} = Reactor.EventRelay.assert_event([:reactor, :connection, :start])
            assert %{module: Reactor.Python, name: :alone, ip: nil, port: nil} = started
          end

          [[_, first], [_, second], [left, _]] = pairs
          assert ask(context, "blocking #{left}") == "1"
          ask(context, "close #{first}")
          Reactor.EventRelay.assert_stopped(:remote)
          assert eventually(fn -> Native.context_counts(context.alone).connections == 1 end)
          assert Native.context_handoff(context.alone, left, false, %{}) == :ok

          ask(context, "write #{second} hello")
          assert ask(context, "read #{second} 5") == "hello"
          Native.context_stop(context.alone, 5_000)
          for _ <- 1..2, do: Reactor.EventRelay.assert_stopped(:drained)
          alone = context.alone
          assert_receive {:"$reactor_context", ^alone, :stopped}
          assert %{connections: 0, handed_over: 3} = Native.context_counts(alone)
          [ours, _] = open(context, "unix stream")
          assert Native.context_handoff(alone, ours, false, %{}) == {:error, :closed}
        end
      end

      # While the context is in a callback that takes long, and takes nothing up.
      test "too many at once are refused after a second, and stay their callers'", context do
        before = settled_fds(context)
        {:ok, native} = Python.Directory.native(context.python)
        blocker = dial(context.server)
        :ok = :gen_tcp.send(blocker, "block")
        assert eventually(fn -> ask(context, "blocked") == "1" end)

        numbers = for _ <- 1..1_100, do: open(context, "unix stream")
        results = for [ours, _] <- numbers, do: handed(native, ours)
        assert Enum.count(results, &(&1 == :ok)) == 1_024
        assert counts(context).waiting == 1_024
        ask(context, "unblock")
        assert {:ok, "block"} = :gen_tcp.recv(blocker, 5, 5_000)
        assert eventually(fn -> counts(context).waiting == 0 end)
        :gen_tcp.close(blocker)

        for {[ours, theirs], result} <- Enum.zip(numbers, results) do
          if result != :ok do
            assert result == {:error, :overloaded}
            assert ask(context, "blocking #{ours}") == "1"
            ask(context, "close #{ours}")
          end

          ask(context, "close #{theirs}")
        end

        assert eventually(fn -> open_fds() == before end)
        assert eventually(fn -> counts(context).connections == 0 end)
      end

      # Each of those that find no room waits for a second: one is enough of them.
      defp handed(native, fd) do
        if Native.context_counts(native).waiting < 1_024 or Process.put(:waited, true) == nil,
          do: Native.context_handoff(native, fd, false, %{}),
          else: {:error, :overloaded}
      end
    end
  end
end
