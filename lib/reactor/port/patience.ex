defmodule Reactor.Port.Patience do
  @moduledoc false

  # How long requests are waited for that are not sent yet, since the child is down or does not read: until the first
  # deadline among them, and as long as their callers live. Those that are sent at once cost nothing here.

  defstruct callers: %{}, timer: nil, until: :infinity

  @typedoc "Callers with their monitors; the timer sends `:impatient` at `until`, in ms of the monotonic clock."
  @type t :: %__MODULE__{
          callers: %{pid => reference},
          timer: reference | nil,
          until: integer | :infinity
        }

  # A function that the child has called may be one, and has another monitor besides.
  defguardp is_monitor(callers, pid, monitor)
            when is_map_key(callers, pid) and :erlang.map_get(pid, callers) == monitor

  @doc "Whether it is the death of one of them, by this monitor."
  defguard is_caller(patience, pid, monitor)
           when is_monitor(:erlang.map_get(:callers, patience), pid, monitor)

  @doc "These wait, and `soonest` is the first deadline of all."
  @spec watch(t, [pid], integer | :infinity) :: t
  def watch(patience, pids, soonest) do
    callers =
      Enum.reduce(pids, patience.callers, fn pid, callers ->
        Map.put_new_lazy(callers, pid, fn -> Process.monitor(pid) end)
      end)

    wake(%{patience | callers: callers}, soonest)
  end

  @doc "The first deadline is this one from now on."
  @spec wake(t, integer | :infinity) :: t
  def wake(%{until: until} = patience, until), do: patience

  def wake(patience, until) do
    if patience.timer, do: Process.cancel_timer(patience.timer)
    timer = if until != :infinity, do: Process.send_after(self(), :impatient, until, abs: true)
    %{patience | timer: timer, until: until}
  end

  @doc "Those that have died: this one, and others whose deaths are known already."
  @spec dead(t, pid) :: {[pid], t}
  def dead(patience, pid), do: dead(Map.delete(patience.callers, pid), patience, [pid])

  defp dead(callers, patience, found) do
    receive do
      {:DOWN, monitor, :process, pid, _reason} when is_monitor(callers, pid, monitor) ->
        dead(Map.delete(callers, pid), patience, [pid | found])
    after
      0 -> {found, %{patience | callers: callers}}
    end
  end

  @doc "Nobody waits any more."
  @spec rest(t) :: t
  def rest(%{callers: callers, until: :infinity} = patience) when callers == %{}, do: patience

  def rest(patience) do
    for {_pid, monitor} <- patience.callers, do: Process.demonitor(monitor, [:flush])
    wake(%{patience | callers: %{}}, :infinity)
  end
end
