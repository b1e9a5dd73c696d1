defmodule Reactor.Server.Acceptor do
  @moduledoc false

  # A process that waits for one connection, and then handles it or gives it away.
  #
  # It is spawned bare, linked to its connection supervisor: of 10,000 idle handlers the
  # bookkeeping of a proc_lib process would be a good part of the memory.

  require Logger

  import Reactor.Transport, only: [is_native: 1]

  alias Reactor.{Connection, Listener, Python, Server, Telemetry, Transport}
  alias Reactor.Server.{ConnectionSupervisor, Permits, Profile}

  @spec spawn(Listener.t(), pid) :: pid
  def spawn(listener, supervisor) do
    :erlang.spawn_opt(__MODULE__, :init, [listener, supervisor], [:link | listener.spawn_opt])
  end

  @doc false
  @spec init(Listener.t(), pid) :: :ok | :handed_over
  def init(listener, supervisor) do
    Server.label(:handler, listener.module)
    run(listener, supervisor)
  end

  # --- until it has a connection --------------------------------------------------------------

  defp run(%{overload: :wait} = listener, supervisor) do
    if Permits.needed?(listener) do
      case Permits.ask(supervisor, :wait) do
        true -> accept(listener, supervisor)
        :again -> listener |> current() |> run(supervisor)
        :closed -> closed(listener)
      end
    else
      accept(listener, supervisor)
    end
  end

  defp run(listener, supervisor), do: accept(listener, supervisor)

  defp accept(listener, supervisor) do
    case listener.module.accept(listener) do
      {:ok, %Connection{listener: nil} = connection} ->
        arrived(%{connection | listener: listener}, listener, supervisor)

      {:ok, %Connection{} = connection} ->
        arrived(connection, listener, supervisor)

      # The peer gave up while it waited in the backlog.
      {:error, :econnaborted} ->
        run(listener, supervisor)

      {:error, :retired} ->
        exit({:shutdown, :retired})

      {:error, reason} ->
        stop(reason, listener)

      other ->
        raise ArgumentError,
              "#{inspect(listener.module)}.accept/1 must return {:ok, %Reactor.Connection{}} or " <>
                "{:error, reason}, got: #{inspect(other, limit: 5, printable_limit: 100)}"
    end
  end

  # An accept/1 of the user's may say :closed of something else than the listener.
  @spec stop(term, Listener.t()) :: no_return
  defp stop(reason, listener) do
    case listener.transport.address(listener.socket) do
      {:ok, _address} -> exit({:accept, reason})
      {:error, _closed} -> closed(listener)
    end
  end

  # Of this socket; by the version the supervisor sees whether the server has another one by now.
  @spec closed(Listener.t()) :: no_return
  defp closed(listener), do: exit({:shutdown, {:closed, listener.version}})

  # The descriptor may have changed while it waited: what was changed holds for this connection.
  defp arrived(connection, listener, supervisor) do
    if Server.version(listener.id) == listener.version do
      case listener do
        %{overload: :reject} -> admit(connection, listener, supervisor)
        _has_a_permit_or_needs_none -> accepted(connection, listener, supervisor)
      end
    else
      again(connection, listener, supervisor)
    end
  end

  defp again(connection, listener, supervisor) do
    listener = current(listener)
    admit(%{connection | listener: listener}, listener, supervisor)
  end

  defp admit(connection, listener, supervisor) do
    case not Permits.needed?(listener) or Permits.ask(supervisor, listener.overload) do
      true ->
        accepted(connection, listener, supervisor)

      :again ->
        again(connection, listener, supervisor)

      false ->
        refuse(connection)
        run(listener, supervisor)

      :closed ->
        close(connection)
        closed(listener)
    end
  end

  # One that has not had its handshake :ssl does not close as long as the process that accepted it lives.
  defp refuse(%{pending: true}), do: exit({:shutdown, :refused})
  defp refuse(connection), do: close(connection)

  # A server that was killed has no descriptor any more, and its processes are about to end.
  defp current(listener) do
    Server.shared(listener.id)
  rescue
    ArgumentError -> closed(listener)
  end

  # --- when it has one ------------------------------------------------------------------------

  defp accepted(%{socket: socket} = connection, listener, supervisor)
       when is_native(socket) do
    ConnectionSupervisor.accepted(supervisor, self())
    open(connection, listener, supervisor)
  end

  # Of other sockets than the loops' the supervisor keeps count and list.
  defp accepted(%{id: id, socket: socket} = connection, listener, supervisor) do
    remote = if Telemetry.enabled?(), do: remote(socket)
    ConnectionSupervisor.accepted(supervisor, self(), {id, socket, remote})
    open(connection, listener, supervisor)
  end

  defp remote(socket) do
    case Transport.of(socket).remote(socket) do
      {:ok, remote} -> remote
      {:error, _reason} -> nil
    end
  end

  defp open(%{pending: true} = connection, listener, supervisor) do
    case Connection.handshake(connection) do
      {:ok, connection} ->
        start(connection, listener, supervisor)

      {:error, reason} ->
        ConnectionSupervisor.closing(supervisor, self(), reason, 0, 0)

        Logger.info(
          "#{inspect(listener.module)}: a handshake failed: " <> inspect(reason),
          connection: connection.id
        )
    end
  end

  defp open(connection, %{route: true} = listener, supervisor) do
    case listener.module.route(connection) do
      :elixir -> start(connection, listener, supervisor)
      {:python, factory} when is_binary(factory) -> adopt(connection, factory, listener)
      other -> misrouted(other, listener.module)
    end
  end

  defp open(connection, listener, supervisor), do: start(connection, listener, supervisor)

  defp adopt(%{socket: socket} = connection, factory, listener) when is_reference(socket) do
    with {:error, reason} <- Python.Supervisor.adopt(listener.id, socket, factory) do
      close(connection)

      # The peer may be faster than we are.
      if reason != :closed do
        Logger.error(
          "#{inspect(listener.module)}: Python cannot take a connection: #{inspect(reason)}",
          connection: connection.id
        )
      end
    end

    :ok
  end

  defp adopt(_connection, _factory, listener) do
    raise ArgumentError,
          "#{inspect(listener.module)}.route/1 may choose Python for connections of the " <>
            "transport :native only"
  end

  @spec misrouted(term, module) :: no_return
  defp misrouted(other, module) do
    raise ArgumentError,
          "#{inspect(module)}.route/1 must return :elixir or {:python, \"module:factory\"}, " <>
            "got: #{inspect(other, limit: 5, printable_limit: 100)}"
  end

  defp start(connection, %{profile: true} = listener, supervisor) do
    profile = Profile.start(connection, listener)

    case handle(connection, listener, supervisor) do
      :ok -> Profile.stop(profile)
      # Nobody can tell afterwards what of the other process's work was for this connection.
      :handed_over -> Profile.cancel(profile)
    end

    :ok
  end

  defp start(connection, listener, supervisor), do: handle(connection, listener, supervisor)

  defp handle(connection, listener, supervisor) do
    case started(connection, listener.module, supervisor) do
      :ok ->
        finish(connection, supervisor)
        :ok

      {:ok, pid} when is_pid(pid) ->
        hand_over(connection, pid, supervisor)
        :handed_over

      {:error, reason} ->
        finish(connection, supervisor)

        Logger.error(
          "#{inspect(listener.module)}.start/1 refused a connection: " <> inspect(reason),
          connection: connection.id
        )

      other ->
        raise ArgumentError,
              "#{inspect(listener.module)}.start/1 must return :ok, {:ok, pid} or " <>
                "{:error, reason}, got: #{inspect(other, limit: 5, printable_limit: 100)}"
    end
  end

  # Of a native connection the supervisor does not know whose it is, until it fails.
  defp started(connection, module, supervisor) do
    module.start(connection)
  catch
    kind, reason ->
      # A normal exit is no failure, and would be noted for ever.
      if {kind, reason} != {:exit, :normal} and Telemetry.enabled?() do
        remote = remote(connection.socket)
        ConnectionSupervisor.failing(supervisor, self(), {connection.id, remote})
      end

      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp hand_over(%{socket: socket}, pid, supervisor) do
    ConnectionSupervisor.handed_over(supervisor, self(), pid)
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

  defp finish(%{socket: socket} = connection, _supervisor) when is_native(socket) do
    close(connection)
  end

  defp finish(connection, supervisor) do
    if Telemetry.enabled?(), do: closing(connection, supervisor)
    close(connection)
  end

  defp closing(connection, supervisor) do
    case Reactor.Socket.statistics(connection) do
      {:ok, %{received: received, sent: sent}} ->
        ConnectionSupervisor.closing(supervisor, self(), ended_by(connection), received, sent)

      {:error, _closed} ->
        :ok
    end
  end

  # It is not needed any more, so what this may read is not missed.
  defp ended_by(%{socket: socket}) do
    case Transport.of(socket).recv(socket, 0, 0) do
      {:error, :closed} -> :remote
      _data_or_none -> :local
    end
  end

  defp close(%{socket: socket}), do: Transport.of(socket).close(socket)
end
