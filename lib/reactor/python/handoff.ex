defmodule Reactor.Python.Handoff do
  @moduledoc false

  # Which descriptor it is that is handed over, and whose. What Erlang has open cannot be taken from under
  # it: the context gets a duplicate, and Erlang closes its own, which ends nothing.

  alias Reactor.{Connection, Native, Transport}
  alias Reactor.Python.{ClientInfo, Directory}

  @inet ["tcp_inet", "udp_inet", "sctp_inet"]
  @fds 0..0x7FFF_FFFF

  @type descriptor ::
          non_neg_integer
          | :inet.socket()
          | :socket.socket()
          | Native.socket()
          | Connection.t()

  @type reason ::
          :ebadf
          | {:not_pollable, :regular | :directory | :device | :anonymous}
          | :listening
          | :standard_io
          | :in_use
          | :not_owner
          | :tls
          | :einval
          | :send_pending
          | :no_factory
          | :overloaded
          | :max_connections
          | :closed
          | :noproc
          | :inet.posix()

  @doc "See `Reactor.Python.handoff/3`."
  @spec handoff(GenServer.server(), descriptor, map) :: :ok | {:error, reason}
  def handoff(context, descriptor, info) do
    info = ClientInfo.new!(info)
    descriptor = known!(descriptor)

    with {:ok, native} <- Directory.native(context) do
      give(descriptor, native, info)
    end
  end

  @doc "See `Reactor.Python.dup_fd/1`."
  @spec dup_fd(descriptor) :: {:ok, non_neg_integer} | {:error, reason}
  def dup_fd(descriptor) do
    case known!(descriptor) do
      {:fd, fd} -> Native.fd_duplicate(fd)
      {:native, socket} -> Native.socket_duplicate(socket)
      {:error, reason} -> {:error, reason}
      socket -> with {:ok, fd} <- own_fd(socket), do: Native.fd_duplicate(fd)
    end
  end

  # --- what it is -------------------------------------------------------------------------------

  defp known!(fd) when is_integer(fd) and fd in @fds, do: {:fd, fd}
  defp known!(fd) when is_integer(fd), do: {:error, :ebadf}
  defp known!(%Connection{socket: socket}), do: known!(socket)
  defp known!({:"$socket", _} = socket), do: {:socket, socket}

  defp known!({:"$inet", module, {pid, _}} = socket) when is_atom(module) and is_pid(pid),
    do: {:inet, socket}

  defp known!(sslsocket) when is_tuple(sslsocket) and elem(sslsocket, 0) == :sslsocket,
    do: {:error, :tls}

  defp known!({:udp, handle} = socket) when is_reference(handle) do
    Transport.check(socket)
    {:error, :eopnotsupp}
  end

  defp known!(socket) when is_reference(socket) do
    Transport.check(socket)
    {:native, socket}
  end

  defp known!(port) when is_port(port) do
    case Port.info(port, :name) do
      nil -> {:error, :closed}
      {:name, name} -> if to_string(name) in @inet, do: {:port, port}, else: wrong!(port)
    end
  end

  defp known!(other), do: wrong!(other)

  @spec wrong!(term) :: no_return
  defp wrong!(other) do
    raise ArgumentError,
          "expected a file descriptor (an integer), a socket of :gen_tcp, :gen_udp or :socket, or a " <>
            "Reactor.Connection, got: " <> inspect(other, limit: 10, printable_limit: 40)
  end

  # --- giving it ----------------------------------------------------------------------------------

  defp give({:error, reason}, _native, _info), do: {:error, reason}

  defp give({:native, socket}, native, info), do: Native.context_take(native, socket, info)

  defp give({:fd, fd}, native, info) do
    case holder(fd) do
      nil -> Native.context_handoff(native, fd, false, info)
      holder -> give(holder, native, info)
    end
  end

  defp give(socket, native, info) do
    with {:ok, fd} <- own_fd(socket),
         :ok <- ready(socket),
         :ok <- Native.context_handoff(native, fd, true, info) do
      close(socket)
    end
  end

  # The descriptor of a socket of the caller's: as long as it is that, the number cannot become another's.
  defp own_fd(socket) do
    case owner(socket) do
      nil -> {:error, :closed}
      pid when pid == self() -> fd(socket)
      # A :socket that is closed has no owner any more.
      _other -> with {:ok, _fd} <- fd(socket), do: {:error, :not_owner}
    end
  end

  defp owner({:port, port}) do
    with {:connected, pid} <- Port.info(port, :connected), do: pid
  end

  defp owner({:socket, socket}) do
    Map.get(:socket.info(socket), :owner)
  rescue
    # It is closed, and forgotten.
    _error in [ArgumentError, ErlangError] -> nil
  end

  defp owner({:inet, socket}) do
    case :inet.info(socket) do
      %{owner: pid} -> pid
      _closed -> nil
    end
  end

  defp fd({:socket, socket}), do: :socket.getopt(socket, {:otp, :fd})
  defp fd({:port, port}), do: :inet.getfd(port)
  defp fd({:inet, {_, _module, {_pid, socket}}}), do: :socket.getopt(socket, {:otp, :fd})

  # True when nothing of its stream is, or will be, elsewhere.
  defp ready({:socket, _socket}), do: :ok

  defp ready({_kind, socket}) do
    with {:ok, [active: false]} <- :inet.getopts(socket, [:active]),
         :ok <- uncut(:inet.getopts(socket, [:packet])) do
      sent(:inet.getstat(socket, [:send_pend]))
    else
      {:error, reason} -> {:error, reason}
      _active_or_packets -> {:error, :einval}
    end
  end

  defp sent({:ok, [send_pend: bytes]}) when bytes > 0, do: {:error, :send_pending}
  defp sent({:error, reason}), do: {:error, reason}
  # On sockets of :socket newer OTPs have no such count, and no such queue.
  defp sent(_nothing), do: :ok

  defp uncut({:ok, [packet: packet]}) when packet not in [0, :raw], do: {:error, :einval}
  # Datagrams have no such option.
  defp uncut(_raw), do: :ok

  # --- what Erlang has ----------------------------------------------------------------------------

  # Whose number this is in Erlang: most often of a port of the caller's.
  defp holder(fd) do
    {:links, links} = Process.info(self(), :links)
    mine = Enum.filter(links, &is_port/1)

    port_of(fd, mine) || port_of(fd, :erlang.ports() -- mine) || socket_of(fd)
  end

  defp port_of(fd, ports) do
    port = Enum.find(ports, &(inet?(&1) and :inet.getfd(&1) == {:ok, fd}))
    if port, do: {:port, port}
  end

  defp inet?(port) do
    case Port.info(port, :name) do
      {:name, name} -> to_string(name) in @inet
      nil -> false
    end
  end

  defp socket_of(fd) do
    socket = Enum.find(:socket.which_sockets(), &(:socket.getopt(&1, {:otp, :fd}) == {:ok, fd}))
    if socket, do: {:socket, socket}
  end

  # Without a shutdown: the duplicate goes on.
  defp close({:port, port}) do
    Process.unlink(port)
    Port.close(port)
    :ok
  rescue
    # It has just closed by itself.
    ArgumentError -> :ok
  end

  defp close({:socket, socket}) do
    _ = :socket.close(socket)
    :ok
  end

  defp close({:inet, {_, :gen_udp_socket, _} = socket}), do: :gen_udp.close(socket)
  defp close({:inet, socket}), do: :gen_tcp.close(socket)
end
