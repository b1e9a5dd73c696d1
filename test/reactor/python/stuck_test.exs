defmodule Reactor.Python.StuckTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{Isolations, Python, Server}

  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "patience:make", callback_timeout: 100, stuck_timeout: 200
  end

  @python Path.expand("../../support/python", __DIR__)

  for isolation <- Isolations.all() do
    describe "#{isolation}: a context that does not come back" do
      @describetag isolation: isolation

      test "from a call ends, and another one is there in its place", context do
        name = :"stuck_#{System.unique_integer([:positive])}"

        {:ok, pid} =
          Python.start_context(
            name: name,
            isolation: context.isolation,
            stuck_timeout: 200,
            drain_timeout: 0
          )

        {:ok, keeper} = Python.Context.keeper(pid)
        on_exit(fn -> Python.Contexts.stop(keeper) end)
        monitor = Process.monitor(pid)

        :ok =
          Python.exec(name, """
          import erlang, time
          def sleep(whom):
              erlang.send(whom, "asleep")
              time.sleep(5)
          """)

        assert Python.call(name, :__main__, :sleep, [self()], timeout: 1_000) ==
                 {:error, :timeout}

        assert_received "asleep"
        assert_receive {:DOWN, ^monitor, _, _, {:stuck, "call"}}, 5_000
        assert eventually(fn -> Python.eval(name, "1") == {:ok, 1} end)
      end

      test "from a callback ends, and its listener goes on", context do
        server = serve(context, Py, paths: [@python], isolation: context.isolation)
        contexts = Server.whereis(Server.board(server), :contexts)
        [pid] = Python.Supervisor.contexts(contexts)
        monitor = Process.monitor(pid)
        client = dial(server)
        :ok = :gen_tcp.send(client, "sleep 3")
        assert_receive {:DOWN, ^monitor, _, _, {:stuck, "data_received"}}, 5_000

        assert eventually(fn ->
                 other = dial(server)
                 :ok = :gen_tcp.send(other, "hello")
                 match?({:ok, "hello"}, :gen_tcp.recv(other, 5, 500))
               end)
      end
    end
  end
end
