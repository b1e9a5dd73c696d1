# Run by system_stop_test.exs in a VM of its own: a Python server whose contexts are each in a callback that
# does not return, and then System.stop/1. Arguments: the status to exit with, the isolation, what keeps
# the contexts busy, and the directory of the Python files.

[status, isolation, busy, python] = System.argv()

defmodule Busy.Python do
  use Reactor, python: "patience:Obeys", callback_timeout: :infinity, drain_timeout: 200
end

{:ok, _} = Application.ensure_all_started(:reactor)

options = [
  ip: :loopback,
  paths: [python],
  contexts: 2,
  isolation: String.to_existing_atom(isolation)
]

{:ok, server} = Reactor.start(Busy.Python, options)

# Until nobody is answered any more: then both contexts are busy.
keep_busy = fn keep_busy ->
  {:ok, client} =
    :gen_tcp.connect({127, 0, 0, 1}, Reactor.info(server).port, [:binary, active: false])

  :ok = :gen_tcp.send(client, "hello")

  case :gen_tcp.recv(client, 5, 500) do
    {:ok, "hello"} ->
      :ok = :gen_tcp.send(client, busy)
      keep_busy.(keep_busy)

    {:error, :timeout} ->
      :ok
  end
end

keep_busy.(keep_busy)
IO.puts("stopping")
System.stop(String.to_integer(status))
Process.sleep(:infinity)
