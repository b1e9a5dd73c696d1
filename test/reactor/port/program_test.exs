defmodule Reactor.Port.ProgramTest do
  # What a script, or a program, is started with, and that cannot be.
  use Reactor.PortCase, async: true

  @moduletag :tmp_dir

  test "a script gets its arguments, environment, directory and limits", %{tmp_dir: directory} do
    port =
      open(
        args: ["0", "two words", "ü"],
        env: %{"GIVEN" => "yes, ü", "HOME" => false},
        cd: directory,
        rlimit: [as: 4_000_000_000, cpu: 1_000]
      )

    assert Port.call(port, :arguments) == {:ok, ["0", "two words", "ü"]}
    assert Port.call(port, :environment, ["GIVEN"]) == {:ok, "yes, ü"}
    assert Port.call(port, :environment, ["HOME"]) == {:ok, nil}
    assert Port.call(port, :environment, ["REACTOR_PORT"]) == {:ok, nil}
    assert Port.call(port, :directory) == {:ok, Path.expand(directory)}
    assert Port.call(port, :limit, ["RLIMIT_AS"]) == {:ok, 4_000_000_000}
    assert Port.call(port, :limit, ["RLIMIT_CPU"]) == {:ok, 1_000}
  end

  # python -P, from 3.11 on; before it means nothing.
  test "a script is started where Python puts no directory of its own first" do
    port = open(env: %{"PYTHONSAFEPATH" => "1"})
    assert Port.call(port, :twice, [21]) == {:ok, 42}
  end

  test "a script has a Python that may be named by a path from here", %{tmp_dir: directory} do
    link = Path.join(directory, "python")
    File.ln_s!(System.find_executable("python3"), link)
    options = [python: Path.relative_to_cwd(link), cd: directory]
    assert Port.call(open(options), :twice, [1]) == {:ok, 2}

    program = Path.join(directory, "program")
    File.write!(program, "#!/bin/sh\nexec cat")
    File.chmod!(program, 0o755)
    options = [command: Path.relative_to_cwd(program), cd: directory, protocol: :plain]
    assert Port.call(open(options), :twice, [1]) == {:ok, {:twice, 1}}
  end

  test "a script that is slow to start holds up its caller alone", %{tmp_dir: directory} do
    path = Path.join(directory, "go")

    script =
      write_script(directory, """
      import os, time
      from erlang.port import Protocol

      open(#{inspect(path <> ".begun")}, "w").close()
      while not os.path.exists(#{inspect(path)}):
          time.sleep(0.01)
      Protocol().run()
      """)

    starts = Task.async(fn -> Port.start(script: script) end)
    assert eventually(fn -> File.exists?(path <> ".begun") end)
    quick = Task.async(fn -> Port.start(script: script()) end)
    assert {:ok, port} = Task.await(quick, 20_000)
    assert Task.yield(starts, 0) == nil
    File.touch!(path)
    assert {:ok, slow} = Task.await(starts, 20_000)
    for port <- [port, slow], do: assert(Port.stop(port) == :ok)
  end

  test "a script that cannot be started is an error that says why", %{tmp_dir: directory} do
    Process.flag(:trap_exit, true)
    missing = Path.join(directory, "missing.py")
    assert Port.start_link(script: missing) == {:error, {:enoent, missing}}
    assert Port.start_link(script: script(), cd: missing) == {:error, {:enoent, missing}}

    assert Port.start_link(script: script(), python: "no-such") ==
             {:error, {:enoent, "no-such"}}

    assert Port.start_link(command: "no-such") == {:error, {:enoent, "no-such"}}

    script = write_script(directory, "raise SystemExit(7)")
    assert Port.start_link(script: script, size: 2) == {:error, {:exit, 7}}
    script = write_script(directory, "import time; time.sleep(1000)")
    assert Port.start_link(script: script, start_timeout: 300) == {:error, :start_timeout}
    script = write_script(directory, "no Python")
    assert Port.start(script: script) == {:error, {:exit, 1}}
  end
end
