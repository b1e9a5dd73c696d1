defmodule Reactor.Python.StuckTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{Isolations, Python, Server}

  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "patience:make", callback_timeout: 100, stuck_timeout: 200
  end

  @python Path.expand("../../support/python", __DIR__)

  # What is waited for, in a system call, by whoever connects to it.
  defp gate do
    {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listening)
    {listening, port}
  end

  defp reached(listening) do
    {:ok, waits} = :gen_tcp.accept(listening, 20_000)
    waits
  end

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
        {listening, port} = gate()

        :ok =
          Python.exec(name, """
          import socket
          def wait(port):
              socket.create_connection(("127.0.0.1", port)).recv(1)
          """)

        {:ok, call} = Python.call_async(name, :__main__, :wait, [port])
        waits = reached(listening)
        assert Python.await(call, 50) == {:error, :timeout}
        assert_receive {:DOWN, ^monitor, _, _, {:stuck, "call"}}
        assert eventually(fn -> Python.eval(name, "1") == {:ok, 1} end)
        :gen_tcp.close(waits)
      end

      test "from a callback ends, and its listener goes on", context do
        server = serve(context, Py, paths: [@python], isolation: context.isolation)
        contexts = Server.whereis(Server.board(server), :contexts)
        [pid] = Python.Supervisor.contexts(contexts)
        monitor = Process.monitor(pid)
        {listening, port} = gate()
        client = dial(server)
        :ok = put(client, "wait #{port}")
        waits = reached(listening)
        assert_receive {:DOWN, ^monitor, _, _, {:stuck, "data_received"}}

        # Its callbacks have little time, too, on a machine that stops for a while.
        assert eventually(fn ->
                 other = dial(server)
                 put(other, "hello") == :ok and take(other, 5) == {:ok, "hello"}
               end)

        :gen_tcp.close(waits)
      end
    end
  end
end
