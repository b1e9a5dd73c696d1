for transport <- [:Native, :NativeTLS], isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.ListenerTest, transport, isolation]) do
    use Reactor.TransportCase, async: true, transport: transport

    @moduletag isolation: isolation

    import Reactor.LogRelay

    @python Path.expand("../../support/python", __DIR__)

    defmodule Plain do
      use Reactor, python: "plain_echo:PlainEcho"
    end

    defmodule Any do
      use Reactor.Behaviour, python: "chosen.at.start"
    end

    defp serve_python(context, module, options \\ []) do
      serve(context, module, [paths: [@python]] ++ options)
    end

    describe "a protocol" do
      test "that leaves writing to the reactor", context do
        client = context |> serve_python(Plain) |> dial()
        assert echo(client, "hello") == "hello"
        assert echo(client, "again") == "again"
      end

      test "that writes by itself, and registers its factory", context do
        client = context |> serve_python(Any, python: "careful_echo") |> dial()

        for n <- [1, 100, 65_536],
            data = :crypto.strong_rand_bytes(n),
            do: assert(echo(client, data) == data)
      end

      test "that closes when it has answered", context do
        client = context |> serve_python(Any, python: "small_http:SmallHTTP") |> dial()
        :ok = put(client, "GET /tea")
        :ok = put(client, " HTTP/1.0\r\nHost: pot\r\n\r\n")

        assert read_all(client) == "HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nGET of /tea"
      end

      test "that speaks first, and closes with a last word", context do
        client = context |> serve_python(Any, python: "manners:Greets") |> dial()
        assert {:ok, "welcome"} = take(client, 7, 5_000)
        :ok = put(client, "hello")
        assert read_all(client) == "goodbye"
      end

      test "that answers from another thread", context do
        client = context |> serve_python(Any, python: "manners:AnswersLater") |> dial()
        assert echo(client, "live") == "evil"
        assert echo(client, "stop") == "pots"
      end

      test "that ends the connection of another", context do
        server = serve_python(context, Any, python: "manners:EndsOthers")
        [first, second] = [dial(server), dial(server)]
        :ok = put(second, "who")
        {:ok, fd} = take(second, 0, 5_000)
        :ok = put(first, fd)
        assert {:ok, "done"} = take(first, 4, 5_000)
        assert read_all(second) == ""
        :ok = put(first, "lost")
        assert {:ok, ^fd} = take(first, byte_size(fd), 5_000)
      end

      test "is found from the current directory", context do
        client = context |> serve(Any, python: "examples.echo:EchoProtocol") |> dial()
        assert echo(client, "beside mix.exs") == "beside mix.exs"
      end

      test "gets every byte in order, on many connections and contexts", context do
        server = serve_python(context, Plain, contexts: 2)

        1..20
        |> Enum.map(fn _ ->
          client = dial(server)

          Task.async(fn ->
            for _ <- 1..10 do
              data = :crypto.strong_rand_bytes(:rand.uniform(65_536))
              assert echo(client, data) == data
            end
          end)
        end)
        |> Task.await_many(30_000)
      end

      test "keeps its write buffer, which is empty again whatever its size was", context do
        client = context |> serve_python(Any, python: "holds:Holds") |> dial()

        for {size, letter} <- Enum.with_index([3, 4_095, 4_096, 60_000, 1, 100_000, 5_000], ?a) do
          :ok = put(client, "#{size}")
          assert take(client, size, 5_000) == {:ok, String.duplicate(<<letter>>, size)}
        end
      end

      test "does not wait for a reader that never reads", context do
        server = serve_python(context, Plain)
        lazy = dial(server, send_timeout: 300)
        data = :binary.copy("x", 65_536)

        blocked_at = Enum.find(1..2_000, fn _ -> put(lazy, data) == {:error, :timeout} end)

        # Bounded by the kernel's buffers and the write queue; at the end of the range nothing would bound it.
        assert blocked_at

        other = dial(server)
        for _ <- 1..20, do: assert(echo(other, "quick") == "quick")
      end
    end

    describe "info" do
      test "counts the connections", context do
        server = serve_python(context, Plain, contexts: 2)
        assert Reactor.info(server).connections == 0
        clients = for _ <- 1..3, do: dial(server)
        for client <- clients, do: assert(echo(client, "x") == "x")
        assert Reactor.info(server).connections == 3
        Enum.each(clients, &hang_up/1)
        assert eventually(fn -> Reactor.info(server).connections == 0 end)
      end

      test "says which Python", context do
        server = serve_python(context, Plain, contexts: 2)

        assert %{
                 python: "plain_echo:PlainEcho",
                 contexts: 2,
                 isolation: unquote(isolation),
                 interpreter: %{version: version, executable: executable}
               } = Reactor.info(server)

        assert version =~ ~r/^3\.\d+/
        assert is_binary(executable)
      end
    end

    describe "a connection that fails" do
      setup do
        attach()
      end

      for size <- [10, 100_000] do
        test "as somebody looks into a write buffer of #{size} bytes is closed, and says so",
             context do
          client = context |> serve_python(Any, python: "holds:Holds") |> dial()
          :ok = put(client, unquote("look #{size}"))
          assert read_all(client) == ""
          assert {:error, _text, _metadata} = assert_logged("BufferError")
        end
      end

      for {request, logged} <- [
            {"raise", "ValueError: raised on demand"},
            {"upstream", "ConnectionRefusedError: no database"},
            {"unknown", "dance"},
            {"none", "returned None"},
            {"number", "returned an instance of int"}
          ] do
        test "with #{request} is closed, with a traceback in the log, and the others go on",
             context do
          server = serve_python(context, Any, python: "trouble:OnDemand")
          [first, second] = [dial(server), dial(server)]
          assert echo(first, "fine") == "fine"
          assert echo(second, "fine") == "fine"

          :ok = put(first, unquote(request))
          assert read_all(first) == ""
          assert {:error, text, _metadata} = assert_logged(unquote(logged))
          if unquote(request) == "raise", do: assert(text =~ "Traceback" and text =~ "trouble.py")

          assert echo(second, "still fine") == "still fine"
          assert echo(dial(server), "new") == "new"
        end
      end

      test "because its peer is gone is closed without a word", context do
        server = serve_python(context, Any, python: "trouble:OnDemand")
        [lost, other] = [dial(server, linger: {true, 0}), dial(server)]
        :ok = put(lost, "write")
        {:ok, "go"} = take(lost, 2, 5_000)
        hang_up(lost)
        # What is logged of the first comes before what is of the second.
        :ok = put(other, "upstream")
        texts = logged_until("ConnectionRefusedError: no database")
        # Tests beside this one may say something of theirs.
        of_it = Enum.filter(texts, &(&1 =~ "trouble.py"))
        refute Enum.any?(of_it, &(&1 =~ "BrokenPipeError" or &1 =~ "ConnectionResetError"))
      end

      defp logged_until(pattern, texts \\ []) do
        assert_receive {Reactor.LogRelay, _, text, _}, 10_000
        if text =~ pattern, do: texts, else: logged_until(pattern, [text | texts])
      end

      test "closes by its own wish without a word", context do
        server = serve_python(context, Any, python: "trouble:OnDemand")
        client = dial(server)
        :ok = put(client, "close")
        assert read_all(client) == ""
      end

      test "in its factory is closed, and the next is served", context do
        server = serve_python(context, Any, python: "trouble:factory")
        assert read_all(dial(server)) == ""
        assert {:error, text, _} = assert_logged("RuntimeError: no protocol today")
        assert text =~ "Traceback"
        assert echo(dial(server), "served") == "served"
      end
    end

    describe "start" do
      setup do
        attach()
      end

      defp start(python, options \\ []) do
        Reactor.start(Any, [ip: :loopback, python: python, paths: [@python]] ++ options)
      end

      test "fails if the module is missing" do
        assert {:error, %Reactor.Python.Error{type: type, message: message} = error} =
                 start("no_such_module:Factory")

        assert type =~ "ModuleNotFoundError"
        assert message =~ "no_such_module"
        assert error.traceback =~ "ModuleNotFoundError"
        assert {:error, text, _} = assert_logged("no_such_module:Factory")
        assert text =~ "ModuleNotFoundError"
      end

      test "fails if the module fails, with its traceback" do
        assert {:error, %Reactor.Python.Error{traceback: traceback}} = start("broken:Anything")
        assert traceback =~ "broken.py"
        assert traceback =~ "there_is_no_such_module"
        assert {:error, text, _} = assert_logged("there_is_no_such_module")
        assert text =~ "Traceback"
      end

      test "fails if the module lacks the factory" do
        assert {:error, %Reactor.Python.Error{type: type}} = start("trouble:Missing")
        assert type =~ "AttributeError"
      end

      test "fails if the factory cannot be called" do
        assert {:error, %Reactor.Python.Error{type: type}} = start("trouble:not_callable")
        assert type =~ "TypeError"
      end

      test "fails if neither a factory is named nor the module sets one" do
        assert {:error, %Reactor.Python.Error{}} = start("trouble")
      end

      test "after a failure leaves the port free" do
        # Below the ports that the system gives to whoever asks for any: no test beside this one is given it meanwhile.
        port = 20_000 + rem(System.unique_integer([:positive]), 10_000)
        {:ok, server} = Reactor.start(MyApp.Echo, ip: :loopback, port: port)
        Reactor.stop(server)
        assert {:error, %Reactor.Python.Error{}} = start("no_such_module", port: port)
        assert {:ok, server} = start("plain_echo:PlainEcho", port: port)
        assert Reactor.stop(server) == :ok
      end

      test "twice, with a protocol each" do
        {:ok, first} = start("plain_echo:PlainEcho")
        {:ok, second} = start("small_http:SmallHTTP")
        client = dial(second)
        :ok = put(client, "GET / HTTP/1.0\r\n\r\n")
        assert echo(dial(first), "one") == "one"
        assert read_all(client) =~ "GET of /"
        assert Reactor.stop(first) == :ok
        assert Reactor.stop(second) == :ok
      end
    end

    describe "stop" do
      test "closes idle connections at once" do
        {:ok, server} = start("plain_echo:PlainEcho", drain_timeout: 60_000)
        client = dial(server)
        assert echo(client, "x") == "x"
        assert Reactor.stop(server) == :ok
        assert read_all(client) == ""
      end

      test "cuts a connection that does not end" do
        {:ok, server} = start("lasting:Chatter", drain_timeout: 60_000)
        client = dial(server)
        :ok = put(client, "go")
        assert {:ok, _} = take(client, 65_536, 5_000)
        assert Reactor.stop(server, 0) == :ok
      end
    end

    describe "a context" do
      test "that dies with its process is started again, on the same port", context do
        server = serve_python(context, Plain)
        assert echo(dial(server), "before") == "before"
        board = Reactor.Server.board(server)
        [process] = Reactor.Python.Supervisor.contexts(Reactor.Server.whereis(board, :contexts))
        monitor = Process.monitor(process)
        Process.exit(process, :kill)
        assert_receive {:DOWN, ^monitor, _, _, :killed}
        # The supervisor answers when the new one serves.
        assert [_another] =
                 Reactor.Python.Supervisor.contexts(Reactor.Server.whereis(board, :contexts))

        assert echo(dial(server), "after") == "after"
      end
    end
  end
end
