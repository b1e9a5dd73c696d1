defmodule Reactor.Port.Writer do
  @moduledoc false

  # Writes to a port that may be busy, since its program does not read: that must not hold up who writes, so another
  # process waits for it. What is written while one does goes behind it.

  @doc "Writes. Returns the process that does it, linked to the caller, if that has to wait; it ends when it has."
  @spec write(port, iodata, before :: pid | nil) :: pid | nil
  def write(port, data, nil) do
    if Port.command(port, data, [:nosuspend]),
      do: nil,
      else: spawn_link(fn -> wait(port, data) end)
  rescue
    # It has ended, and its exit status is on its way.
    ArgumentError -> nil
  end

  def write(port, data, before) do
    spawn_link(fn ->
      monitor = Process.monitor(before)

      receive do
        {:DOWN, ^monitor, _, _, _} -> wait(port, data)
      end
    end)
  end

  defp wait(port, data) do
    Port.command(port, data)
  rescue
    ArgumentError -> :ended
  end
end
