defmodule Reactor.Python.CallTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{Isolations, Native, Python}
  alias Reactor.Python.{Call, Context, Directory}

  # Calls that cannot be interrupted are logged.
  @moduletag :capture_log

  setup context do
    if isolation = context[:isolation] do
      {:ok, python} = Python.start_context(isolation: isolation)
      {:ok, keeper} = Context.keeper(python)
      on_exit(fn -> Python.Contexts.stop(keeper) end)
      {:ok, python: python}
    else
      :ok
    end
  end

  defp waiting(context) do
    {:ok, %{calls_waiting: waiting}} = Python.info(context)
    waiting
  end

  # A loop in a function of its own: in one line with its `try` Python 3.11 does not see what interrupts it.
  @spin """
  def spin():
      while True: pass
  """

  # Gives up a call of a function, which says to whom it is given that it has begun.
  defp give_up(python, function) do
    {:ok, call} = Python.call_async(python, :__main__, function, [self()])
    assert_receive "begun"
    assert Python.await(call, 50) == {:error, :timeout}
  end

  # A socket that nothing comes from, and what ends the wait for it.
  defp silent_socket do
    {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listening)
    {listening, port}
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: a call whose time is over" do
      @describetag isolation: isolation

      test "is interrupted, and the context is as good as before", %{python: python} do
        :ok = Python.exec(python, "n = 0\ndef count():\n    global n\n    while True: n += 1")
        assert Python.call(python, :__main__, :count, [], timeout: 1_000) == {:error, :timeout}
        {:ok, n} = Python.eval(python, "n")
        assert n > 0
        assert Python.eval(python, "n") == {:ok, n}
        assert waiting(python) == 0
        refute_received _
      end

      test "can clean up, and hears why", %{python: python} do
        :ok =
          Python.exec(
            python,
            @spin <>
              """
              import erlang
              heard = []
              def careful(whom):
                  try:
                      erlang.send(whom, "begun")
                      spin()
                  except Exception:
                      heard.append("Exception")
                  except BaseException as error:
                      heard.append(type(error).__name__)
                      heard.append(str(error))
                      raise
              """
          )

        give_up(python, :careful)
        assert {:ok, ["CallTimeout", text]} = Python.eval(python, "heard")
        assert text =~ "nobody waits for this call"
      end

      test "is interrupted again when it goes on", %{python: python} do
        :ok =
          Python.exec(
            python,
            @spin <>
              """
              import erlang
              times = 0
              def stubborn(whom):
                  global times
                  while times < 3:
                      try:
                          if times == 0:
                              erlang.send(whom, "begun")
                          spin()
                      except BaseException:
                          times += 1
              """
          )

        give_up(python, :stubborn)
        assert Python.eval(python, "times") == {:ok, 3}
      end

      @tag :tmp_dir
      test "does not break a package that it was importing", %{python: python, tmp_dir: directory} do
        package = "imported_#{System.unique_integer([:positive])}"
        File.mkdir!(Path.join(directory, package))
        File.write!(Path.join([directory, package, "part.py"]), "value = 7\n")

        File.write!(Path.join([directory, package, "__init__.py"]), """
        from .part import *
        import time
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        def answer():
            return part.value
        """)

        :ok = Python.exec(python, "import sys; sys.path.append(#{inspect(directory)})")
        ask = &Python.call(python, package, "answer", [], timeout: &1)
        assert ask.(200) == {:error, :timeout}
        assert ask.(10_000) == {:ok, 7}
      end

      test "is answered in time, whatever Python waits for, and keeps its context until that comes",
           %{python: python} do
        {listening, port} = silent_socket()

        :ok =
          Python.exec(python, """
          import socket
          def wait(port):
              with socket.create_connection(("127.0.0.1", port)) as waits:
                  return waits.recv(1)
          """)

        {:ok, call} = Python.call_async(python, :__main__, :wait, [port])
        {:ok, accepted} = :gen_tcp.accept(listening, 20_000)
        started = System.monotonic_time(:millisecond)
        assert Python.await(call, 300) == {:error, :timeout}
        assert System.monotonic_time(:millisecond) - started < 2_000
        # It waits still.
        assert Python.eval(python, "1", %{}, timeout: 100) == {:error, :timeout}
        :ok = :gen_tcp.send(accepted, "x")
        assert Python.eval(python, "2") == {:ok, 2}
        refute_received _
      end

      test "while Python sleeps, likewise", %{python: python} do
        started = System.monotonic_time(:millisecond)
        assert Python.call(python, :time, :sleep, [3], timeout: 200) == {:error, :timeout}
        assert System.monotonic_time(:millisecond) - started < 2_000
        assert Python.eval(python, "1", %{}, timeout: 10_000) == {:ok, 1}
      end

      test "is answered once, or not at all, at the last moment too", %{python: python} do
        :ok = Python.exec(python, "import time")

        outcomes =
          for n <- 1..300 do
            Python.eval(python, "time.sleep(0.001) or n", %{n: n}, timeout: 1)
          end

        for {outcome, n} <- Enum.with_index(outcomes, 1) do
          assert outcome in [{:ok, n}, {:error, :timeout}]
        end

        assert Python.eval(python, "'last'") == {:ok, "last"}
        refute_received _
      end
    end

    describe "#{isolation}: a caller that dies" do
      @describetag isolation: isolation

      test "has its call interrupted, or not begun", %{python: python} do
        test = self()
        forever = [timeout: :infinity]
        :ok = Python.exec(python, @spin, namespace: :shared)
        spins = spawn(fn -> Python.call(python, :__main__, :spin, [], forever) end)
        assert eventually(fn -> waiting(python) == 1 end)
        shared = [namespace: :shared] ++ forever
        waits = spawn(fn -> Python.exec(python, "ran = True", shared) end)
        assert eventually(fn -> waiting(python) == 2 end)
        Process.exit(waits, :kill)
        assert eventually(fn -> waiting(python) == 1 end)
        spawn(fn -> send(test, Python.eval(python, "1", %{}, forever)) end)
        Process.exit(spins, :kill)
        assert_receive {:ok, 1}, 5_000
        ran = "'ran' in globals()"
        assert Python.eval(python, ran, %{}, namespace: :shared) == {:ok, false}
      end
    end

    describe "#{isolation}: many callers" do
      @describetag isolation: isolation

      test "get their own answers, a thousand at once", %{python: python} do
        code = "def own(caller, n): return [caller, n]"
        :ok = Python.exec(python, code, namespace: :shared)

        callers =
          for caller <- 1..1_000 do
            Task.async(fn ->
              for n <- 1..10 do
                asked = [caller, n]
                {:ok, ^asked} = Python.call(python, :__main__, :own, asked, timeout: 60_000)
              end
            end)
          end

        assert length(Task.await_many(callers, 60_000)) == 1_000
        assert waiting(python) == 0
      end
    end

    describe "#{isolation}: a call that is not waited for" do
      @describetag isolation: isolation

      test "has an answer for its owner, once", %{python: python} do
        {:ok, one} = Python.call_async(python, :math, :sqrt, [16])
        {:ok, two} = Python.eval_async(python, "x + 1", %{x: 1})
        {:ok, three} = Python.exec_async(python, "y = 5")
        assert Python.await(three) == :ok
        assert Python.await(two) == {:ok, 2}
        assert Python.await(one) == {:ok, 4.0}
        assert_raise ArgumentError, ~r/awaited before/, fn -> Python.await(one) end
        assert Python.eval(python, "y") == {:ok, 5}

        {:ok, fails} = Python.eval_async(python, "1 / 0")
        assert {:error, %Python.Error{type: "ZeroDivisionError"}} = Python.await(fails)
        refute_received _
      end

      test "sends nothing to an owner that does not ask", %{python: python} do
        {:ok, _call} = Python.exec_async(python, "z = 1")
        assert Python.eval(python, "z") == {:ok, 1}
        assert waiting(python) == 0
        refute_received _
      end

      test "is its owner's alone", %{python: python} do
        {:ok, call} = Python.eval_async(python, "1")
        assert inspect(call) =~ inspect(self())

        other = Task.async(fn -> catch_error(Python.await(call)) end)
        assert %ArgumentError{message: message} = Task.await(other)
        assert message =~ inspect(self())
        assert Python.await(call) == {:ok, 1}
      end

      test "is given up when its time is over, or when it is cancelled", %{python: python} do
        :ok = Python.exec(python, @spin)
        {:ok, call} = Python.call_async(python, :__main__, :spin)
        assert Python.await(call, 300) == {:error, :timeout}
        assert Python.eval(python, "1") == {:ok, 1}

        {:ok, call} = Python.call_async(python, :__main__, :spin)
        assert eventually(fn -> waiting(python) == 1 end)
        assert Python.cancel(call) == :ok
        assert Python.await(call) == {:error, :cancelled}
        assert Python.eval(python, "2") == {:ok, 2}
        # Too late.
        {:ok, call} = Python.eval_async(python, "3")
        assert eventually(fn -> waiting(python) == 0 end)
        assert Python.cancel(call) == :ok
        assert Python.await(call) == {:ok, 3}
        refute_received _
      end

      test "goes on when its owner forgets it, and ends with its owner", %{python: python} do
        test = self()
        :ok = Python.exec(python, @spin, namespace: :shared)

        owner =
          spawn(fn ->
            {:ok, _} = Python.call_async(python, :__main__, :spin)
            send(test, :started)
            receive do: (:collect -> :erlang.garbage_collect())
            send(test, :collected)
            receive do: (:end -> :ok)
          end)

        assert_receive :started
        send(owner, :collect)
        assert_receive :collected
        # It has the context still.
        assert Python.eval(python, "1", %{}, timeout: 200) == {:error, :timeout}
        send(owner, :end)
        assert Python.eval(python, "1") == {:ok, 1}
      end

      test "is as good as before when it is awaited for no time at all that there is", %{
        python: python
      } do
        {:ok, call} = Python.call_async(python, :math, :sqrt, [16])
        assert_raise ArgumentError, ~r/^timeout must be/, fn -> Python.await(call, -1) end
        assert Python.await(call) == {:ok, 4.0}
      end

      test "may be made on behalf of processes of other nodes", %{python: python} do
        # As in a task that another node has started here.
        elsewhere = :erlang.binary_to_term(<<131, 88, 119, 3, "a@b", 1::32, 0::32, 1::32>>)
        Process.put(:"$callers", [elsewhere, self()])
        assert Python.call(python, :math, :sqrt, [16]) == {:ok, 4.0}
        assert {:ok, call} = Python.eval_async(python, "1")
        assert Python.await(call) == {:ok, 1}
        assert python |> Python.stream_eval("range(2)") |> Enum.to_list() == [0, 1]
      end

      test "is closed with its context", %{python: python} do
        {listening, port} = silent_socket()
        code = "import socket; socket.create_connection(('127.0.0.1', #{port})).recv(1)"
        {:ok, runs} = Python.exec_async(python, code)
        {:ok, accepted} = :gen_tcp.accept(listening, 5_000)
        {:ok, waits} = Python.eval_async(python, "1")
        Process.exit(python, :kill)
        assert Python.await(runs) == {:error, :closed}
        assert Python.await(waits) == {:error, :closed}
        assert eventually(fn -> Python.eval_async(python, "1") == {:error, :noproc} end)
        :gen_tcp.close(accepted)
      end
    end
  end

  describe "the native side" do
    @describetag isolation: :shared

    test "says which call is whose", %{python: python} do
      {:ok, native} = Directory.native(python)

      {:ok, call} =
        Native.call_start(native, nil, :evaluate, ["1", %{}, nil], [], %Python.Conversion{})

      reference = make_ref()
      assert Task.await(Task.async(fn -> Native.call_await(call, reference) end)) == :not_owner

      assert {:ok, 1} =
               Call.await(%Call{owner: self(), native: call, operation: :evaluate}, 5_000)

      assert Native.call_await(call, reference) == :taken
      refute Native.call_abandon(call)
    end
  end

  describe "wrong options" do
    test "are named" do
      for {fun, text} <- [
            {fn -> Python.exec(self(), "", callers: :me) end, "callers must be a list of pids"},
            {fn -> Python.eval_async(self(), "1", %{}, timeout: 5) end, "timeout"},
            {fn -> Python.call_async(self(), :m, :f, [], kwargs: []) end, "kwargs must be a map"}
          ] do
        assert_raise ArgumentError, ~r/#{text}/, fun
      end
    end
  end
end
