defmodule Reactor.Python.CallTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{Isolations, Python}

  # Calls that cannot be interrupted are logged.
  @moduletag :capture_log

  defp start(context, options \\ []) do
    {:ok, python} = Python.start_context([isolation: context.isolation] ++ options)
    {:ok, keeper} = Python.Context.keeper(python)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    python
  end

  defp waiting(context) do
    {:ok, %{calls_waiting: waiting}} = Python.info(context)
    waiting
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}: a call whose time is over" do
      @describetag isolation: isolation

      test "is interrupted, and the context is as good as before", context do
        python = start(context)
        :ok = Python.exec(python, "n = 0\ndef spin():\n    global n\n    while True: n += 1")
        assert Python.call(python, :__main__, :spin, [], timeout: 500) == {:error, :timeout}
        {:ok, n} = Python.eval(python, "n")
        assert n > 0
        assert Python.eval(python, "n") == {:ok, n}
        assert waiting(python) == 0
        refute_received _
      end

      test "can clean up, and hears why", context do
        python = start(context)

        :ok =
          Python.exec(python, """
          heard = []
          def spin():
              while True: pass
          def careful():
              try:
                  spin()
              except Exception:
                  heard.append("Exception")
              except BaseException as error:
                  heard.append(type(error).__name__)
                  heard.append(str(error))
                  raise
          """)

        assert Python.call(python, :__main__, :careful, [], timeout: 500) == {:error, :timeout}
        assert {:ok, ["CallTimeout", text]} = Python.eval(python, "heard")
        assert text =~ "nobody waits for this call"
      end

      test "is interrupted again when it goes on", context do
        python = start(context)

        :ok =
          Python.exec(python, """
          times = 0
          def spin():
              while True: pass
          def stubborn():
              global times
              while times < 3:
                  try:
                      spin()
                  except BaseException:
                      times += 1
          """)

        assert Python.call(python, :__main__, :stubborn, [], timeout: 500) == {:error, :timeout}
        assert Python.eval(python, "times") == {:ok, 3}
      end
    end

    describe "#{isolation}: a caller that dies" do
      @describetag isolation: isolation

      test "has its call interrupted, or not begun", context do
        python = start(context)
        test = self()

        {spins, monitor} =
          spawn_monitor(fn ->
            :ok = Python.exec(python, "began = True\nwhile True: pass", timeout: :infinity)
          end)

        assert eventually(fn -> waiting(python) == 1 end)

        waits = spawn(fn -> Python.exec(python, "ran = True", timeout: :infinity) end)

        assert eventually(fn -> waiting(python) == 2 end)
        Process.exit(waits, :kill)
        assert eventually(fn -> waiting(python) == 1 end)
        spawn(fn -> send(test, Python.eval(python, "1")) end)
        Process.exit(spins, :kill)
        assert_receive {:DOWN, ^monitor, _, _, :killed}
        assert_receive {:ok, 1}, 5_000
        assert Python.eval(python, "'ran' in globals()") == {:ok, false}
      end
    end
  end
end
