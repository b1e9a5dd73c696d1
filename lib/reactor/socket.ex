defmodule Reactor.Socket do
  @moduledoc """
  What can be done with a connection.

  Every function takes a `t:Reactor.Connection.t/0`, or the bare socket that the messages of an
  active connection carry. Sizes are in bytes, times in milliseconds.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.send!(connection, ["hello", ?\\s, "there"])
      iex> Reactor.Socket.recv!(connection, 11)
      "hello there"
      iex> Reactor.Socket.close(connection)
      iex> Reactor.stop(server)
      :ok

  The functions that end in `!` raise `Reactor.Socket.Error` where the others return
  `{:error, reason}`. A reason is `:closed` (by the peer, by an error, or here), `:timeout`, or a name as in
  `:inet`; with TLS it can also be `:tls_alert` or `{:tls_alert, {name, text}}`. An argument that makes no sense raises
  `ArgumentError`, which says what would; a wrong option is `{:error, %Reactor.ConfigError{}}`.

  ## Active and passive

  A connection begins passive: `recv/3` asks for data, and the peer is slowed down
  when nobody asks. `active!/2` has data sent to the owner instead: `{:tcp, socket, data}`, and
  `{:tcp_closed, socket}` at the end. With `true` nothing slows the peer down but the speed of this machine; with
  `:once` or a number that many messages come. The last of a number is followed by
  `{:tcp_passive, socket}`. On a TLS connection of OTP's `:ssl` the messages are `{:ssl, socket, data}`,
  `{:ssl_closed, socket}`, `{:ssl_error, socket, reason}` and `{:ssl_passive, socket}`.

  ## Datagrams

  The connection of a listener with `protocol: :udp` is its socket: `recv_from/2` and `send_to/3` take the
  place of `recv/3` and `send/2`, and the messages of an active one are `{:udp, socket, {ip, port}, data}`,
  `{:udp_passive, socket}`, `{:udp_error, socket, reason}`, which does not end it, and `{:udp_closed, socket}`.
  See `Reactor.Listener`.

  ## Framing

  With `packet: 1`, `2` or `4` each packet has a length header of so many bytes, big-endian: `send/2` adds
  it, `recv/3` and active mode take it off. With `packet: :line` each message is a line, its newline
  included. A packet above `:packet_size` ends the connection with `:emsgsize`, before it is received.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port, packet: 2)
      iex> Reactor.Socket.send!(connection, "one")
      iex> Reactor.Socket.send!(connection, "two")
      iex> {Reactor.Socket.recv!(connection), Reactor.Socket.recv!(connection)}
      {"one", "two"}
      iex> Reactor.stop(server)
      :ok
  """

  import Kernel, except: [send: 2]

  alias Reactor.{ConfigError, Connection, Socket, Transport}

  @type t :: Connection.t() | Transport.socket()
  @type reason :: Transport.reason()

  defguardp is_count(value) when is_integer(value) and value >= 0

  # As much as a timer of the emulator takes.
  defguardp is_timeout(value) when value == :infinity or value in 0..4_294_967_295

  @doc """
  Receives data.

  With a `length` above 0 exactly that many bytes; with 0 (the default) what there is, at least one
  byte. On a framed connection one packet, and the length must be 0. The data has neither header
  nor footer, save a line's newline.

  Only one process at a time may receive. Errors: `:closed` at the end of the stream, `:timeout` (the data that has come
  stays for the next call), `:einval` in active mode, `:ealready` if another process receives,
  `:emsgsize` for a packet above `:packet_size`, `:enomem` for a length above 64 MiB. A connection that a
  deadline cuts meanwhile answers `:timeout` too, and `:closed` from then on.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.recv(connection, 0, 10)
      {:error, :timeout}
      iex> Reactor.Socket.recv(connection, -1)
      ** (ArgumentError) expected a length that is 0 (for what there is) or a number of bytes, got: -1
      iex> Reactor.stop(server)
      :ok
  """
  @spec recv(t, non_neg_integer, timeout) :: {:ok, binary} | {:error, reason}
  def recv(connection, length \\ 0, timeout \\ :infinity)

  def recv(connection, length, timeout) when is_count(length) and is_timeout(timeout) do
    call(connection, :recv, [length, timeout])
  end

  def recv(_connection, length, timeout) when is_count(length) do
    wrong("a timeout that is :infinity or a number of milliseconds up to 4294967295", timeout)
  end

  def recv(_connection, length, _timeout) do
    wrong("a length that is 0 (for what there is) or a number of bytes", length)
  end

  @doc """
  Receives data as `recv/3` does, and returns `nil` at the end of the stream.
  """
  @spec recv!(t, non_neg_integer, timeout) :: binary | nil
  def recv!(connection, length \\ 0, timeout \\ :infinity) do
    case recv(connection, length, timeout) do
      {:ok, data} -> data
      {:error, :closed} -> nil
      {:error, reason} -> raise Socket.Error, operation: :recv, reason: reason
    end
  end

  @doc """
  Sends data; on a framed connection it gets its header.

  Returns once the data is with the kernel or in the connection's queue. If that holds more than
  `:high_watermark`, the caller waits until it holds less than `:low_watermark`, at most
  `:send_timeout` ms.

  Errors: `:closed`; `:timeout`, after which it is unknown how much of the data the peer will get, so that
  closing is what is left to do (`:send_timeout_close` does it); `:emsgsize` for data that the
  connection's header cannot count.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.send(connection, ["he", [?l, "lo"]])
      :ok
      iex> Reactor.Socket.send(connection, :hello)
      ** (ArgumentError) expected data that is iodata (a binary, or a list of binaries and bytes), got: :hello
      iex> Reactor.stop(server)
      :ok
  """
  @spec send(t, iodata) :: :ok | {:error, reason}
  def send(connection, data) when is_binary(data) do
    call(connection, :send, [data])
  end

  # What is in a list is seen by who takes it apart.
  def send(connection, data) when is_list(data) do
    socket = socket(connection)
    transport = Transport.of(socket)

    try do
      transport.send(socket, data)
    rescue
      ArgumentError ->
        Transport.check(socket)
        not_data()
    else
      {:error, :einval} -> if iodata?(data), do: {:error, :einval}, else: not_data()
      result -> result
    end
  end

  def send(_connection, data) when is_atom(data), do: wrong("data that is #{iodata()}", data)
  def send(_connection, _data), do: not_data()

  defp iodata?(data) do
    _ = IO.iodata_length(data)
    true
  rescue
    ArgumentError -> false
  end

  # Without the list: it is somebody's payload.
  @spec not_data() :: no_return
  defp not_data, do: raise(ArgumentError, "expected data that is #{iodata()}")

  defp iodata, do: "iodata (a binary, or a list of binaries and bytes)"

  @doc """
  Sends data as `send/2` does, or raises.
  """
  @spec send!(t, iodata) :: :ok
  def send!(connection, data), do: bang(send(connection, data), :send)

  @doc """
  Receives one datagram, on the connection of a listener with `protocol: :udp`, and says who sent it.

  Datagrams that come while nobody asks stay in the kernel's buffer (`:recbuf`); those that find that full
  are lost. One may be empty.

  Only one process at a time may receive. Errors: `:closed` when the server drains or is suspended, or after
  `close/1`; `:timeout`; `:einval` in active mode; `:ealready` if another process receives; `:eopnotsupp` on a
  connection of another kind; and what the network says about a peer, as `:econnrefused`, after which more
  can be received.

      iex> {:ok, server} = Reactor.start(MyApp.UdpEcho, protocol: :udp, ip: :loopback)
      iex> {:ok, client} = :gen_udp.open(0, [:binary, active: false])
      iex> :gen_udp.send(client, {127, 0, 0, 1}, Reactor.info(server).port, "hello")
      iex> {:ok, {_ip, _port, "hello"}} = :gen_udp.recv(client, 0, 5_000)
      iex> Reactor.stop(server)
      :ok

  where the handler is

      def handle(connection) do
        with {:ok, peer, data} <- Reactor.Socket.recv_from(connection) do
          Reactor.Socket.send_to(connection, peer, data)
          handle(connection)
        end
      end
  """
  @spec recv_from(t, timeout) :: {:ok, Transport.address(), binary} | {:error, reason}
  def recv_from(connection, timeout \\ :infinity)

  def recv_from(connection, timeout) when is_timeout(timeout) do
    datagrams(connection, :recv_from, [timeout])
  end

  def recv_from(_connection, timeout) do
    wrong("a timeout that is :infinity or a number of milliseconds up to 4294967295", timeout)
  end

  @doc """
  Sends one datagram to an address, from the connection of a listener with `protocol: :udp`.

  It is tried at once. If the kernel has no room it is queued, and if 256 are queued already the caller
  waits until there is room, at most `:send_timeout` ms. `:ok` does not say that it arrives. Any process may send.

  Errors: `:closed`, `:timeout`; `:emsgsize` if it is too large (65,507 bytes fit over IPv4); `:eopnotsupp` on a
  connection of another kind; and what the kernel says about the address, as `:enetunreach`, `:eacces`, or
  `:eafnosupport` for one of the other family. None of them ends the connection.
  """
  @spec send_to(t, Transport.address(), iodata) :: :ok | {:error, reason}
  def send_to(connection, {ip, port} = peer, data)
      when (is_binary(data) or is_list(data)) and port in 1..65_535 do
    if :inet.is_ip_address(ip) and (is_binary(data) or iodata?(data)) do
      datagrams(connection, :send_to, [peer, data])
    else
      if iodata?(data), do: not_a_peer(peer), else: not_data()
    end
  end

  def send_to(_connection, {_ip, port} = peer, _data) when port not in 1..65_535,
    do: not_a_peer(peer)

  def send_to(_connection, {_ip, _port}, data) when is_atom(data) do
    wrong("data that is #{iodata()}", data)
  end

  def send_to(_connection, {_ip, _port}, _data), do: not_data()
  def send_to(_connection, peer, _data), do: not_a_peer(peer)

  @spec not_a_peer(term) :: no_return
  defp not_a_peer(peer), do: wrong("{ip, port} with an address tuple and a port from 1", peer)

  defp datagrams(connection, function, arguments) do
    socket = socket(connection)

    case Transport.of(socket) do
      Transport.Native.Datagrams -> call(socket, function, arguments)
      _streams -> {:error, :eopnotsupp}
    end
  end

  @doc """
  Has data sent to the owner as messages: all (`true`), the next (`:once`), or as many as said.
  """
  @spec active(t, Socket.Options.active()) :: :ok | {:error, reason | ConfigError.t()}
  def active(connection, mode \\ true) do
    with :ok <- Socket.Options.option(:active, mode), do: setopts(connection, %{active: mode})
  end

  @doc """
  Does as `active/2` does, or raises.
  """
  @spec active!(t, Socket.Options.active()) :: :ok
  def active!(connection, mode \\ true), do: bang(active(connection, mode), :active)

  @doc """
  Ends active mode, so that `recv/3` can be used. Messages that were sent remain in the mailbox.
  """
  @spec passive!(t) :: :ok
  def passive!(connection), do: bang(active(connection, false), :passive)

  @doc """
  The connection's options, as a map. See `Reactor.Socket.Options`.
  """
  @spec options(t) :: {:ok, Socket.Options.t()} | {:error, reason}
  def options(connection) do
    call(connection, :getopts, [])
  end

  @doc """
  Sets options of the connection, any of `Reactor.Socket.Options`.

  Returns `{:error, %Reactor.ConfigError{}}` for a wrong one, and then sets none.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.options(connection, packet: :line, idle_timeout: 60_000)
      :ok
      iex> Reactor.stop(server)
      :ok
  """
  @spec options(t, [Socket.Options.option()]) ::
          :ok | {:error, reason | ConfigError.t()}
  def options(connection, options) do
    socket = socket(connection)

    with {:ok, options} <- Socket.Options.validate(options),
         :ok <- Socket.Options.supported(options, Transport.of(socket)),
         :ok <- together(socket, options) do
      setopts(socket, options)
    end
  end

  # With what is set already: a low mark alone may be above the high one.
  defp together(socket, options)
       when is_map_key(options, :low_watermark) or is_map_key(options, :high_watermark) do
    with {:ok, current} <- call(socket, :getopts, []) do
      Socket.Options.together(Map.merge(current, options))
    end
  end

  defp together(_socket, _options), do: :ok

  @doc """
  Sets the framing: `:raw` for none, `:line`, or a length header of 1, 2 or 4 bytes (big-endian).
  """
  @spec packet(t, Socket.Options.packet()) :: :ok | {:error, reason | ConfigError.t()}
  def packet(connection, packet), do: options(connection, packet: packet)

  @doc """
  Makes `pid` the owner of the connection. The caller must be the owner.

  Messages of the connection that wait in the caller's mailbox go along, and the mode stays.
  Afterwards the connection closes when `pid` ends. Raises with `:not_owner`, `:badarg` or `:closed`.
  """
  @spec process!(t, pid) :: :ok
  def process!(connection, pid) when is_pid(pid) do
    bang(call(connection, :controlling_process, [pid]), :process)
  end

  def process!(_connection, other), do: wrong("a pid", other)

  @doc """
  The local address and port; `{:local, path}` of a Unix socket.
  """
  @spec local(t) :: {:ok, Transport.address()} | {:error, reason}
  def local(connection) do
    call(connection, :local, [])
  end

  @doc """
  The peer's address and port; `{:local, path}` of a Unix socket, mostly `{:local, ""}`, since few clients are
  bound. Errors: `:enotconn` or `:closed`.
  """
  @spec remote(t) :: {:ok, Transport.address()} | {:error, reason}
  def remote(connection) do
    call(connection, :remote, [])
  end

  @doc """
  What went over the connection so far, and how: see `t:Reactor.Transport.statistics/0`.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.send!(connection, "hello")
      iex> Reactor.Socket.recv!(connection, 5)
      iex> {:ok, %{sent: 5, received: 5, queued: 0}} = Reactor.Socket.statistics(connection)
      iex> Reactor.stop(server)
      :ok

  Errors: `:closed`.
  """
  @spec statistics(t) :: {:ok, Transport.statistics()} | {:error, reason}
  def statistics(connection) do
    call(connection, :statistics, [])
  end

  @doc """
  Sends a file, without reading it into memory where the transport can (`sendfile`; with TLS none can, and
  it is read a part at a time).

  Options:

    * `:offset` - where in the file to begin, in bytes; default 0
    * `:length` - how many bytes to send, or `:all` (the default) for what there is from there on

  Returns how many bytes were sent, which is less than `:length` if the file ends before. The bytes go after
  what was sent before, as they are: without a header, hence not on a connection with `packet: 1`, `2` or `4`. While it
  waits for a slow peer the caller is blocked, and no scheduler. With the transport `:native`
  `:send_timeout` counts from the last byte that found room; `:tcp` does not apply it to files.

  Errors: those of `send/2`; those of opening and reading the file, as `:enoent`, `:eacces`, `:eisdir`; `:einval`
  on a connection whose packets have a header; `%Reactor.ConfigError{}` for a wrong option.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.file(connection, "mix.exs", length: 9)
      {:ok, 9}
      iex> Reactor.Socket.recv!(connection, 9)
      "defmodule"
      iex> Reactor.Socket.file(connection, "nowhere.txt")
      {:error, :enoent}
      iex> Reactor.stop(server)
      :ok
  """
  @spec file(t, Path.t(), offset: non_neg_integer, length: non_neg_integer | :all) ::
          {:ok, non_neg_integer} | {:error, reason | ConfigError.t()}
  def file(connection, path, options \\ []) do
    socket = socket(connection)

    try do
      Socket.File.send(socket, path, options)
    rescue
      error in ArgumentError ->
        Transport.check(socket)
        reraise(error, __STACKTRACE__)
    end
  end

  @doc """
  The certificate that the peer has shown, DER-encoded.

  Errors: `:no_peercert` if it has shown none, as clients seldom do, and without TLS; `:closed`.
  """
  @spec peer_certificate(t) :: {:ok, binary} | {:error, reason}
  def peer_certificate(connection) do
    call(connection, :peer_certificate, [])
  end

  @doc """
  The certificates that the peer has shown, DER-encoded: its own, then those that it was signed with.

  A connection of `:ssl` knows only the first. Errors: as of `peer_certificate/1`.
  """
  @spec peer_certificates(t) :: {:ok, [binary, ...]} | {:error, reason}
  def peer_certificates(connection) do
    call(connection, :peer_certificates, [])
  end

  @doc """
  What both sides of a TLS connection have agreed on: see `t:Reactor.Transport.tls_info/0`.

  Errors: `:not_secure` without TLS; `:closed`.
  """
  @spec tls_info(t) :: {:ok, Transport.tls_info()} | {:error, reason}
  def tls_info(connection) do
    call(connection, :tls_info, [])
  end

  @doc """
  Closes one direction, or both.

    * `:write` - the peer sees the end of the stream after all that was sent; what it
      sends can still be received. Sending is `{:error, :closed}` from now on.
    * `:read` - after what has come already the stream ends here; a process that waits in `recv/3` is told
      `{:error, :closed}`. What was sent before still reaches the peer.
    * `:read_write` (the default) - both.

  OTP's `:ssl` knows no half of a connection: there the peer sees the end of the stream, and everything that
  was sent before; but nothing comes any more from either side.

  Errors: `:closed`, `:enotconn`.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.send!(connection, "the last")
      iex> Reactor.Socket.shutdown(connection, :write)
      :ok
      iex> {Reactor.Socket.recv!(connection, 8), Reactor.Socket.recv!(connection)}
      {"the last", nil}
      iex> Reactor.Socket.shutdown(connection, :sideways)
      ** (ArgumentError) expected :read, :write or :read_write, got: :sideways
      iex> Reactor.stop(server)
      :ok
  """
  @spec shutdown(t, :read | :write | :read_write) :: :ok | {:error, reason}
  def shutdown(connection, how \\ :read_write)

  def shutdown(connection, how) when how in [:read, :write, :read_write] do
    call(connection, :shutdown, [how])
  end

  def shutdown(_connection, how), do: wrong(":read, :write or :read_write", how)

  @doc """
  Closes the connection, which may be closed already. What was sent before is still delivered.
  """
  @spec close(t) :: :ok
  def close(connection) do
    call(connection, :close, [])
  end

  defp setopts(connection, options) do
    call(connection, :setopts, [options])
  end

  # That a reference is no socket the native side finds out, and says no more than :badarg.
  defp call(connection, function, arguments) do
    socket = socket(connection)
    transport = Transport.of(socket)

    try do
      apply(transport, function, [socket | arguments])
    rescue
      error in ArgumentError ->
        Transport.check(socket)
        reraise(error, __STACKTRACE__)
    end
  end

  defp socket(%Connection{socket: socket}), do: socket
  defp socket(socket), do: socket

  defp bang(:ok, _operation), do: :ok

  defp bang({:error, %ConfigError{} = error}, _operation), do: raise(error)

  defp bang({:error, reason}, operation) do
    raise Socket.Error, operation: operation, reason: reason
  end

  @spec wrong(String.t(), term) :: no_return
  defp wrong(expected, value) do
    raise ArgumentError,
          "expected #{expected}, got: #{inspect(value, limit: 10, printable_limit: 100)}"
  end
end
