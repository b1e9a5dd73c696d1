defmodule Reactor.Python.ProcessDeathsTest do
  # Not async: both cores are busy, and all processes of this VM are looked at.
  use Reactor.TransportCase, async: false, transport: :Native

  alias Reactor.{LogRelay, Python, Server, Throng}

  # What becomes of clients, callers and other contexts when one of two processes dies under load.

  @python Path.expand("../../support/python", __DIR__)

  # New connections are to be served within that, in ms, whatever becomes of a process.
  @soon 2_000

  @moduletag :capture_log

  defmodule Py do
    use Reactor, python: "apart:Apart", isolation: :process, contexts: 2
  end

  defp start(context, call_timeout, options \\ []) do
    LogRelay.attach()
    server = serve(context, Py, [paths: [@python]] ++ options)
    {server, Throng.start(server, call_timeout)}
  end

  defp os_pids(server) do
    for context <- server |> Server.board() |> Server.contexts(),
        {:ok, %{os_pid: pid}} <- [Python.info(context)],
        do: pid
  end

  defp gone?(pid), do: not File.exists?("/proc/#{pid}/stat")

  # Children of this VM that have ended and that nobody has asked about.
  defp zombies do
    for path <- Path.wildcard("/proc/[0-9]*/stat"),
        {:ok, stat} <- [File.read(path)],
        # The name, in parentheses, may hold anything.
        [state, parent | _] = stat |> String.split(")") |> List.last() |> String.split(),
        state == "Z" and parent == System.pid(),
        do: path
  end

  defp left?(server, before) do
    assert Enum.all?(before, &(not gone?(&1)))
    assert Reactor.stop(server, 0) == :ok

    not (eventually(fn -> Enum.all?(before, &gone?/1) end) and
           eventually(fn -> zombies() == [] end))
  end

  for {what, said} <- [{"kill", "SIGKILL"}, {"segfault", "SIGSEGV"}, {"leave", "exit status 3"}] do
    test "one of two dies by #{what}: the other loses nothing, and two are there again",
         context do
      # Callers are answered, or hear that the process has died: none of them gives up before.
      {server, throng} = start(context, 10_000)
      before = os_pids(server)
      client = dial(server)
      {:ok, home} = Throng.ask(client, "home")
      [pid, _] = home |> String.split("/") |> Enum.map(&String.to_integer/1)

      if unquote(what) == "kill",
        do: {_, 0} = System.cmd("kill", ["-KILL", "#{pid}"]),
        else: :ok = :gen_tcp.send(client, unquote(what))

      seen = Throng.look(throng, home)
      assert {:error, _} = :gen_tcp.recv(client, 0, 20_000)
      assert seen.longest_visit < @soon
      # Of one that has died, or is not there yet.
      assert Enum.all?(seen.calls, &(&1 in [{:ok, 4}, {:error, :closed}, {:error, :noproc}]))
      assert {:ok, 4} in seen.calls
      LogRelay.assert_logged(unquote(said))
      assert eventually(fn -> match?([_, _], os_pids(server)) end)
      assert eventually(fn -> gone?(pid) end)
      assert [_] = before -- os_pids(server)
      Throng.stop(throng)
      refute left?(server, os_pids(server))
    end
  end

  test "one of two has no memory left: the other loses nothing, and two are there again",
       context do
    {server, throng} = start(context, 300, rlimit: [as: 1024 * 1024 * 1024])
    client = dial(server)
    {:ok, home} = Throng.ask(client, "home")
    :ok = :gen_tcp.send(client, "exhaust")
    seen = Throng.look(throng, home)
    # By an exception of its own, or because its process has died.
    assert {:error, reason} = :gen_tcp.recv(client, 0, 20_000)
    assert reason in [:closed, :econnreset]
    assert seen.longest_visit < @soon
    assert {:ok, 4} in seen.calls
    for {:error, reason} <- seen.calls, do: assert(refusal?(reason))
    assert eventually(fn -> match?([_, _], os_pids(server)) end)
    assert eventually(fn -> Throng.ask(dial(server), "x") == {:ok, "x"} end)
    Throng.stop(throng)
    refute left?(server, os_pids(server))
  end

  defp refusal?(%Python.Error{type: "MemoryError"}), do: true
  # It may take its time over that.
  defp refusal?(reason), do: reason in [:closed, :noproc, :timeout]
end
