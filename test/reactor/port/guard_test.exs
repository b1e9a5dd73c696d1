defmodule Reactor.Port.GuardTest do
  # Not async: it changes the PATH of the VM.
  use Reactor.PortCase, async: false

  @moduletag :capture_log
  @moduletag :tmp_dir

  test "needs no program named kill, which small images do not have", %{tmp_dir: directory} do
    # Not what only finds it by the PATH.
    {python, 0} = System.cmd("python3", ["-c", "import sys; print(sys.executable, end='')"])
    path = System.get_env("PATH")
    System.put_env("PATH", directory)
    on_exit(fn -> System.put_env("PATH", path) end)

    port = open(python: python, hang: 1_000, shutdown: 100)
    [first] = os_pids(port)
    assert Port.call(port, :hang, [], timeout: 30_000) == {:error, :hang}
    assert eventually(fn -> gone?(first) end)
    assert eventually(fn -> match?([%{status: :up}], Port.info(port).children) end)
    [second] = os_pids(port)
    assert Port.call(port, :stubborn) == {:ok, nil}
    assert Port.stop(port) == :ok
    assert gone?(second)
  end
end
