defmodule Reactor.Port.Guard do
  @moduledoc false

  # Sees to it that the process of a child ends: when it is told to, and when the child's own process here dies
  # without a word. A port that is closed is the end of the child's input, which a child that is busy, or hangs,
  # does not see.

  alias Reactor.Port.Options

  # Between SIGTERM and SIGKILL, and for the kernel to take a process away, in ms.
  @term 1_000
  @kill 5_000

  @doc "The longest that an end takes, in ms."
  @spec longest(Options.t()) :: pos_integer
  def longest(%{shutdown: shutdown}), do: shutdown + @term + @kill

  @doc "Starts one for a process of the operating system, under `tasks`. The caller is who it watches."
  @spec start(Supervisor.supervisor(), pos_integer | nil, Options.t()) :: pid
  def start(tasks, os_pid, options) do
    owner = self()

    {:ok, guard} =
      Task.Supervisor.start_child(tasks, fn -> watch(owner, os_pid, options.shutdown) end,
        shutdown: longest(options)
      )

    guard
  end

  @doc "It has ended, and its exit status is known: its number may be another's from now on."
  @spec gone(pid) :: :gone
  def gone(guard), do: send(guard, :gone)

  @doc "Kills it at once. Its exit status comes to the port."
  @spec kill(pid) :: :kill
  def kill(guard), do: send(guard, :kill)

  @doc "Its port is closed, and nobody waits: does what `finish/1` does."
  @spec lost(pid) :: :finish
  def lost(guard), do: send(guard, :finish)

  @doc """
  Its port is closed: gives it the time that it has, then tells it by SIGTERM, then kills it, and returns when it
  is gone.
  """
  @spec finish(pid) :: :ok
  def finish(guard) do
    monitor = Process.monitor(guard)
    send(guard, :finish)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    end
  end

  defp watch(owner, os_pid, shutdown) do
    Process.flag(:trap_exit, true)
    Process.monitor(owner)
    wait(os_pid, shutdown)
  end

  defp wait(os_pid, shutdown) do
    receive do
      :gone ->
        :ok

      :kill ->
        signal(os_pid, "KILL")
        wait(os_pid, shutdown)

      # :finish, or the end of its owner or of its supervisor.
      _finish ->
        finish(os_pid, shutdown)
    end
  end

  defp finish(os_pid, shutdown) do
    Enum.find_value([{nil, shutdown}, {"TERM", @term}, {"KILL", @kill}], :ok, fn {name, time} ->
      if name, do: signal(os_pid, name)
      if gone?(os_pid, deadline(time), 1), do: :ok
    end)
  end

  # Of a process that is no port's any more there is no event to wait for.
  defp gone?(os_pid, until, pause) do
    cond do
      not alive?(os_pid) ->
        true

      System.monotonic_time(:millisecond) >= until ->
        false

      true ->
        receive do
          :gone -> true
        after
          pause -> gone?(os_pid, until, min(2 * pause, 50))
        end
    end
  end

  defp alive?(nil), do: false

  # The emulator reaps its children at once, so none of them stays as a zombie that would look alive.
  defp alive?(os_pid) do
    if File.dir?("/proc/self"),
      do: File.dir?("/proc/#{os_pid}"),
      else: signal(os_pid, "0") == 0
  end

  defp signal(nil, _name), do: 1

  # By the shell's own `kill`: small images of containers have no program of that name.
  defp signal(os_pid, name) do
    {_, status} = System.cmd("/bin/sh", ["-c", "kill -#{name} #{os_pid}"], stderr_to_stdout: true)

    status
  end

  defp deadline(time), do: System.monotonic_time(:millisecond) + time
end
