defmodule Reactor.Port.OutputTest do
  use Reactor.PortCase, async: true

  import Reactor.LogRelay, only: [assert_logged: 1]

  @moduletag :tmp_dir

  setup do
    Reactor.LogRelay.attach()
  end

  test "what a script prints goes to Logger, line by line, whoever prints it" do
    port = open()
    [os_pid] = os_pids(port)
    text = "printed #{System.unique_integer()}"
    assert Port.call(port, :print, [text <> "\nand more ü"]) == {:ok, nil}

    # Two streams: what is in order is each of them.
    assert_receive {Reactor.LogRelay, :info, ^text, metadata}
    assert %{logger: "stdout", target: "python", port: "port_script.py"} = metadata
    assert metadata.os_pid == os_pid
    upper = String.upcase(text)
    assert_receive {Reactor.LogRelay, :info, "and more ü", %{os_pid: ^os_pid}}

    assert_receive {Reactor.LogRelay, :info, "from a program",
                    %{logger: "stdout", os_pid: ^os_pid}}

    assert_receive {Reactor.LogRelay, :warning, ^upper, %{logger: "stderr", os_pid: ^os_pid}}
    assert_receive {Reactor.LogRelay, :warning, "from C", %{logger: "stderr", os_pid: ^os_pid}}
    # None of it was taken for a frame.
    assert Port.call(port, :twice, [1]) == {:ok, 2}
    assert Port.call(port, :read_stdin) == {:ok, ""}
  end

  test "its last words are heard, though it crashed" do
    port = open()
    [os_pid] = os_pids(port)
    assert {:error, {:exit, 139}} = Port.call(port, :segfault)
    assert_receive {Reactor.LogRelay, :warning, "its last words", %{os_pid: ^os_pid}}

    assert {:warning, _, _} =
             assert_logged("Port port_script.py, child 1 has ended ({:exit, 139})")
  end

  test "so is why it did not start", %{tmp_dir: directory} do
    script = write_script(directory, "import no_such_module")
    assert Port.start(script: script) == {:error, {:exit, 1}}
    # Who reads what it says is another process than its own here: in no order.
    text = "Port script.py, child 1 cannot be started ({:exit, 1})"
    assert_receive {Reactor.LogRelay, :error, ^text, _}
    assert_logged("No module named 'no_such_module'")
  end

  test "a line without an end becomes several, and what is no UTF-8 is shown", %{
    tmp_dir: directory
  } do
    script =
      write_script(directory, """
      import os
      from erlang.port import Protocol

      os.write(1, b"x" * 40_000)
      os.write(1, b"\\n\\xff\\n")
      Protocol().run()
      """)

    open(script: script)
    assert {:info, text, _} = assert_logged(~r/^x+$/)
    assert String.length(text) <= 16 * 1_024
    assert_logged("ÿ")
  end

  test "no socket is left in the directory for temporary files" do
    {:ok, tasks} = Task.Supervisor.start_link()
    {:ok, path, reader} = Reactor.Port.Output.start(tasks, 5_000, [])
    assert File.stat!(Path.dirname(path)).mode |> Bitwise.band(0o777) == 0o700
    {:ok, _stdout} = :gen_tcp.connect({:local, path}, 0, [:local])
    {:ok, _stderr} = :gen_tcp.connect({:local, path}, 0, [:local])
    assert File.exists?(path)
    Reactor.Port.Output.started(reader, 1)
    assert eventually(fn -> not File.exists?(Path.dirname(path)) end)

    # Nor of a child that never connects.
    {:ok, path, reader} = Reactor.Port.Output.start(tasks, 20, [])
    Reactor.Port.Output.started(reader, 1)
    assert eventually(fn -> not File.exists?(Path.dirname(path)) end)
  end
end
