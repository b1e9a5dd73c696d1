defmodule Reactor.Transport do
  @moduledoc """
  Who does the input and output of a server's connections.

    * `Reactor.Transport.Native` (`:native`, the default) - the event loops of this package, with TLS by rustls
    * `Reactor.Transport.TCP` (`:tcp`) - OTP's `:gen_tcp`
    * `Reactor.Transport.SSL` (`:ssl`) - OTP's `:ssl`

  A socket belongs to the process that accepted or dialed it, until `c:controlling_process/2`
  gives it away; it closes when that process ends. In active mode the owner is sent
  `{:tcp, socket, data}`, `{:tcp_closed, socket}`, `{:tcp_error, socket, reason}` and
  `{:tcp_passive, socket}`; by `:ssl` the same with `:ssl`, `:ssl_closed`, `:ssl_error` and `:ssl_passive`.

  ## One of your own

  A module of your own can be a listener's `:transport`, and that of `Reactor.connect/3`, if it has the
  callbacks below that are not optional: those of a listening socket, and `c:connect/4`. It says how
  connections are made. What is done with one afterwards depends on its socket alone: `c:accept/1` and `c:connect/4`
  must return one of `:gen_tcp` or `:ssl`, or a native one, and the callbacks for connections of a module
  of your own are never called.
  """

  alias Reactor.{Listener, Socket}

  @typedoc """
  A native handle, a port of `:gen_tcp`, or a socket of `:ssl`; `{:udp, handle}` for datagrams.
  """
  @type socket :: reference | {:udp, reference} | :gen_tcp.socket() | :ssl.sslsocket()

  @type listening_socket :: reference | :gen_tcp.socket() | :ssl.sslsocket()

  @typedoc "Of a Unix socket it is its path, or `\"\"` for one that was never bound."
  @type address :: {:inet.ip_address(), :inet.port_number()} | {:local, binary}

  @typedoc """
  `:closed`, `:timeout`, or a POSIX name as in `:inet`. With TLS also `{:tls_alert, {name, text}}`,
  which says what one side has against the other; on a native connection that is open, `:tls_alert` alone.
  """
  @type reason :: atom | {:tls_alert, {atom, charlist}}

  @typedoc """
  Of one connection, since it was made:

    * `:received`, `:sent` - bytes; with TLS those on the wire
    * `:reads`, `:writes` - how many pieces they came and went in
    * `:queued` - bytes that were sent and that the kernel has not taken yet
    * `:age` - ms since it was accepted or dialed; `nil` where the transport does not know
  """
  @type statistics :: %{
          received: non_neg_integer,
          sent: non_neg_integer,
          reads: non_neg_integer,
          writes: non_neg_integer,
          queued: non_neg_integer,
          age: non_neg_integer | nil
        }

  @typedoc """
  What both sides of a TLS connection have agreed on:

    * `:version` - `:"tlsv1.2"` or `:"tlsv1.3"`
    * `:cipher` - the cipher suite, by its IANA name
    * `:alpn` - the protocol, or `nil`
    * `:sni` - the name of the server that the client has asked for, or `nil`
    * `:resumed` - whether it goes on with the keys of an earlier connection
  """
  @type tls_info :: %{
          version: :"tlsv1.2" | :"tlsv1.3",
          cipher: String.t(),
          alpn: String.t() | nil,
          sni: String.t() | nil,
          resumed: boolean
        }

  @doc "Opens a listening socket, which closes when the caller ends."
  @callback listen(Listener.t()) ::
              {:ok, listening_socket} | {:error, reason | Reactor.ConfigError.t()}

  @doc """
  Has a listening socket that is in use take on the limits and the connections' options of a descriptor, for
  the connections that come.
  """
  @callback update(listening_socket, Listener.t()) :: :ok | {:error, reason}

  @doc "The address that a listening socket is bound to."
  @callback address(listening_socket) :: {:ok, address} | {:error, reason}

  @doc "Waits for a connection, which the caller then owns."
  @callback accept(listening_socket) :: {:ok, socket} | {:error, reason}

  @doc """
  Does what both sides must say to each other before there is a connection, in the process that
  accepted it. On an error the socket is closed.
  """
  @callback handshake(socket, Listener.t()) :: {:ok, socket} | {:error, reason}

  @doc "Stops accepting, and closes the connections that have nothing to do where it knows them."
  @callback drain(listening_socket) :: :ok

  @doc """
  Tells one handler of a draining listener that no more input will come, for a transport whose
  `c:drain/1` cannot.
  """
  @callback drain_handler(handler :: pid, Listener.t()) :: :ok

  @doc "Stops accepting. Connections are left alone."
  @callback close_listener(listening_socket) :: :ok

  @doc """
  Dials; the caller owns the socket. `timeout` is in milliseconds. The port of a Unix socket is 0.
  """
  @callback connect(
              :inet.ip_address() | {:local, binary},
              :inet.port_number(),
              Socket.Options.t(),
              timeout
            ) ::
              {:ok, socket} | {:error, reason | Reactor.ConfigError.t()}

  @doc "Receives `length` bytes, or what there is if that is 0; a packet, if the socket is framed."
  @callback recv(socket, length :: non_neg_integer, timeout) ::
              {:ok, binary} | {:error, reason}

  @doc "Sends; returns when the data is queued and the queue is not too long."
  @callback send(socket, iodata) :: :ok | {:error, reason}

  @doc """
  Sends `length` bytes of a file, or all there are, from an offset on; returns how many it were.
  """
  @callback file(socket, Path.t(), offset :: non_neg_integer, length :: non_neg_integer | :all) ::
              {:ok, non_neg_integer} | {:error, reason}

  @callback setopts(socket, Socket.Options.t()) :: :ok | {:error, reason}
  @callback getopts(socket) :: {:ok, Socket.Options.t()} | {:error, reason}

  @callback statistics(socket) :: {:ok, statistics} | {:error, reason}

  @doc "Gives the socket, and messages of it that wait in the caller's mailbox, to `pid`."
  @callback controlling_process(socket, pid) :: :ok | {:error, reason}

  @callback local(socket) :: {:ok, address} | {:error, reason}
  @callback remote(socket) :: {:ok, address} | {:error, reason}

  @doc "Who is at the other end of a Unix socket. `:eopnotsupp` for others."
  @callback peer_credentials(socket) :: {:ok, Reactor.Connection.credentials()} | {:error, reason}

  @callback shutdown(socket, :read | :write | :read_write) :: :ok | {:error, reason}
  @callback close(socket) :: :ok

  @doc "The protocol that was agreed on by ALPN, or `nil`."
  @callback negotiated_protocol(socket) :: String.t() | nil

  @doc "The peer's certificate, DER-encoded."
  @callback peer_certificate(socket) :: {:ok, binary} | {:error, reason}

  @doc "The peer's certificates, DER-encoded, its own first."
  @callback peer_certificates(socket) :: {:ok, [binary, ...]} | {:error, reason}

  @doc "What was agreed on; `{:error, :not_secure}` without TLS."
  @callback tls_info(socket) :: {:ok, tls_info} | {:error, reason}

  # Those that only the transports of this package are asked for, and update/2 and handshake/2.
  @optional_callbacks update: 2,
                      handshake: 2,
                      recv: 3,
                      send: 2,
                      file: 4,
                      setopts: 2,
                      getopts: 1,
                      statistics: 1,
                      controlling_process: 2,
                      local: 1,
                      remote: 1,
                      peer_credentials: 1,
                      shutdown: 2,
                      close: 1,
                      negotiated_protocol: 1,
                      peer_certificate: 1,
                      peer_certificates: 1,
                      tls_info: 1

  # What a module must have to be one.
  @required [
    listen: 1,
    address: 1,
    accept: 1,
    drain: 1,
    drain_handler: 2,
    close_listener: 1,
    connect: 4
  ]

  @names %{
    native: Reactor.Transport.Native,
    tcp: Reactor.Transport.TCP,
    ssl: Reactor.Transport.SSL
  }

  @modules Map.new(@names, fn {name, module} -> {module, name} end)

  @doc """
  The module for the value of a `:transport` option.

      iex> Reactor.Transport.module(:tcp)
      {:ok, Reactor.Transport.TCP}

      iex> Reactor.Transport.module(:pigeon)
      :error
  """
  @spec module(term) :: {:ok, module} | :error
  def module(name) when is_map_key(@names, name), do: Map.fetch(@names, name)

  def module(module) when is_atom(module) and module != nil do
    if Code.ensure_loaded?(module) and
         Enum.all?(@required, fn {name, arity} -> function_exported?(module, name, arity) end) do
      {:ok, module}
    else
      :error
    end
  end

  def module(_other), do: :error

  @doc """
  The short name of a transport's module, if it has one.

      iex> Reactor.Transport.name(Reactor.Transport.TCP)
      :tcp
  """
  @spec name(module) :: atom
  def name(module), do: Map.get(@modules, module, module)

  @doc false
  # True for the sockets of the event loops, which count, list and close them.
  defguard is_native(socket)
           when is_reference(socket) or
                  (tuple_size(socket) == 2 and elem(socket, 0) == :udp)

  @doc """
  The module that works with a socket. Raises `ArgumentError` if it is none.
  """
  @spec of(socket) :: module
  def of(socket) when is_reference(socket), do: Reactor.Transport.Native
  def of({:udp, handle}) when is_reference(handle), do: Reactor.Transport.Native.Datagrams
  def of(socket) when is_port(socket), do: Reactor.Transport.TCP
  # The size of this record differs between OTP releases.
  def of(socket) when elem(socket, 0) == :sslsocket, do: Reactor.Transport.SSL
  # A socket of gen_tcp's that was opened with `inet_backend: :socket`.
  def of({:"$inet", _module, _state}), do: Reactor.Transport.TCP

  def of(other), do: wrong(other)

  @doc false
  # A reference may be anything; to look at each costs more than to look when something went wrong.
  @spec check(term) :: true
  def check(socket) when is_reference(socket) do
    _id = Reactor.Native.id(socket)
    true
  rescue
    ArgumentError -> wrong(socket)
  end

  def check({:udp, handle} = socket) when is_reference(handle) do
    _id = Reactor.Native.datagram_id(handle)
    true
  rescue
    ArgumentError -> wrong(socket)
  end

  def check(socket), do: is_atom(of(socket))

  @spec wrong(term) :: no_return
  defp wrong(other) do
    raise ArgumentError,
          "expected a Reactor.Connection, or the socket of one (a native handle, a port of " <>
            ":gen_tcp or an :ssl socket), got: " <> inspect(other, limit: 10)
  end

  @doc """
  Makes a connection of what `c:accept/1` returned, which with TLS is not one before its handshake.

  The caller must own the socket. On an error it is closed. Errors: `:closed`, `:timeout`, or
  `{:tls_alert, {name, text}}`.
  """
  @spec handshake(socket, Listener.t()) :: {:ok, socket} | {:error, reason}
  def handshake(socket, %Listener{transport: transport} = listener) do
    if function_exported?(transport, :handshake, 2) do
      transport.handshake(socket, listener)
    else
      {:ok, socket}
    end
  end

  @doc """
  The protocol that was agreed on by ALPN, or `nil`.
  """
  @spec negotiated_protocol(socket) :: String.t() | nil
  def negotiated_protocol(socket), do: of(socket).negotiated_protocol(socket)

  @doc """
  True if what goes over the socket is encrypted.
  """
  @spec secure?(socket) :: boolean
  def secure?(socket) when is_reference(socket), do: Reactor.Native.is_secure(socket)
  def secure?(socket), do: of(socket) == Reactor.Transport.SSL

  @doc false
  # Sends on what has arrived for a socket that changes hands, whose messages have these tags, and
  # gives the mode that is left. A message of :once that was on its way has used it up.
  @spec forward(socket, pid, Socket.Options.active(), {atom, atom, atom, atom}) ::
          Socket.Options.active()
  def forward(socket, pid, active, {data, error, closed, passive} = tags) do
    receive do
      {^data, ^socket, _data} = message ->
        send(pid, message)
        forward(socket, pid, if(active == :once, do: false, else: active), tags)

      {^error, ^socket, _reason} = message ->
        send(pid, message)
        forward(socket, pid, active, tags)

      {^closed, ^socket} = message ->
        send(pid, message)
        false

      {^passive, ^socket} = message ->
        send(pid, message)
        forward(socket, pid, false, tags)
    after
      0 -> active
    end
  end
end
