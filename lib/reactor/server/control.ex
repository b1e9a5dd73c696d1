defmodule Reactor.Server.Control do
  @moduledoc false

  # Makes changes to a running server, one after the other. It is a process of its own because some
  # take as long as an import in Python, and nobody else of the server should wait for that.

  use GenServer

  alias Reactor.{ConfigError, Listener, Python, Server, Transport}
  alias Reactor.Server.{AcceptorPool, ConnectionSupervisor, ListeningSocket}

  @spec start_link(Server.board()) :: GenServer.on_start()
  def start_link(board), do: GenServer.start_link(__MODULE__, board)

  @spec update(Server.board(), keyword) :: :ok | {:error, term}
  # What is called with is logged if it fails: a function keeps keys and passwords out of it.
  def update(board, options), do: call(board, {:update, fn -> options end})

  @spec reload_certificates(Server.board()) :: :ok | {:error, ConfigError.t()}
  def reload_certificates(board), do: call(board, :reload_certificates)

  @spec suspend(Server.board()) :: :ok
  def suspend(board) do
    # Not behind an import of an update: whoever suspends wants it now.
    case Server.whereis(board, :listening_socket) do
      nil -> exit({:noproc, {__MODULE__, :suspend, [board]}})
      listening_socket -> ListeningSocket.suspend(listening_socket)
    end
  end

  @spec resume(Server.board()) :: :ok | {:error, term}
  def resume(board), do: call(board, :resume)

  # Exits, as info/1 does, if the server is stopping or starting anew.
  defp call(board, request) do
    case Server.whereis(board, :control) do
      nil -> exit({:noproc, {__MODULE__, :call, [request]}})
      control -> GenServer.call(control, request, :infinity)
    end
  end

  @impl true
  def init(board) do
    Server.label(:control, Server.listener(board).module)
    Server.register(board, :control)
    {:ok, board}
  end

  @impl true
  def handle_call({:update, options}, _from, board) do
    old = Server.listener(board)

    with {:ok, new} <- Listener.change(old, options.()),
         {:ok, transport} <- changes(old, new),
         {:ok, certificates} <- certificates(old, new),
         :ok <- swap(board, old, new),
         :ok <- transport.(Server.state(board)),
         :ok <- certificates.(Server.state(board)) do
      apply_change(old, %{new | version: old.version + 1}, board)
      {:reply, :ok, board}
    else
      {:error, reason} -> {:reply, {:error, reason}, board}
    end
  end

  def handle_call(:reload_certificates, _from, board) do
    listener = Server.listener(board)

    with :ok <- secure(listener), {:ok, tell} <- certificates(listener) do
      tell.(Server.state(board))
      {:reply, :ok, board}
    else
      {:error, reason} -> {:reply, {:error, reason}, board}
    end
  end

  def handle_call(:resume, _from, board) do
    suspended? = Server.state(board) == :suspended

    with :ok <- ListeningSocket.resume(listening_socket(board)),
         true <- suspended?,
         {:error, reason} <- serve(board) do
      ListeningSocket.suspend(listening_socket(board))
      {:reply, {:error, reason}, board}
    else
      {:error, reason} -> {:reply, {:error, reason}, board}
      _served -> {:reply, :ok, board}
    end
  end

  defp listening_socket(board), do: Server.whereis(board, :listening_socket)

  # Python's contexts accept by themselves, and have to be told of the new socket.
  defp serve(board) do
    case Server.listener(board) do
      %{python: nil} -> :ok
      listener -> Python.Supervisor.serve(board, listener.socket)
    end
  end

  defp swap(_board, %{python: same}, %{python: same}), do: :ok
  defp swap(board, _old, new), do: Python.Supervisor.swap(board, new.python)

  # What has to be said to the transport; nothing is yet.
  defp changes(old, new) do
    cond do
      limits(old) == limits(new) and old.options == new.options ->
        {:ok, fn _state -> :ok end}

      function_exported?(new.transport, :update, 2) ->
        {:ok, &tell(&1, new)}

      old.options == new.options ->
        {:ok, fn _state -> :ok end}

      true ->
        [{name, value} | _] = Enum.reject(new.options, fn {k, v} -> old.options[k] == v end)
        transport = inspect(Transport.name(new.transport))
        expected = "left alone: transport #{transport} cannot change it for a running server"
        {:error, %ConfigError{option: name, value: value, expected: expected}}
    end
  end

  defp secure(%{secure: false}) do
    expected = "given when the server is started: it does not speak TLS"
    {:error, %ConfigError{option: :secure, value: false, expected: expected}}
  end

  defp secure(_listener), do: :ok

  defp certificates(%{secure: same}, %{secure: same}), do: {:ok, fn _state -> :ok end}
  defp certificates(_old, new), do: certificates(new)

  # They are loaded here, so that bad ones change nothing.
  defp certificates(%{transport: Transport.Native} = listener) do
    with {:ok, tls} <- Transport.Native.Secure.server(listener.secure) do
      # Of one that is suspended too: it need not find the files again when it is resumed.
      {:ok, fn _state -> Transport.Native.secure(listener.socket, tls) end}
    end
  end

  defp certificates(%{transport: transport}) do
    transport = inspect(Transport.name(transport))
    expected = "left alone: transport #{transport} cannot change it for a running server"
    {:error, %ConfigError{option: :secure, value: :"(hidden)", expected: expected}}
  end

  defp limits(listener) do
    Map.take(listener, [
      :max_connections,
      :overload,
      :max_connections_per_ip,
      :accept_rate,
      :going_away
    ])
  end

  # A socket that is opened later gets the descriptor as a whole. This one may be suspended right now.
  defp tell(:running, new) do
    with {:error, :closed} <- new.transport.update(new.socket, new), do: :ok
  end

  defp tell(_closed, _new), do: :ok

  defp apply_change(old, new, board) do
    Server.put_listener(board, new)
    Server.share(board)
    Enum.each(Server.partitions(board), &ConnectionSupervisor.changed/1)
    pool = Server.whereis(board, :acceptor_pool)
    if pool && old.acceptors != new.acceptors, do: AcceptorPool.resize(pool, new.acceptors)
  end
end
