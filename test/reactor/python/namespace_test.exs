defmodule Reactor.Python.NamespaceTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{Isolations, Python}

  defp start(context, options \\ []) do
    {:ok, python} = Python.start_context([isolation: context.isolation] ++ options)
    {:ok, keeper} = Python.Context.keeper(python)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    python
  end

  # In a process of its own, which has ended when this returns.
  defp elsewhere(run) do
    task = Task.async(run)
    monitor = Process.monitor(task.pid)
    result = Task.await(task)
    assert_receive {:DOWN, ^monitor, _, _, _}
    result
  end

  # How many modules the context has in its interpreter.
  defp modules(python) do
    {:ok, name} = Python.eval(python, "__name__", %{}, namespace: :shared)

    code = "len([n for n in __import__('sys').modules if n == name or n.startswith(name + '_')])"

    {:ok, modules} = Python.eval(python, code, %{name: name}, namespace: :shared)
    modules
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: names" do
      @describetag isolation: isolation

      test "are those of the process that sets them", context do
        python = start(context)
        assert Python.exec(python, "x = 1\ndef f(): return x") == :ok

        elsewhere(fn ->
          assert {:error, %Python.Error{type: "NameError"}} = Python.eval(python, "x")
          assert Python.exec(python, "x = 2") == :ok
          assert Python.eval(python, "x") == {:ok, 2}

          assert {:error, %Python.Error{type: "AttributeError"}} =
                   Python.call(python, :__main__, :f)
        end)

        assert Python.eval(python, "x") == {:ok, 1}
        assert Python.call(python, :__main__, :f) == {:ok, 1}
      end

      test "begin as those that the context's setup has set", context do
        python = start(context, setup: "from math import sqrt\nx = 1\ndef f(): return x")
        assert Python.eval(python, "sqrt(16) + x") == {:ok, 5.0}
        assert Python.exec(python, "x = 2") == :ok
        assert Python.eval(python, "x") == {:ok, 2}
        # A function's names are those of where it was defined.
        assert Python.call(python, :__main__, :f) == {:ok, 1}
        assert elsewhere(fn -> Python.eval(python, "x") end) == {:ok, 1}
      end

      test "are everybody's who asks for that", context do
        python = start(context)
        shared = [namespace: :shared]
        assert Python.exec(python, "x = 1\ndef f(): return x", shared) == :ok
        assert elsewhere(fn -> Python.eval(python, "x", %{}, shared) end) == {:ok, 1}
        assert elsewhere(fn -> Python.call(python, :__main__, :f, [], shared) end) == {:ok, 1}
        # Who has none yet begins with them.
        assert elsewhere(fn -> Python.eval(python, "x") end) == {:ok, 1}
      end

      test "end with their process", context do
        python = start(context)
        assert modules(python) == 1

        elsewhere(fn ->
          assert Python.exec(python, "x = 1") == :ok
          assert modules(python) == 2
        end)

        assert eventually(fn -> modules(python) == 1 end)

        1..50
        |> Enum.map(fn n -> Task.async(fn -> Python.exec(python, "x = #{n}") end) end)
        |> Task.await_many()

        assert eventually(fn -> modules(python) == 1 end)
      end

      test "end after the calls that their process has made", context do
        python = start(context)
        # It dies with a call that has not begun.
        {:ok, listening} = :gen_tcp.listen(0, active: false, ip: {127, 0, 0, 1})
        {:ok, port} = :inet.port(listening)
        waits = "import socket; socket.create_connection(('127.0.0.1', #{port})).recv(1)"
        block = Task.async(fn -> Python.exec(python, waits, timeout: :infinity) end)
        {:ok, gate} = :gen_tcp.accept(listening, 20_000)
        pid = spawn(fn -> Python.exec(python, "x = 1") end)
        assert eventually(fn -> match?({:ok, %{calls_waiting: 2}}, Python.info(python)) end)
        Process.exit(pid, :kill)
        :gen_tcp.close(gate)
        assert Task.await(block) == :ok
        assert eventually(fn -> modules(python) == 1 end)
      end

      test "are in a module that dataclasses and pickle find", context do
        python = start(context)

        code = """
        import dataclasses, pickle
        @dataclasses.dataclass
        class Point:
            x: "int"
        again = pickle.loads(pickle.dumps(Point(3)))
        """

        for x <- ["again.x", "again.x + 1"] do
          elsewhere(fn ->
            assert Python.exec(python, code) == :ok
            assert {:ok, _} = Python.eval(python, x)
          end)
        end
      end

      test "are others in another context", context do
        [one, other] = [start(context), start(context)]
        assert Python.exec(one, "x = 1") == :ok
        assert {:error, %Python.Error{type: "NameError"}} = Python.eval(other, "x")
      end

      test "do not matter to the context's factory", context do
        python = start(context)

        elsewhere(fn ->
          assert Python.exec(python, """
                 import erlang.reactor as reactor
                 class Mine(reactor.Protocol):
                     def connection_made(self, fd, client_info):
                         self.write_buffer.extend(b"mine")
                         return "write_pending"
                 reactor.set_protocol_factory(Mine)
                 """) == :ok
        end)

        assert eventually(fn -> modules(python) == 1 end)
        {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(listener)
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        {:ok, accepted} = :gen_tcp.accept(listener)
        assert Python.handoff(python, accepted) == :ok
        assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "mine"}
        :gen_tcp.close(listener)
      end

      test "are those of whom Python runs for, in a function that it calls", context do
        python = start(context)
        name = "names_#{System.unique_integer([:positive])}"

        :ok = Python.register_function(name, fn -> elem(Python.eval(python, "x"), 1) end)

        on_exit(fn -> Python.unregister_function(name) end)
        ask = "import erlang; answer = erlang.call('#{name}')"

        for x <- [1, 2] do
          elsewhere(fn ->
            assert Python.exec(python, "x = #{x}\n#{ask}") == :ok
            assert Python.eval(python, "answer") == {:ok, x}
          end)
        end

        # The one that answers has none, and so nothing is left of it.
        assert eventually(fn -> modules(python) == 1 end)
      end

      test "are new ones after the context was started again", context do
        name = :"names_#{System.unique_integer([:positive])}"
        start(context, name: name)
        assert Python.exec(name, "x = 1") == :ok
        pid = GenServer.whereis(name)
        Process.exit(pid, :kill)
        assert eventually(fn -> match?({:ok, 1}, Python.eval(name, "1")) end)
        assert {:error, %Python.Error{type: "NameError"}} = Python.eval(name, "x")
      end
    end
  end

  test "another namespace is refused" do
    for namespace <- [:other, nil, "shared"] do
      message = ~r/namespace must be :own or :shared, got: /

      assert_raise ArgumentError, message, fn ->
        Python.eval(:any, "1", %{}, namespace: namespace)
      end

      assert_raise ArgumentError, message, fn -> Python.exec(:any, "1", namespace: namespace) end

      assert_raise ArgumentError, message, fn ->
        Python.call(:any, :math, :sqrt, [1], namespace: namespace)
      end
    end
  end
end
