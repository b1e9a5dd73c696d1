defmodule Reactor.Server.Acceptor do
  @moduledoc false

  # A process that waits for one connection, and then handles it or gives it away.
  #
  # It is spawned bare, linked to its connection supervisor: of 10,000 idle handlers the
  # bookkeeping of a proc_lib process would be a good part of the memory.

  require Logger

  alias Reactor.{Connection, Listener, Server, Transport}

  @spec spawn(Listener.t(), pid) :: pid
  def spawn(listener, supervisor) do
    :erlang.spawn_opt(__MODULE__, :run, [listener, supervisor], [:link | listener.spawn_opt])
  end

  @doc false
  @spec run(Listener.t(), pid) :: :ok
  def run(listener, supervisor) do
    case listener.module.accept(listener) do
      {:ok, %Connection{} = connection} ->
        Server.ConnectionSupervisor.accepted(supervisor, self())
        start(connection, listener.module, supervisor)

      # The peer gave up while it waited in the backlog.
      {:error, :econnaborted} ->
        run(listener, supervisor)

      {:error, reason} ->
        stop(reason, listener)
    end
  end

  # An accept/1 of the user's may say :closed of something else than the listener.
  defp stop(reason, listener) do
    case listener.transport.address(listener.socket) do
      {:ok, _address} -> exit({:accept, reason})
      {:error, _closed} -> :ok
    end
  end

  defp start(connection, module, supervisor) do
    case module.start(connection) do
      :ok ->
        close(connection)

      {:ok, pid} when is_pid(pid) ->
        hand_over(connection, pid, supervisor)

      {:error, reason} ->
        close(connection)

        Logger.error(
          "#{inspect(module)}.start/1 refused a connection: " <> inspect(reason),
          connection: connection.id
        )
    end

    :ok
  end

  defp hand_over(%{socket: socket}, pid, supervisor) do
    Server.ConnectionSupervisor.handed_over(supervisor, self(), pid)
    # Started with start_link, it would otherwise be told that its parent ended.
    if pid != self(), do: Process.unlink(pid)

    case Transport.of(socket).controlling_process(socket, pid) do
      :ok ->
        send(pid, {Reactor, :ack})

      # The peer or the handler is gone already: closing is left to do, and the handler still learns
      # of it from its first call.
      {:error, _reason} ->
        Transport.of(socket).close(socket)
        send(pid, {Reactor, :ack})
    end
  end

  defp close(%{socket: socket}), do: Transport.of(socket).close(socket)
end
