defmodule Reactor.Port.DeathsTest do
  # What becomes of callers, of other children and of processes when a child dies.
  use Reactor.PortCase, async: true

  import Reactor.LogRelay, only: [assert_logged: 1]

  @moduletag :tmp_dir

  # Callers that go on until they are told to stop; each answer is right, or an error that says why.
  defp load(port, callers) do
    for _ <- 1..callers, do: Task.async(fn -> call_until_told(port, 0, []) end)
  end

  defp call_until_told(port, n, errors) do
    receive do
      :stop -> {n, errors}
    after
      0 ->
        case Port.call(port, :twice, [n]) do
          {:ok, answer} when answer == 2 * n -> call_until_told(port, n + 1, errors)
          {:error, reason} -> call_until_told(port, n + 1, [reason | errors])
        end
    end
  end

  defp stop_load(tasks) do
    for task <- tasks, do: send(task.pid, :stop)
    Task.await_many(tasks, 20_000)
  end

  defp now, do: System.monotonic_time(:millisecond)

  # Within two seconds there are two children that answer.
  defp whole_again(port, since) do
    assert eventually(fn -> Enum.all?(Port.info(port).children, &(&1.status == :up)) end)
    assert Port.call(port, :twice, [1]) == {:ok, 2}
    assert now() - since < 2_000
  end

  for {what, call, status} <- [
        {"kill -9", :kill, 137},
        {"a segfault", :segfault, 139},
        {"an exit", {:exit, [3]}, 3}
      ] do
    test "#{what} under load: its callers get errors, the other child and the VM go on" do
      port = open(size: 2, backoff: {20, 100})
      before = os_pids(port)
      tasks = load(port, 20)

      {function, args} =
        case unquote(Macro.escape(call)) do
          {function, args} -> {function, args}
          function -> {function, []}
        end

      # :closed, if a write to it has failed before its status came.
      expected = [{:exit, unquote(status)}, :closed]
      assert {:error, reason} = Port.call(port, function, args)
      assert reason in expected

      whole_again(port, now())

      for {count, errors} <- stop_load(tasks) do
        assert count > 0
        assert Enum.uniq(errors) -- expected == []
      end

      assert [dead] = before -- os_pids(port)
      # A write may have failed before it was.
      assert eventually(fn -> gone?(dead) end)
      assert Enum.sum(Enum.map(Port.info(port).children, & &1.restarts)) == 1
    end
  end

  test "a child that is killed from outside is replaced, as often as it takes" do
    port = open(backoff: {1, 10})

    for n <- 1..5 do
      [os_pid] = os_pids(port)
      kill(os_pid)

      assert eventually(fn ->
               match?([%{restarts: ^n, status: :up}], Port.info(port).children)
             end)

      assert gone?(os_pid)
      assert {:ok, 2} = Port.call(port, :twice, [1])
    end
  end

  test "a child that has no memory left loses that call, or itself, and nothing else" do
    port = open(size: 2, rlimit: [as: 1_000_000_000], backoff: {20, 100})
    tasks = load(port, 20)

    # As a handler's exception, unless what Python needs to raise it cannot be had either.
    case Port.call(port, :eat) do
      {:error, %Reactor.Python.Error{type: "MemoryError"}} -> :ok
      {:error, {:exit, _}} -> :ok
      {:error, :closed} -> :ok
    end

    whole_again(port, now())

    for {_, errors} <- stop_load(tasks),
        do: assert(Enum.all?(errors, &(match?({:exit, _}, &1) or &1 == :closed)))
  end

  test "a child that uses more time than it may is ended by the kernel" do
    port = open(rlimit: [cpu: 1], backoff: {20, 100})
    assert {:error, {:exit, status}} = Port.call(port, :spin, [], timeout: 30_000)
    # SIGKILL, or SIGXCPU.
    assert status in [137, 152]
    assert Port.call(port, :twice, [1]) == {:ok, 2}
  end

  test "a child that hangs with the GIL is killed by hang, and its callers hear so" do
    # Of a machine that stops for less than that the other one is not taken for such a child.
    port = open(size: 2, hang: 1_500, backoff: {20, 100})
    before = os_pids(port)
    tasks = load(port, 20)
    hangs = Task.async(fn -> Port.call(port, :hang, [], timeout: 20_000) end)
    # Who calls meanwhile is answered, by the other child, or hears that this one hangs.
    for _ <- 1..20,
        do: assert(Port.call(port, :twice, [1], timeout: 20_000) in [{:ok, 2}, {:error, :hang}])

    assert Task.await(hangs, 20_000) == {:error, :hang}
    whole_again(port, now())

    for {count, errors} <- stop_load(tasks) do
      assert count > 0
      assert Enum.uniq(errors) -- [:hang] == []
    end

    assert [dead] = before -- os_pids(port)
    assert eventually(fn -> gone?(dead) end)
  end

  test "a call that hangs without it ends for its caller alone" do
    port = open(size: 2)
    assert Port.call(port, :hang, [], timeout: 50) == {:error, :timeout}
    # The other child has less to do.
    for n <- 1..20, do: assert(Port.call(port, :twice, [n], timeout: 20_000) == {:ok, 2 * n})
  end

  describe "while a child is down" do
    # Down for longer than the test takes.
    defp down(options) do
      port = open([backoff: {600_000, 600_000}] ++ options)
      end_child(port)
      port
    end

    defp end_child(port) do
      [os_pid] = os_pids(port)
      kill(os_pid)
      assert eventually(fn -> match?([%{status: :down}], Port.info(port).children) end)
    end

    # Its pause is over.
    defp restart(port) do
      [{child, _known}] = Reactor.Port.Pool.all(port)
      send(child, :restart)
    end

    defp outstanding(port), do: hd(Port.info(port).children).outstanding

    test "what was not sent yet goes to the next one", %{tmp_dir: directory} do
      port = down([])
      assert Port.cast(port, :touch, [Path.join(directory, "touched")]) == :ok
      call = Task.async(fn -> Port.call(port, :twice, [1], timeout: 20_000) end)
      assert eventually(fn -> outstanding(port) == 2 end)
      restart(port)
      assert Task.await(call, 20_000) == {:ok, 2}
      assert File.exists?(Path.join(directory, "touched"))
      # While it was away, a call was given up: it is not run.
      end_child(port)
      path = Path.join(directory, "given_up")
      assert Port.call(port, :touch, [path], timeout: 0) == {:error, :timeout}
      restart(port)
      assert Port.call(port, :twice, [1], timeout: 20_000) == {:ok, 2}
      refute File.exists?(path)
    end

    @tag :capture_log
    test "a call whose time is over has no place any more" do
      port = down(max_waiting: 2)
      for _ <- 1..2, do: Task.async(fn -> Port.call(port, :twice, [1], timeout: :infinity) end)
      assert eventually(fn -> outstanding(port) == 2 end)
      assert Port.call(port, :twice, [1]) == {:error, :overloaded}
      assert Port.stop(port) == :ok

      port = down(max_waiting: 2)

      calls =
        for n <- [20, 30], do: Task.async(fn -> Port.call(port, :twice, [1], timeout: n) end)

      assert Task.await_many(calls) == [{:error, :timeout}, {:error, :timeout}]
      assert eventually(fn -> outstanding(port) == 0 end)
      assert Port.call(port, :twice, [1], timeout: 20) == {:error, :timeout}
    end

    @tag :capture_log
    test "a call whose caller died has no place any more" do
      port = down(max_waiting: 3)
      call = fn -> Port.call(port, :twice, [1], timeout: :infinity) end
      callers = for _ <- 1..3, do: spawn(call)
      assert eventually(fn -> outstanding(port) == 3 end)
      [one | others] = callers
      Process.exit(one, :kill)
      assert eventually(fn -> outstanding(port) == 2 end)
      for caller <- others, do: Process.exit(caller, :kill)
      assert eventually(fn -> outstanding(port) == 0 end)
    end

    @tag :capture_log
    test "a cast that was taken stays, whatever becomes of its caller", %{tmp_dir: directory} do
      path = Path.join(directory, "touched")
      port = down(max_waiting: 2)
      caller = Task.async(fn -> Port.cast(port, :touch, [path], timeout: 200) end)
      assert Task.await(caller) == :ok
      assert Port.call(port, :twice, [1], timeout: 400) == {:error, :timeout}
      assert eventually(fn -> outstanding(port) == 1 end)
      restart(port)
      assert eventually(fn -> File.exists?(path) end)
    end
  end

  test "one that cannot start again is tried with pauses that grow, and its callers hear why",
       %{tmp_dir: directory} do
    Reactor.LogRelay.attach()
    broken = Path.join(directory, "broken")

    script =
      write_script(directory, """
      import os, sys
      from erlang.port import Protocol

      try:
          # Not made anew, if it is removed just now.
          file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
      except FileNotFoundError:
          pass
      else:
          os.write(file, b"x")
          sys.exit(9)

      class Script(Protocol):
          def handler_break(self):
              open(sys.argv[1], "w").close()
              os._exit(1)

      Script().run()
      """)

    port = open(script: script, args: [broken], backoff: {10, 200})
    assert Port.call(port, :break) == {:error, {:exit, 1}}
    assert_logged("script.py, child 1 cannot be started ({:exit, 9})")
    assert Port.call(port, :break) == {:error, {:exit, 9}}
    assert Port.cast(port, :break) == {:error, {:exit, 9}}
    assert eventually(fn -> byte_size(File.read!(broken)) >= 4 end)
    File.rm!(broken)
    assert eventually(fn -> match?([%{status: :up}], Port.info(port).children) end)
  end

  test "one that sends rubbish is killed" do
    port = open(backoff: {20, 100})
    assert Port.call(port, :write_rubbish) == {:error, :bad_frame}
    assert Port.call(port, :twice, [1]) == {:ok, 2}
  end

  test "a program that is no such script is ended when it says something else" do
    Process.flag(:trap_exit, true)
    assert Port.start_link(command: "echo", args: ["Hello"]) == {:error, :bad_frame}
  end

  test "a fork of a script does not keep its port open" do
    port = open(backoff: {20, 100})
    {:ok, fork} = Port.call(port, :fork)
    assert Port.call(port, :kill) == {:error, {:exit, 137}}
    refute gone?(fork)
    assert Port.call(port, :twice, [1]) == {:ok, 2}
    kill(fork)
  end

  test "one that closes its input is ended, and replaced", %{tmp_dir: directory} do
    script =
      write_script(directory, """
      import os, time
      os.close(0)
      time.sleep(1000)
      """)

    port = open(command: "python3", args: [script], protocol: :plain, shutdown: 20)
    [os_pid] = os_pids(port)
    assert eventually(fn -> Port.call(port, :any, [], timeout: 20) == {:error, :closed} end)
    assert eventually(fn -> gone?(os_pid) end)
    assert eventually(fn -> hd(Port.info(port).children).restarts > 0 end)
  end

  describe "no orphan" do
    test "is left when the process of a child is killed, also of one that is busy" do
      port = open(shutdown: 50, size: 3)
      before = os_pids(port)
      for handler <- [:spin, :hang], do: keep_busy(port, handler)
      # By the one that is left.
      assert Port.call(port, :stubborn) == {:ok, nil}
      for {child, _} <- Reactor.Port.Pool.all(port), do: Process.exit(child, :kill)
      for os_pid <- before, do: assert(eventually(fn -> gone?(os_pid) end))
      assert Port.call(port, :twice, [1]) == {:ok, 2}
    end

    test "is left when the whole port is killed" do
      {:ok, port} = Port.start(script: script(), size: 2, shutdown: 50)
      before = os_pids(port)
      keep_busy(port, :hang)
      Process.exit(port, :kill)
      for os_pid <- before, do: assert(eventually(fn -> gone?(os_pid) end))
    end

    test "is left when the VM is killed with -9, whatever they are doing" do
      ebin = Path.join(:code.lib_dir(:reactor), "ebin")
      program = Path.expand("../../support/port_orphan.exs", __DIR__)

      vm =
        Elixir.Port.open({:spawn_executable, System.find_executable("elixir")}, [
          :binary,
          :exit_status,
          line: 1_000,
          args: ["-pa", ebin, program, script()]
        ])

      ["PIDS", beam | children] = vm |> await_pids() |> String.split()
      assert length(children) == 3
      for os_pid <- children, do: refute(ended?(os_pid))
      kill(beam)
      for os_pid <- children, do: assert(eventually(fn -> ended?(os_pid) end))
    end
  end

  # Has a child that is not yet be busy for ever.
  defp keep_busy(port, handler) do
    busy = fn -> Enum.count(Port.info(port).children, &(&1.outstanding > 0)) end
    before = busy.()
    spawn(fn -> Port.call(port, handler, [], timeout: :infinity) end)
    assert eventually(fn -> busy.() == before + 1 end)
  end

  # Those of another VM are reaped by whoever adopts them, which a test cannot wait for: a zombie has ended.
  defp ended?(os_pid) do
    case File.read("/proc/#{os_pid}/stat") do
      {:ok, stat} -> stat |> String.split(") ") |> List.last() |> String.starts_with?("Z")
      {:error, _} -> true
    end
  end

  defp await_pids(vm) do
    receive do
      {^vm, {:data, {:eol, "PIDS" <> _ = line}}} -> line
      {^vm, {:data, _other}} -> await_pids(vm)
      {^vm, {:exit_status, status}} -> flunk("the VM ended with #{status}")
    after
      30_000 -> flunk("the VM said nothing")
    end
  end
end
