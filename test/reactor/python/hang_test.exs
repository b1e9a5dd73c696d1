for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.HangTest, isolation]) do
    # Not async: both cores are busy.
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation
    @moduletag :capture_log

    alias Reactor.{EventRelay, LogRelay, Native, Python, Server, Throng}

    # What becomes of clients, callers and other contexts when one of two hangs under load, and nothing ends that.

    @python Path.expand("../../support/python", __DIR__)

    # New connections are to be served within that, in ms.
    @soon 2_000

    defmodule Py do
      use Reactor, python: "apart:Apart", callback_timeout: :infinity, stuck_timeout: :infinity
    end

    # What a context that hangs by nesting calls: each of its calls takes no long time.
    defp nested(python) do
      :ok = Python.register_function("apart_nested", &Python.call(python.(), :time, :sleep, [&1]))
      on_exit(fn -> Python.unregister_function("apart_nested") end)
    end

    # Has the context of the client hang, and waits until it does.
    defp hang(client, how) do
      {:ok, listening} = :gen_tcp.listen(0, active: false, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listening)
      :ok = put(client, "hang #{how} #{port}")
      {:ok, gate} = :gen_tcp.accept(listening, 20_000)
      :gen_tcp.close(listening)
      gate
    end

    # With the GIL of an interpreter that all share nobody would be served.
    @hows [shared: ["spin", "wait"], subinterpreter: ["hold"], process: ["spin", "wait", "hold"]]

    for how <- @hows[isolation] do
      test "one of two hangs (#{how}): the other loses nothing, and serves who is new", context do
        server = serve(context, Py, paths: [@python], contexts: 2)
        throng = Throng.start(server, 300)
        client = dial(server)
        {:ok, home} = Throng.ask(client, "home")
        gate = hang(client, unquote(how))
        seen = Throng.look(throng, home)
        assert seen.longest_visit < @soon

        assert Enum.uniq(seen.calls) -- [{:ok, 4}, {:error, :timeout}, {:error, :overloaded}] ==
                 []

        assert {:ok, 4} in seen.calls
        assert {:error, :timeout} in seen.calls
        Throng.stop(throng)
        # What hangs has its connections still, and goes on with them if it comes back.
        if unquote(how) != "spin" do
          :gen_tcp.close(gate)
          assert {:ok, "hang" <> _} = :gen_tcp.recv(client, 0, 20_000)
          assert Throng.ask(client, "again") == {:ok, "again"}
        end

        assert Reactor.stop(server, 0) == :ok
      end
    end

    test "the only one hangs, and is given up: who is new is served soon", context do
      ends = [callback_timeout: 500, stuck_timeout: 500]
      server = serve(context, Py, [paths: [@python], contexts: 1] ++ ends)
      nested(fn -> hd(contexts(server)) end)
      hows = ["spin", "wait", "nest"]

      for how <- hows ++ if(unquote(isolation == :shared), do: [], else: ["hold"]) do
        client = dial(server)
        assert Throng.ask(client, "x") == {:ok, "x"}
        gate = hang(client, how)
        begun = System.monotonic_time(:millisecond)
        assert eventually(fn -> Throng.ask(dial(server), "new", @soon) == {:ok, "new"} end)
        assert System.monotonic_time(:millisecond) - begun < @soon
        # It comes back, and takes nobody from the one in its place.
        :gen_tcp.close(gate)
        clients = for _ <- 1..20, do: dial(server)
        for client <- clients, do: assert(Throng.ask(client, "x") == {:ok, "x"})
      end
    end

    defmodule Routes do
      use Reactor, callback_timeout: :infinity, stuck_timeout: :infinity
      def route(_connection), do: {:python, "apart:Apart"}
    end

    for how <- ["wait", "nest"] do
      test "one that hangs (#{how}) is given no connections by a route, while there is another",
           context do
        server = serve(context, Routes, paths: [@python], contexts: 2)
        first = dial(server)
        {:ok, home} = Throng.ask(first, "home")
        hung = Enum.find(contexts(server), &(Python.call(&1, :apart, :home) == {:ok, home}))
        nested(fn -> hung end)
        gate = hang(first, unquote(how))
        # Of these it gets one, and does not come to that.
        early = for _ <- 1..2, do: dial(server)
        assert eventually(fn -> deaf?(server) end)

        for _ <- 1..10 do
          assert {:ok, other} = Throng.ask(dial(server), "home")
          assert other != home
        end

        :gen_tcp.close(gate)
        for client <- early, do: assert({:ok, "x"} = Throng.ask(client, "x"))
        assert eventually(fn -> not deaf?(server) end)
      end
    end

    defp contexts(server), do: server |> Server.board() |> Server.contexts()

    # Whether one of its contexts is known not to come to what it is given.
    defp deaf?(server) do
      for(
        context <- contexts(server),
        {:ok, native} <- [Python.Directory.native(context)],
        do: Native.context_is_deaf(native)
      )
      |> Enum.any?()
    end

    test "a drain counts what has finished, though the one that hangs does not end", context do
      server = serve(context, Py, paths: [@python], contexts: 2)
      [one, other] = one_of_each(server)
      gate = hang(one, "wait")
      assert Reactor.drain(server, 1_000) == {:ok, %{connections: 2, finished: 1, cut: 1}}
      assert read_all(other) == "bye"
      :gen_tcp.close(gate)
    end

    # A client of each of its two contexts, and no other one.
    defp one_of_each(server, clients \\ %{}) do
      client = dial(server)
      {:ok, home} = Throng.ask(client, "home")
      if is_map_key(clients, home), do: hang_up(client)
      clients = Map.put_new(clients, home, client)

      if map_size(clients) == 2 do
        assert eventually(fn -> connections(server) == 2 end)
        Map.values(clients)
      else
        one_of_each(server, clients)
      end
    end

    # Without asking its contexts.
    defp connections(server) do
      Native.listener_info(Server.listener(Server.board(server)).socket).connections
    end

    if isolation == :process do
      # Where nobody comes to a connection, somebody else does: it is the same one there.
      for transport <- [:Native, :NativeTLS] do
        test "connections that a process does not come to go to the other one (#{transport})",
             context do
          EventRelay.attach(module: Py)
          LogRelay.attach()
          options = [paths: [@python], contexts: 2, max_connections: 600]
          server = serve(%{context | transport: unquote(transport)}, Py, options)
          # Its listener's: what tests before this one had open is closed.
          assert eventually(fn -> open_fds() == 1 end)
          first = dial(server)
          {:ok, home} = tell(first, "home")
          gate = hang(first, "hold")
          homes = come_until_logged(server, %{})
          clients = Map.keys(homes)
          assert [other] = homes |> Map.values() |> Enum.uniq()
          assert other != home
          count = 1 + length(clients)
          assert %{connections: ^count, accepted: ^count} = Reactor.info(server)
          ids = for _ <- 1..count, do: elem(assert_start(), 1).id

          assert Enum.sort(ids) ==
                   server |> Reactor.connections() |> Enum.map(& &1.id) |> Enum.sort()

          refute_received {[:reactor, :connection, :stop], _, _}

          # When it comes back it takes new ones too.
          :gen_tcp.close(gate)
          assert {:ok, "hang" <> _} = take(first, 0)
          assert eventually(fn -> visits(server, home) end)
          for client <- [first | clients], do: hang_up(client)
          assert eventually(fn -> Reactor.info(server).connections == 0 end)

          assert eventually(fn -> open_fds() == 1 end)
        end
      end

      defp open_fds do
        %{fds_opened: opened, fds_closed: closed} = Native.counters()
        opened - closed
      end

      test "what the only process does not come to waits for it", context do
        server = serve(context, Py, paths: [@python])
        first = dial(server)
        gate = hang(first, "hold")
        clients = for _ <- 1..100, do: dial(server)
        for client <- clients, do: :ok = put(client, "at last")
        # From then on others would have what it has not begun with.
        assert eventually(fn -> deaf?(server) end)
        for client <- clients, do: assert(take(client, 1, 0) == {:error, :timeout})
        :gen_tcp.close(gate)
        for client <- clients, do: assert(take(client, 7) == {:ok, "at last"})
      end

      test "what a process gives back during a drain is drained where it goes", context do
        {server, gate, idle} = give_idle(context, 20)
        drain = Task.async(fn -> Reactor.drain(server, :infinity) end)

        # The other process has had no connection before. What was said is answered still, before the goodbye or after it.
        assert read_all(idle) =~ ~r"^(bye)?[0-9]+/[0-9]+(bye)?$"
        :gen_tcp.close(gate)
        assert Task.await(drain, 20_000) == {:ok, %{connections: 2, finished: 2, cut: 0}}
      end

      # A server one of whose processes hangs, which has most likely been given an idle connection and not begun with it.
      defp give_idle(context, tries) do
        assert tries > 0
        server = serve(context, Py, paths: [@python], contexts: 2)
        gate = hang(dial(server), "wait")
        idle = dial(server)
        :ok = put(idle, "home")

        # Of the two it may have gone to the other, which answers at once.
        if take(idle, 0, 100) == {:error, :timeout} do
          {server, gate, idle}
        else
          :gen_tcp.close(gate)
          Reactor.stop(server, 0)
          give_idle(context, tries - 1)
        end
      end

      test "what is cut before a process gives it back is nobody else's", context do
        cut_in_time(context, 50)
      end

      # What came to the other process at first, or was asked back already, proves nothing: that is tried again.
      defp cut_in_time(context, tries) do
        assert tries > 0, "this machine is too busy"
        server = serve(context, Py, paths: [@python], contexts: 2)
        [one, other] = one_of_each(server)
        # Neither of them could answer.
        [hangs, comes_back] = for client <- [one, other], do: hang(client, "wait")
        begun = System.monotonic_time(:millisecond)
        idle = dial(server)
        # It says something, which the other process would answer.
        :ok = put(idle, "home")
        assert eventually(fn -> connections(server) == 3 end)
        :gen_tcp.close(comes_back)
        assert {:ok, "hang" <> _} = take(other, 0)
        # If it had been given that one it answers before the last of these.
        for _ <- 1..2, do: assert(echo(other, "x") == "x")
        answered? = take(idle, 0, 0) != {:error, :timeout}
        assert Native.listener_cut(Server.listener(Server.board(server)).socket) == 3
        # It is asked back half a second after it was given.
        late? = System.monotonic_time(:millisecond) - begun >= 400
        unless answered? or late?, do: assert(read_all(idle) == "")
        :gen_tcp.close(hangs)
        assert eventually(fn -> connections(server) == 0 end)
        assert Reactor.stop(server, 0) == :ok
        if answered? or late?, do: cut_in_time(context, tries - 1)
      end

      defp tell(client, text) do
        :ok = put(client, text)
        take(client, 0)
      end

      # One after the other, until one of them was given to the process that hangs, and taken back.
      defp come_until_logged(server, homes) do
        client = dial(server)
        {:ok, home} = tell(client, "home")
        homes = Map.put(homes, client, home)

        receive do
          {LogRelay, :info, "a Python process does not come to its new connections" <> _, _} ->
            homes
        after
          0 ->
            assert map_size(homes) < 500
            come_until_logged(server, homes)
        end
      end

      defp assert_start, do: EventRelay.assert_event([:reactor, :connection, :start])

      defp visits(server, home) do
        client = dial(server)
        answer = tell(client, "home")
        hang_up(client)
        answer == {:ok, home}
      end
    end
  end
end
