for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.ContextTest, isolation]) do
    use Reactor.TransportCase, async: true, transport: :Native

    @moduletag isolation: isolation

    import Reactor.{Diary, LogRelay}

    alias Reactor.{Native, Python, Server}

    defp board(server), do: Server.board(server)
    defp swap(server, factory), do: Python.Supervisor.swap(board(server), factory)

    defp listening_socket(server), do: Server.listener(board(server)).socket

    describe "swap" do
      test "gives new connections to the new factory, and leaves the old ones", context do
        server = serve_diary(context, contexts: 2)
        old = for _ <- 1..4, do: dial(server)
        for client <- old, do: assert(echo(client, "before") == "before")

        assert swap(server, "manners:Greets") == :ok
        new = for _ <- 1..4, do: dial(server)
        for client <- new, do: assert({:ok, "welcome"} = :gen_tcp.recv(client, 7, 5_000))
        for client <- old, do: assert(echo(client, "after") == "after")

        assert swap(server, "diary:KeepsAndWrites") == :ok
        assert echo(dial(server), "again") == "again"

        for client <- new do
          :ok = :gen_tcp.send(client, "x")
          assert read_all(client) == "goodbye"
        end
      end

      for {factory, type} <- [
            {"no_such_module:Factory", "ModuleNotFoundError"},
            {"broken:Anything", "ModuleNotFoundError"},
            {"diary:Missing", "AttributeError"},
            {"trouble:not_callable", "TypeError"},
            {"trouble", "LookupError"}
          ] do
        test "to #{factory} says what is wrong and changes nothing", context do
          server = serve_diary(context, contexts: 2)
          old = dial(server)
          assert echo(old, "before") == "before"

          assert {:error, %Python.Error{type: unquote(type), traceback: traceback}} =
                   swap(server, unquote(factory))

          assert traceback =~ unquote(type)

          assert echo(old, "after") == "after"
          for _ <- 1..4, do: assert(echo(dial(server), "new") == "new")
        end
      end

      @tag :tmp_dir
      test "waits for a module that takes long; the context's process hears what else there is",
           %{tmp_dir: tmp_dir} = context do
        server = serve_diary(context, paths: [python(), tmp_dir])
        client = dial(server)
        assert echo(client, "x") == "x"
        {slow, gate} = slow_module(tmp_dir)
        swapping = Task.async(fn -> swap(server, slow) end)
        gate = reached(gate)
        # The context is busy; its process is not.
        [process] = Python.Supervisor.contexts(Server.whereis(board(server), :contexts))
        assert %{} = :sys.get_state(process)
        assert Task.yield(swapping, 0) == nil
        open(gate)
        assert Task.await(swapping) == :ok
        assert echo(client, "still") == "still"
        assert read_all(dial(server)) == "slow"
      end

      test "is refused by a context that ends", context do
        server = serve_diary(context)
        client = dial(server)
        assert echo(client, "farewell stay") == "farewell stay"
        [process] = Python.Supervisor.contexts(Server.whereis(board(server), :contexts))
        reference = make_ref()
        Python.Context.drain(process, reference, 60_000)
        assert {:ok, "going"} = :gen_tcp.recv(client, 5, 5_000)

        assert {:error, %Python.Error{message: message}} =
                 Python.Context.swap(process, "diary:Keeps")

        assert message =~ "ending"
        :ok = :gen_tcp.send(client, "done")
        assert read_all(client) == "farewell"
        assert_receive {^reference, :drained}
      end
    end

    describe "serve" do
      test "accepts from another socket of the server, with the factory that this has", context do
        server = serve_diary(context, contexts: 2)
        old = dial(server)
        assert echo(old, "x") == "x"
        listener = Server.listener(board(server))
        {:ok, socket} = listener.transport.listen(%{listener | port: 0})
        {:ok, {_, port}} = Native.listener_address(socket)
        Server.put_listener(board(server), %{listener | python: "manners:Greets"})

        assert Python.Supervisor.serve(board(server), socket) == :ok
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        assert {:ok, "welcome"} = :gen_tcp.recv(client, 7, 5_000)
        assert echo(old, "y") == "y"
        # Both are of one server, so of one factory.
        assert {:ok, "welcome"} = :gen_tcp.recv(dial(server), 7, 5_000)
        Native.listener_close(socket)
      end
    end

    # A server whose handlers give their connections away when they are told to.
    defmodule Gives do
      use Reactor

      # So that it has contexts.
      def route(_connection), do: :elixir

      def handle(connection) do
        send(connection.listener.env, {:accepted, connection, self()})
        listen(connection)
      end

      defp listen(connection) do
        receive do
          {:read, length} ->
            send(connection.listener.env, {:read, Reactor.Socket.recv(connection, length)})
            listen(connection)

          {:adopt, board, factory} ->
            result = Reactor.Python.Supervisor.adopt(board, connection.socket, factory)
            send(connection.listener.env, {:adopted, result})
        end
      end
    end

    describe "adopt" do
      defp serve_given(context, options \\ []) do
        serve(context, Gives, Keyword.merge([paths: [python()], contexts: 2], options))
      end

      # A client whose handler has accepted it.
      defp accepted(server) do
        client = dial_kept(server)
        assert_receive {:accepted, connection, handler}
        {client, connection, handler}
      end

      defp adopt(server, handler, factory) do
        monitor = Process.monitor(handler)
        send(handler, {:adopt, board(server), factory})
        assert_receive {:adopted, result}
        assert_receive {:DOWN, ^monitor, _, _, _}
        result
      end

      defp connections(server), do: Native.listener_info(listening_socket(server)).connections

      test "gives a connection to a protocol, which has it from then on", context do
        server = serve_given(context)
        {client, connection, handler} = accepted(server)
        :ok = :gen_tcp.send(client, "sent before")
        assert adopt(server, handler, "diary:Keeps") == :ok
        assert {:ok, "sent before"} = :gen_tcp.recv(client, 11, 5_000)
        assert echo(client, "live") == "live"
        assert {:error, _} = Reactor.Socket.recv(connection)
        assert connections(server) == 1
        :ok = :gen_tcp.shutdown(client, :write)
        assert read_all(client) == ""
        assert_diary(client, "made lost")
        assert eventually(fn -> connections(server) == 0 end)
      end

      test "leaves nothing behind that was received but not read", context do
        server = serve_given(context)
        {client, _, handler} = accepted(server)
        :ok = :gen_tcp.send(client, "onetwo")
        send(handler, {:read, 3})
        assert_receive {:read, {:ok, "one"}}
        assert adopt(server, handler, "diary:Keeps") == :ok
        assert {:ok, "two"} = :gen_tcp.recv(client, 3, 5_000)
      end

      test "takes the contexts in turn", context do
        server = serve_given(context)

        numbers =
          for _ <- 1..6 do
            {client, _, handler} = accepted(server)
            assert adopt(server, handler, "diary:Keeps") == :ok
            :ok = :gen_tcp.send(client, "context")
            {:ok, number} = :gen_tcp.recv(client, 0, 5_000)
            number
          end

        assert [3, 3] = numbers |> Enum.frequencies() |> Map.values()
      end

      test "with a factory that is not there closes that connection alone", context do
        attach()
        server = serve_given(context, contexts: 1)
        {good, _, handler} = accepted(server)
        assert adopt(server, handler, "diary:Keeps") == :ok
        {bad, _, handler} = accepted(server)
        assert adopt(server, handler, "no_such_module:Factory") == :ok
        assert read_all(bad) == ""
        assert {:error, text, _} = assert_logged("no_such_module")
        assert text =~ "ModuleNotFoundError"
        assert echo(good, "well") == "well"
        {next, _, handler} = accepted(server)
        assert adopt(server, handler, "manners:Greets") == :ok
        assert {:ok, "welcome"} = :gen_tcp.recv(next, 7, 5_000)
      end

      test "is for the owner of an open connection", context do
        server = serve_given(context)
        {client, connection, handler} = accepted(server)

        assert Python.Supervisor.adopt(board(server), connection.socket, "diary:Keeps") ==
                 {:error, :not_owner}

        Reactor.Socket.close(connection)
        assert read_all(client) == ""
        assert adopt(server, handler, "diary:Keeps") == {:error, :closed}
      end

      test "leaves the connection among those of its server, which tells it to go", context do
        server = serve_given(context)
        {client, _, handler} = accepted(server)
        assert adopt(server, handler, "diary:Keeps") == :ok
        assert echo(client, "farewell write_pending") == "farewell write_pending"
        :ok = Native.listener_drain(listening_socket(server))
        assert read_all(client) == "bye"
        assert_diary(client, "made away lost")
      end

      test "passes over a context that has died", context do
        server = serve_given(context)
        [first | _] = Python.Supervisor.contexts(Server.whereis(board(server), :contexts))
        monitor = Process.monitor(first)
        Process.exit(first, :kill)
        assert_receive {:DOWN, ^monitor, _, _, :killed}

        for _ <- 1..4 do
          {client, _, handler} = accepted(server)
          assert adopt(server, handler, "diary:Keeps") == :ok
          assert echo(client, "x") == "x"
        end
      end
    end
  end
end
