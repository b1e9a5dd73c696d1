defmodule Reactor.Transport.Native do
  @moduledoc """
  The transport on this package's event loops.

  A loop is a thread that reads only while somebody wants data: a process in `recv`, or an owner
  in active mode. A send is tried at once, in the caller; what the kernel does not take is queued,
  up to the high-water mark. Every function but those that wait returns without blocking a scheduler.

  ## TLS

      Reactor.start(MyApp.Echo, port: 8443, secure: [certfile: "cert.pem", keyfile: "key.pem"])
      Reactor.connect("localhost", 8443, secure: [cacertfile: "ca.pem"])

  The loops speak TLS 1.2 and 1.3 too, by rustls, for handlers in Elixir and in Python alike. The options are
  in `Reactor.Transport.SSL.Options`. Functions and messages are those of any native connection: `{:tcp, socket,
  data}` has what was decrypted. Traffic and deadlines count what is on the wire; deadlines begin when
  the handshake is done.

  The handshake is done before anybody accepts the connection, and has a deadline of its own. One that fails
  nobody hears of but telemetry, and the log at the level debug.

  When the peer ends the stream without saying so in TLS, `recv/3` is told `:closed` as ever; what ended
  the connection is `:truncated` in telemetry. What came and is no TLS, or was tampered with, is the error
  `:tls_alert`.

  `Reactor.reload_certificates/1` reads the files again, and `Reactor.update/2` takes others, for the
  connections that come.
  """

  @behaviour Reactor.Transport

  import Kernel, except: [send: 2]

  alias Reactor.{ConfigError, Listener, Native, Proxy, Systemd}
  alias Reactor.Transport.Native.Secure

  @limits [:max_connections, :overload, :max_connections_per_ip, :accept_rate, :going_away]

  @place [:ip, :port, :ipv6_v6only, :backlog, :reuseaddr, :reuseport, :num_listen_sockets]

  # How long a client waits before it tries again to come into a full backlog, in ms.
  @pause 10

  @impl true
  def listen(%Listener{} = listener) do
    with {:ok, fd} <- inherited(listener.fd),
         {:ok, tls} <- tls(listener) do
      listener
      |> Map.take([:protocol, :report_to | @place ++ @limits])
      # Its connections, and what was counted, go on with the new socket.
      |> Map.put(:previous, listener.socket)
      |> Map.put(:proxy, Proxy.to_native(listener.proxy))
      |> Map.put(:fd, fd)
      |> Map.put(:unix, Enum.into(listener.unix, %{mode: nil, owner: nil, group: nil}))
      |> Map.put(:tls, tls)
      |> Map.merge(listener.options)
      |> Native.listen()
      |> refused(listener)
    end
  end

  defp inherited({:systemd, wanted}), do: Systemd.fetch(wanted)
  defp inherited(fd), do: {:ok, fd}

  # What only trying shows of an option.
  defp refused({:error, {option, expected}}, listener) do
    {:error, ConfigError.hiding(option, Map.fetch!(listener, option), expected)}
  end

  defp refused(result, _listener), do: result

  defp tls(%{socket: nil, secure: secure}), do: Secure.server(secure)
  defp tls(%{secure: secure}), do: Secure.again(secure)

  @impl true
  def update(listening_socket, %Listener{} = listener) do
    options = listener |> Map.take(@limits) |> Map.merge(listener.options)
    Native.listener_update(listening_socket, options)
  end

  @doc false
  # Has a listening socket that is in use greet the connections that come with other certificates: what
  # Reactor.Transport.Native.Secure.server/1 gave.
  @spec secure(reference, {reference, timeout}) :: :ok
  def secure(listening_socket, tls), do: Native.listener_update(listening_socket, %{tls: tls})

  @impl true
  def address(listening_socket), do: Native.listener_address(listening_socket)

  @impl true
  def accept(listening_socket) do
    case Native.accept(listening_socket) do
      :wait ->
        receive do
          {:"$reactor_accept", ^listening_socket, socket} -> {:ok, socket}
          {:"$reactor_accept_error", ^listening_socket, reason} -> {:error, reason}
        end

      result ->
        result
    end
  end

  @impl true
  def drain(listening_socket), do: Native.listener_drain(listening_socket)

  # The loops know which connections are idle.
  @impl true
  def drain_handler(_handler, _listener), do: :ok

  @impl true
  def close_listener(listening_socket), do: Native.listener_close(listening_socket)

  @impl true
  def connect(address, port, options, timeout) do
    proxy = Proxy.to_native(options[:proxy])
    options = Map.merge(options, %{address: address, port: port, proxy: proxy})

    case address do
      {:local, _path} ->
        connect_local(options, if(timeout == :infinity, do: :infinity, else: now() + timeout))

      _ip ->
        connect_net(options, timeout)
    end
  end

  defp connect_net(options, timeout) do
    case Native.connect(options) do
      {:wait, socket} -> connected(socket, timeout)
      {:error, reason} -> {:error, reason}
    end
  end

  # The kernel refuses whom a full backlog has no room for, and does not say when there is some.
  defp connect_local(options, deadline) do
    case {Native.connect_local(options), left(deadline)} do
      {{:wait, socket}, left} ->
        connected(socket, left)

      {{:error, :eagain}, 0} ->
        {:error, :timeout}

      {{:error, :eagain}, left} ->
        Process.sleep(min(left, @pause))
        connect_local(options, deadline)

      {{:error, reason}, _left} ->
        {:error, reason}
    end
  end

  defp connected(socket, timeout) do
    receive do
      {:"$reactor_connect", ^socket, :ok} -> {:ok, socket}
      {:"$reactor_connect", ^socket, {:error, reason}} -> {:error, reason}
    after
      timeout ->
        Native.close(socket)
        flush_connect(socket)
        {:error, :timeout}
    end
  end

  # The answer may have been sent before the close; after it none is.
  defp flush_connect(socket) do
    receive do
      {:"$reactor_connect", ^socket, _result} -> :ok
    after
      0 -> :ok
    end
  end

  @impl true
  def recv(socket, length, timeout) do
    case Native.recv(socket, length) do
      id when is_integer(id) -> received(id, socket, timeout)
      result -> result
    end
  end

  # The answer names the socket by its number.
  defp received(id, socket, timeout) do
    receive do
      {:"$reactor_data", ^id, data} -> {:ok, data}
      {:"$reactor_recv_error", ^id, reason} -> {:error, reason}
    after
      timeout ->
        case Native.recv_cancel(socket) do
          :ok -> {:error, :timeout}
          # The data was faster than the cancelling: it must not be lost, or arrive as a stray message.
          :sent -> received(id, socket, :infinity)
        end
    end
  end

  @impl true
  def send(socket, data) do
    case Native.send(socket, data) do
      :ok -> :ok
      :wait -> sent(socket, patience(socket))
      :again -> send_again(socket, data, patience(socket))
      {:error, reason} -> {:error, reason}
    end
  end

  # Nothing of it was taken: it is sent when there is room.
  defp send_again(socket, data, patience) do
    with :ok <- sent(socket, patience) do
      case Native.send(socket, data) do
        :wait -> sent(socket, patience)
        :again -> send_again(socket, data, patience)
        result -> result
      end
    end
  end

  # How long this call may wait for room: until when, and whether it then closes. It is asked for only by
  # a call that must wait.
  defp patience(socket) do
    case Native.send_timeout(socket) do
      {:infinity, close?} -> {:infinity, close?}
      {timeout, close?} -> {now() + timeout, close?}
    end
  end

  defp sent(socket, {deadline, close?}) do
    receive do
      {:"$reactor_sent", ^socket, result} -> result
    after
      left(deadline) ->
        case Native.send_cancel(socket) do
          :ok ->
            if close?, do: Native.close(socket)
            {:error, :timeout}

          # The answer was faster than the cancelling.
          :sent ->
            sent(socket, {:infinity, close?})
        end
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)

  @impl true
  def file(socket, path, offset, length) do
    with {:ok, file, _size} <- Native.file_open(path) do
      send_file(socket, file, offset, length, 0)
    end
  end

  # What one call asks for at most: the kernel sends no more at a time.
  @file_part 0x7FFF_0000

  defp send_file(_socket, _file, _offset, 0, done), do: {:ok, done}

  defp send_file(socket, file, offset, left, done) do
    # An atom is above every number.
    case Native.file_send(socket, file, offset, min(left, @file_part)) do
      {:ok, 0} ->
        {:ok, done}

      {:ok, n} ->
        left = if left == :all, do: :all, else: left - n
        send_file(socket, file, offset + n, left, done + n)

      :wait ->
        with :ok <- sent(socket, patience(socket)) do
          send_file(socket, file, offset, left, done)
        end

      {:error, reason} ->
        {:error, reason}
    end
  end

  @impl true
  def setopts(socket, options), do: Native.setopts(socket, options)

  @impl true
  def getopts(socket), do: Native.getopts(socket)

  @impl true
  def statistics(socket), do: Native.statistics(socket)

  # As gen_tcp does it: nothing may arrive while the socket changes hands, and what has arrived goes with it.
  @impl true
  def controlling_process(socket, pid) do
    case Native.getopts(socket) do
      {:ok, %{active: false}} ->
        Native.controlling_process(socket, pid)

      {:ok, %{active: active}} ->
        with :ok <- Native.setopts(socket, %{active: false}) do
          hand_over(socket, pid, active)
        end

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp hand_over(socket, pid, active) do
    still_active =
      Reactor.Transport.forward(
        socket,
        pid,
        active,
        {:tcp, :tcp_error, :tcp_closed, :tcp_passive}
      )

    case Native.controlling_process(socket, pid) do
      :ok ->
        activate(socket, still_active)

      {:error, reason} ->
        activate(socket, active)
        {:error, reason}
    end
  end

  defp activate(_socket, false), do: :ok
  defp activate(socket, active), do: Native.setopts(socket, %{active: active})

  @impl true
  def local(socket), do: Native.local(socket)

  @impl true
  def remote(socket), do: Native.remote(socket)

  @impl true
  def peer_credentials(socket), do: Native.peer_credentials(socket)

  @impl true
  def shutdown(socket, how), do: Native.shutdown(socket, how)

  @impl true
  def close(socket), do: Native.close(socket)

  @impl true
  def negotiated_protocol(socket), do: Native.tls_alpn(socket)

  @impl true
  def peer_certificate(socket) do
    with {:ok, [certificate | _]} <- peer_certificates(socket), do: {:ok, certificate}
  end

  @impl true
  def peer_certificates(socket) do
    case Native.tls_peer_chain(socket) do
      {:ok, []} -> {:error, :no_peercert}
      result -> result
    end
  end

  @impl true
  def tls_info(socket) do
    case Native.tls_info(socket) do
      {:ok, nil} -> {:error, :not_secure}
      result -> result
    end
  end
end
