defmodule Reactor.SystemdTest do
  use ExUnit.Case, async: true

  import Reactor.TransportCase, only: [echo: 2, eventually: 1]

  alias Reactor.ConfigError

  @support Path.expand("../support", __DIR__)

  # One VM for all: its environment is its own, and can be changed while it runs.
  setup_all do
    directory = Path.join(System.tmp_dir!(), "reactor-#{System.unique_integer([:positive])}")
    File.mkdir_p!(directory)
    path = Path.join(directory, "a.sock")
    sockets = ["web=tcp", "twin=tcp", "twin=tcp", "local=unix:#{path}", "dns=udp"]

    python = System.find_executable(System.get_env("PYO3_PYTHON", "python3"))
    elixir = System.find_executable("elixir")
    ebin = Path.join(:code.lib_dir(:reactor), "ebin")
    script = [elixir, "-pa", ebin, Path.join(@support, "evaluate.exs")]

    port =
      Port.open({:spawn_executable, python}, [
        :binary,
        :exit_status,
        line: 100_000,
        args: [Path.join(@support, "activate.py")] ++ sockets ++ ["--"] ++ script
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)

    vm = share(port)

    on_exit(fn ->
      # The end of its standard input is its end.
      Agent.stop(vm)
      assert eventually(fn -> not File.exists?("/proc/#{os_pid}/stat") end)
      File.rm_rf!(directory)
    end)

    %{vm: vm, os_pid: os_pid, path: path}
  end

  # The port belongs to a process that lasts for all tests.
  defp share(port) do
    {:ok, agent} = Agent.start(fn -> port end)
    Port.connect(port, agent)
    Process.unlink(port)
    agent
  end

  defp ask(vm, code), do: Agent.get(vm, &ask_port(&1, code), 30_000)

  defp ask_port(port, code) do
    true = Port.command(port, [code, "\n"])
    answer(port, [])
  end

  defp answer(port, log) do
    receive do
      {^port, {:data, {:eol, "=" <> term}}} ->
        term |> Base.decode64!() |> :erlang.binary_to_term()

      {^port, {:data, {_eol, line}}} ->
        answer(port, [log, line, "\n"])

      {^port, {:exit_status, status}} ->
        raise "the VM ended with status #{status}:\n#{log}"
    after
      20_000 -> raise "the VM did not answer:\n#{log}"
    end
  end

  defp environment(vm, variables) do
    before = ask(vm, ~S|Map.take(System.get_env(), ~w(LISTEN_PID LISTEN_FDS LISTEN_FDNAMES))|)
    :ok = ask(vm, "System.put_env(#{inspect(variables)})")
    on_exit(fn -> ask(vm, "System.put_env(#{inspect(before, limit: :infinity)})") end)
  end

  defp start(vm, fd) do
    ask(vm, "Reactor.start(Evaluate.Echo, name: :s, fd: #{inspect(fd)}) |> elem(0)")
  end

  defp stop(vm), do: ask(vm, "Reactor.stop(:s)")

  defp start_error(vm, fd) do
    assert %ConfigError{option: :fd} =
             error = ask(vm, "Reactor.start(Evaluate.Echo, fd: #{inspect(fd)}) |> elem(1)")

    Exception.message(error)
  end

  defp dial(address, port) do
    {:ok, client} = :gen_tcp.connect(address, port, [:binary, active: false], 5_000)
    client
  end

  test "the sockets are listed as they were passed", %{vm: vm} do
    assert ask(vm, "Reactor.Systemd.listen_fds()") ==
             {:ok,
              [
                %{fd: 3, name: "web", index: 0},
                %{fd: 4, name: "twin", index: 1},
                %{fd: 5, name: "twin", index: 2},
                %{fd: 6, name: "local", index: 3},
                %{fd: 7, name: "dns", index: 4}
              ]}
  end

  test "without names they are unknown, and found by number", %{vm: vm} do
    environment(vm, %{"LISTEN_FDNAMES" => nil, "LISTEN_FDS" => "2"})

    assert {:ok, [%{name: "unknown", index: 0}, %{name: "unknown", index: 1, fd: 4}]} =
             ask(vm, "Reactor.Systemd.listen_fds()")

    assert start(vm, {:systemd, 1}) == :ok
    assert stop(vm) == :ok
  end

  test "a server has one by its name or number, restarts and resumes on it", %{vm: vm} do
    ports =
      for fd <- [{:systemd, "web"}, {:systemd, 0}, {:systemd, "web"}] do
        assert start(vm, fd) == :ok
        assert %{ip: {127, 0, 0, 1}, port: port, state: :running} = ask(vm, "Reactor.info(:s)")
        client = dial({127, 0, 0, 1}, port)
        assert echo(client, "hello") == "hello"
        :gen_tcp.close(client)

        assert ask(vm, "Reactor.suspend(:s)") == :ok
        waits = dial({127, 0, 0, 1}, port)
        assert :gen_tcp.send(waits, "waits") == :ok
        assert ask(vm, "Reactor.resume(:s)") == :ok
        assert :gen_tcp.recv(waits, 5, 5_000) == {:ok, "waits"}
        :gen_tcp.close(waits)
        assert stop(vm) == :ok
        # Nobody serves it now, and nobody is refused.
        assert :gen_tcp.close(dial({127, 0, 0, 1}, port)) == :ok
        port
      end

    assert [_one] = Enum.uniq(ports)
  end

  test "it may be a Unix socket, whose path stays", %{vm: vm, path: path} do
    assert start(vm, {:systemd, "local"}) == :ok
    assert %{ip: {:local, ^path}, port: 0} = ask(vm, "Reactor.info(:s)")
    client = dial({:local, path}, 0)
    assert echo(client, "hello") == "hello"
    assert stop(vm) == :ok
    assert File.exists?(path)
  end

  test "what is not there, not one, or no listening stream socket is said", context do
    %{vm: vm, os_pid: os_pid} = context
    there = ~s(there are: 0 "web", 1 "twin", 2 "twin", 3 "local", 4 "dns")

    assert start_error(vm, {:systemd, "wbe"}) ==
             "option :fd must be a socket that systemd has passed (#{there}), " <>
               ~s(got: {:systemd, "wbe"})

    assert start_error(vm, {:systemd, 5}) =~ there

    assert start_error(vm, {:systemd, "twin"}) =~
             "several have this name, take an index; #{there}"

    assert start_error(vm, {:systemd, "dns"}) =~ "(it is a datagram socket)"

    environment(vm, %{"LISTEN_PID" => "1"})
    assert ask(vm, "Reactor.Systemd.listen_fds()") == {:error, {:other_process, 1}}

    assert start_error(vm, {:systemd, "web"}) =~
             "passed none: LISTEN_PID is 1, this is #{os_pid})"
  end

  test "that none were passed is said", %{vm: vm} do
    for variables <- [%{"LISTEN_PID" => nil}, %{"LISTEN_FDS" => nil}, %{"LISTEN_FDS" => "0"}] do
      environment(vm, variables)
      assert ask(vm, "Reactor.Systemd.listen_fds()") == {:error, :none}

      assert start_error(vm, {:systemd, 0}) =~
               "passed none: LISTEN_PID and LISTEN_FDS are not set"
    end
  end

  test "variables that are not as specified are named", %{vm: vm, os_pid: os_pid} do
    for {variable, value} <- [
          {"LISTEN_FDS", "many"},
          {"LISTEN_FDS", "-1"},
          {"LISTEN_FDS", "99999999999"},
          {"LISTEN_FDNAMES", "one:two"},
          {"LISTEN_PID", "#{os_pid} "}
        ] do
      environment(vm, %{variable => value})

      assert ask(vm, "Reactor.Systemd.listen_fds()") == {:error, {:invalid, variable, value}}
      assert start_error(vm, {:systemd, 0}) =~ ~s(passed none: #{variable} is "#{value}"\))
      right = %{"LISTEN_PID" => "#{os_pid}", "LISTEN_FDS" => "5", "LISTEN_FDNAMES" => "a:b:c:d:e"}
      :ok = ask(vm, "System.put_env(#{inspect(right)})")
    end
  end

  test "a VM that was passed none says so" do
    assert Reactor.Systemd.listen_fds() == {:error, :none}
    assert {:error, %ConfigError{} = error} = Reactor.start(MyApp.Echo, fd: {:systemd, "web"})
    assert Exception.message(error) =~ "must be a socket that systemd has passed (this VM was"

    for wrong <- [-1, "3", {:systemd, ""}, {:systemd, -1}, {:systemd, :web}, 3.0] do
      assert {:error, %ConfigError{} = error} = Reactor.start(MyApp.Echo, fd: wrong)

      assert Exception.message(error) ==
               "option :fd must be the number of a descriptor, {:systemd, name} or " <>
                 "{:systemd, index}, got: #{inspect(wrong)}"
    end
  end
end
