defmodule Reactor.Connection do
  @moduledoc """
  One accepted or dialed socket.

    * `:id` - a positive integer, unique in this VM's life
    * `:socket` - what the transport works with; `Reactor.Socket` takes the connection as well as this
    * `:listener` - the `t:Reactor.Listener.t/0` that accepted it, or `nil` if
      `Reactor.connect/3` made it

  The functions take it from any process, for as long as the connection is known to somebody.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Connection.env(connection, %{user: "joe"})
      :ok
      iex> Reactor.Connection.env(connection)
      %{user: "joe"}
      iex> {Reactor.Connection.listener(connection), Reactor.Connection.secure?(connection)}
      {nil, false}
      iex> Reactor.stop(server)
      :ok
  """

  alias Reactor.{Listener, Native, Proxy, Server, Transport}

  @enforce_keys [:id, :socket, :cell]
  # What `cell` keeps the environment in: the socket itself, or for one that is not native
  # something that lives as long as this term. `pending`: its handshake is still to be made.
  defstruct [:id, :socket, :listener, :cell, pending: false]

  @type t :: %__MODULE__{
          id: pos_integer,
          socket: Transport.socket(),
          listener: Listener.t() | nil,
          cell: reference,
          pending: boolean
        }

  @doc """
  Makes a connection of a socket that the caller owns: a native one, one of `:gen_tcp`, or one
  of `:ssl`.

  That is for an `c:Reactor.Behaviour.accept/1` with sockets of its own. Raises `ArgumentError` for what
  is none.
  """
  @spec new(Transport.socket(), Listener.t() | nil) :: t
  def new(socket, listener \\ nil)

  def new(socket, listener) when is_reference(socket) do
    Transport.check(socket)
    native(socket, listener)
  end

  def new({:udp, handle} = socket, listener) do
    Transport.check(socket)
    id = Native.datagram_id(handle)
    %__MODULE__{id: id, socket: socket, listener: listener, cell: Native.cell_new()}
  end

  def new(socket, listener) do
    Transport.check(socket)

    %__MODULE__{
      id: Native.next_id(),
      socket: socket,
      listener: listener,
      cell: Native.cell_new()
    }
  end

  defp native(socket, listener) do
    %__MODULE__{id: Native.id(socket), socket: socket, listener: listener, cell: socket}
  end

  @doc """
  Waits for the next connection of a listener; the caller owns it.

  It is what `c:Reactor.Behaviour.accept/1` does by default, and what a module that overrides it
  calls. With the transport `:ssl` the connection that it returns can be used after `handshake/1`.

  `{:error, :closed}` says that the listener is closed, `{:error, :retired}` that an acceptor less
  is wanted; other reasons are those of the operating system, as `:emfile`.
  """
  @spec accept(Listener.t()) :: {:ok, t} | {:error, Transport.reason()}
  def accept(%Listener{transport: transport} = listener) do
    case transport.accept(listener.socket) do
      {:ok, socket} when is_reference(socket) ->
        {:ok, native(socket, listener)}

      {:ok, socket} ->
        {:ok, %{new(socket, listener) | pending: function_exported?(transport, :handshake, 2)}}

      {:error, reason} ->
        {:error, reason}
    end
  end

  @doc """
  Makes the handshake of an accepted connection, if it needs one; the caller must own it.

  It is done by itself before `c:Reactor.Behaviour.start/1`, and there holds no acceptor up. An
  `c:Reactor.Behaviour.accept/1` that wants to speak to the peer calls it first. Returns the connection to
  use from then on. On an error it is closed; errors: `:closed`, `:timeout`, or `{:tls_alert, {name, text}}`.
  """
  @spec handshake(t) :: {:ok, t} | {:error, Transport.reason()}
  def handshake(%__MODULE__{pending: false} = connection), do: {:ok, connection}

  def handshake(%__MODULE__{socket: socket, listener: listener} = connection) do
    case Transport.handshake(socket, listener) do
      {:ok, socket} -> {:ok, %{connection | socket: socket, pending: false}}
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "The connection's number, unique in this VM's life."
  @spec id(t) :: pos_integer
  def id(%__MODULE__{id: id}), do: id

  @doc """
  The descriptor of the listener that accepted it, as it was then; `nil` for a dialed one.
  """
  @spec listener(t) :: Listener.t() | nil
  def listener(%__MODULE__{listener: listener}), do: listener

  @doc """
  The connection's environment: its listener's, see `Reactor.Listener.env/1`, until `env/2` gives it
  one of its own. That is dropped with the connection; of a native one when its owner ends.
  """
  @spec env(t) :: term
  def env(%__MODULE__{cell: cell, listener: listener}) do
    case Native.cell_get(cell) do
      {:ok, env} -> env
      :unset when listener == nil -> nil
      :unset -> Listener.env(listener)
    end
  end

  @doc """
  Gives the connection an environment of its own.
  """
  @spec env(t, term) :: :ok
  def env(%__MODULE__{cell: cell}, env), do: Native.cell_put(cell, env)

  @typedoc "A process, its effective user and its effective group."
  @type credentials :: %{pid: integer, uid: non_neg_integer, gid: non_neg_integer}

  @doc """
  Who is at the other end of a Unix socket: the process that connected, or, for a connection that was
  dialed, the one that listened, as they were at that time. The kernel vouches for it.

  A process of another container may have the number 0. Errors: `:eopnotsupp` if it is no Unix socket, with a transport
  other than `:native`, and where the system has nothing of the kind; `:closed`.
  """
  @spec peer_credentials(t) :: {:ok, credentials} | {:error, Transport.reason()}
  def peer_credentials(%__MODULE__{socket: socket}) do
    Transport.of(socket).peer_credentials(socket)
  end

  @doc """
  What a proxy said of the connection, in a header of the PROXY protocol: see `t:Reactor.Proxy.t/0`.

  `nil` if it said nothing; or nothing is believed of its peer, see the option `:proxy` of `Reactor.Listener`.
  The addresses that `Reactor.Socket` tells are those of the socket.
  """
  @spec proxy(t) :: Proxy.t() | nil
  def proxy(%__MODULE__{socket: socket}) when is_reference(socket),
    do: Native.proxy_header(socket)

  def proxy(%__MODULE__{}), do: nil

  @doc """
  True if what goes over it is encrypted.
  """
  @spec secure?(t) :: boolean
  def secure?(%__MODULE__{socket: socket}), do: Transport.secure?(socket)

  @doc """
  The protocol that both sides agreed on by ALPN, as `"h2"`, or `nil`.
  """
  @spec negotiated_protocol(t) :: String.t() | nil
  def negotiated_protocol(%__MODULE__{socket: socket}), do: Transport.negotiated_protocol(socket)

  @doc """
  True while the server of the connection drains, and when it has stopped: a handler that speaks a
  protocol with a farewell can say it, and should soon end.

  See also `:going_away` in `Reactor.Listener`.
  """
  @spec going_away?(t) :: boolean
  def going_away?(%__MODULE__{listener: nil}), do: false

  def going_away?(%__MODULE__{listener: %{id: board}}) do
    Server.state(board) == :draining
  rescue
    # Its table is gone.
    ArgumentError -> true
  end
end
