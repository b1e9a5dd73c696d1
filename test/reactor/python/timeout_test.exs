defmodule Reactor.Python.TimeoutTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{EventRelay, Isolations, LogRelay}

  @python Path.expand("../../support/python", __DIR__)

  # Interrupted callbacks are logged.
  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "patience:make", callback_timeout: 200
  end

  defp start(context, options \\ []) do
    serve(context, Py, [paths: [@python], isolation: context.isolation] ++ options)
  end

  defp tell(client, text), do: :gen_tcp.send(client, text)

  defp ask(client, text) do
    :ok = tell(client, text)
    {:ok, answer} = :gen_tcp.recv(client, 0, 20_000)
    answer
  end

  # Events of this server alone.
  defp attach(server), do: EventRelay.attach(port: port(server), module: Py)

  for isolation <- Isolations.all() do
    describe "#{isolation}:" do
      @describetag isolation: isolation

      test "data_received that never returns ends its connection, and no other", context do
        server = start(context)
        attach(server)
        LogRelay.attach()
        [victim, other] = [dial(server), dial(server)]
        assert ask(other, "before") == "before"
        :ok = tell(victim, "spin")
        assert read_all(victim) == ""
        EventRelay.assert_stopped(:callback_timeout)

        {_, %{callback: "data_received"} = failed} =
          EventRelay.assert_event([:reactor, :python, :exception])

        assert failed.reason.type == "CallbackTimeout"
        assert failed.reason.message =~ "callback_timeout"
        assert failed.reason.traceback =~ "in spin"
        assert {:error, _, _} = LogRelay.assert_logged("CallbackTimeout")
        assert ask(other, "after") == "after"
        assert ask(dial(server), "new") == "new"
      end

      test "except Exception does not catch it", context do
        server = start(context)
        victim = dial(server)
        :ok = tell(victim, "swallow")
        assert read_all(victim) == ""
        assert ask(dial(server), "new") == "new"
      end

      test "who catches everything is interrupted again, and closed whatever it returns",
           context do
        server = start(context)
        attach(server)
        victim = dial(server)
        :ok = tell(victim, "stubborn 3")
        assert read_all(victim) == ""
        EventRelay.assert_stopped(:callback_timeout)
        assert ask(dial(server), "new") == "new"
      end

      for {name, callback} <- [made: "connection_made", factory: "factory"] do
        test "#{callback} that never returns ends its connection", context do
          server = start(context)
          attach(server)
          other = dial(server)
          assert ask(other, "arm #{unquote(name)}") == "done"
          victim = dial(server)
          assert read_all(victim) == ""
          EventRelay.assert_stopped(:callback_timeout)

          assert {_, %{callback: unquote(callback)}} =
                   EventRelay.assert_event([:reactor, :python, :exception])

          assert ask(other, "after") == "after"
          assert ask(dial(server), "new") == "new"
        end
      end

      test "connection_lost that never returns keeps nobody", context do
        server = start(context)
        attach(server)
        [victim, other] = [dial(server), dial(server)]
        assert ask(victim, "lost") == "done"
        :gen_tcp.close(victim)
        assert ask(other, "after") == "after"
        EventRelay.assert_stopped(:remote)

        assert {_, %{callback: "connection_lost"}} =
                 EventRelay.assert_event([:reactor, :python, :exception])
      end

      test "write_ready that never returns ends its connection", context do
        server = start(context, python: "patience:Writes")
        attach(server)
        victim = dial(server)
        :ok = tell(victim, "x")
        assert read_all(victim) == ""
        EventRelay.assert_stopped(:callback_timeout)
        again = dial(server)
        :ok = tell(again, "x")
        assert read_all(again) == ""
      end

      # Datagrams cannot go into a process of its own.
      if isolation != :process do
        test "datagram_received that never returns loses that datagram", context do
          server = start(context, protocol: :udp, python: "patience:Datagrams")
          attach(server)
          {:ok, client} = :gen_udp.open(0, [:binary, active: false])
          :ok = :gen_udp.connect(client, {127, 0, 0, 1}, port(server))
          :ok = :gen_udp.send(client, "spin")
          :ok = :gen_udp.send(client, "after")
          assert {:ok, {_, _, "after"}} = :gen_udp.recv(client, 0, 20_000)

          assert {_, %{callback: "datagram_received"}} =
                   EventRelay.assert_event([:reactor, :python, :exception])
        end
      end

      test "what waits outside of Python is reported as stuck, once, and ends when it returns",
           context do
        server = start(context)
        attach(server)
        LogRelay.attach()
        victim = dial(server)
        {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(listening)
        :ok = tell(victim, "wait #{port}")
        {:ok, waited_for} = :gen_tcp.accept(listening, 20_000)

        {measured, %{callback: "data_received", id: id}} =
          EventRelay.assert_event([:reactor, :python, :stuck])

        took = System.convert_time_unit(measured.duration, :native, :millisecond)
        assert took >= 600
        assert {:warning, _text, _} = LogRelay.assert_logged("data_received has not returned")
        refute_received {[:reactor, :connection, :stop], _, _}
        :ok = :gen_tcp.close(waited_for)
        assert read_all(victim) == ""
        assert_receive {[:reactor, :connection, :stop], _, %{id: ^id, reason: :callback_timeout}}
        assert ask(dial(server), "new") == "new"
        refute_received {[:reactor, :python, :stuck], _, _}
      end

      if isolation == :subinterpreter do
        test "what keeps its GIL is stuck, and does not keep others from being interrupted",
             context do
          [stuck, other] = for _ <- 1..2, do: start(context, callback_timeout: 100)
          attach(stuck)
          [computes, spins] = [dial(stuck), dial(other)]
          :ok = tell(computes, "sum 300000000")
          EventRelay.assert_event([:reactor, :python, :stuck])
          :ok = tell(spins, "spin")
          assert read_all(spins) == ""
          # It computes still.
          refute_received {[:reactor, :connection, :stop], _, _}
          # That takes as long as it takes here.
          assert {:error, :closed} = :gen_tcp.recv(computes, 0, 50_000)
          EventRelay.assert_stopped(:callback_timeout)
          assert ask(dial(stuck), "new") == "new"
        end
      end

      test "what takes less is left alone, and the next call too", context do
        server = start(context, callback_timeout: 2_500)
        client = dial(server)
        # Together they take longer.
        for _ <- 1..5, do: assert(ask(client, "sleep 0.55") == "done")
      end

      test "with :infinity a callback takes as long as it likes", context do
        server = start(context, callback_timeout: :infinity)
        client = dial(server)
        assert ask(client, "sleep 1") == "done"
      end

      @tag :tmp_dir
      test "a context that is killed in a callback does not go on with it", context do
        server = start(context, callback_timeout: :infinity)
        mark = Path.join(context.tmp_dir, "mark")
        victim = dial(server)
        :ok = tell(victim, "mark #{mark}")
        assert eventually(fn -> File.read(mark) == {:ok, "begun"} end)
        :ok = Reactor.stop(server, 0)
        assert read_all(victim) == ""
        assert eventually(fn -> File.read(mark) == {:ok, "interrupted"} end)
      end
    end
  end
end
