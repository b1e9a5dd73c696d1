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
  `:inet`.

  ## Active and passive

  A connection begins passive: `recv/3` asks for data, and the peer is slowed down
  when nobody asks. `active!/2` has data sent to the owner instead: `{:tcp, socket, data}`, and
  `{:tcp_closed, socket}` at the end. With `true` nothing slows the peer down but the speed of this machine; with
  `:once` or a number that many messages come. The last of a number is followed by
  `{:tcp_passive, socket}`.
  """

  import Kernel, except: [send: 2]

  alias Reactor.{Connection, Socket, Transport}

  @type t :: Connection.t() | Transport.socket()
  @type reason :: Transport.reason()

  @doc """
  Receives data.

  With a `length` above 0 exactly that many bytes; with 0 (the default) what there is, at least one
  byte. On a framed connection one packet, and the length must be 0. The data has neither header
  nor footer, save a line's newline.

  Only one process at a time may receive. Errors: `:closed` at the end of the stream, `:timeout` (the data that has come
  stays for the next call), `:einval` in active mode, `:ealready` if another process receives,
  `:emsgsize` for a packet above `:packet_size`.
  """
  @spec recv(t, non_neg_integer, timeout) :: {:ok, binary} | {:error, reason}
  def recv(connection, length \\ 0, timeout \\ :infinity) do
    socket = socket(connection)
    Transport.of(socket).recv(socket, length, timeout)
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
  `:high_watermark`, the caller waits until it holds less than `:low_watermark`. Errors: `:closed`.
  """
  @spec send(t, iodata) :: :ok | {:error, reason}
  def send(connection, data) do
    socket = socket(connection)
    Transport.of(socket).send(socket, data)
  end

  @doc """
  Sends data as `send/2` does, or raises.
  """
  @spec send!(t, iodata) :: :ok
  def send!(connection, data), do: bang(send(connection, data), :send)

  @doc """
  Has data sent to the owner as messages: all (`true`), the next (`:once`), or as many as said.
  """
  @spec active(t, Socket.Options.active()) :: :ok | {:error, reason}
  def active(connection, mode \\ true), do: setopts(connection, %{active: mode})

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
    socket = socket(connection)
    Transport.of(socket).getopts(socket)
  end

  @doc """
  Sets options of the connection, any of `Reactor.Socket.Options`.

  Returns `{:error, %Reactor.ConfigError{}}` for a wrong one, and then sets none.
  """
  @spec options(t, [Socket.Options.option()]) ::
          :ok | {:error, reason | Reactor.ConfigError.t()}
  def options(connection, options) do
    with {:ok, options} <- Socket.Options.validate(options) do
      setopts(connection, options)
    end
  end

  @doc """
  Sets the framing: `:raw` for none, `:line`, or a length header of 1, 2 or 4 bytes (big-endian).
  """
  @spec packet(t, Socket.Options.packet()) :: :ok | {:error, reason | Reactor.ConfigError.t()}
  def packet(connection, packet), do: options(connection, packet: packet)

  @doc """
  Makes `pid` the owner of the connection. The caller must be the owner.

  Messages of the connection that wait in the caller's mailbox go along, and the mode stays.
  Afterwards the connection closes when `pid` ends. Raises with `:not_owner`, `:badarg` or `:closed`.
  """
  @spec process!(t, pid) :: :ok
  def process!(connection, pid) do
    socket = socket(connection)
    bang(Transport.of(socket).controlling_process(socket, pid), :process)
  end

  @doc """
  The local address and port.
  """
  @spec local(t) :: {:ok, Transport.address()} | {:error, reason}
  def local(connection) do
    socket = socket(connection)
    Transport.of(socket).local(socket)
  end

  @doc """
  The peer's address and port. Errors: `:enotconn` or `:closed`.
  """
  @spec remote(t) :: {:ok, Transport.address()} | {:error, reason}
  def remote(connection) do
    socket = socket(connection)
    Transport.of(socket).remote(socket)
  end

  @doc """
  Closes one direction, or both: the peer then sees the end of the stream after what was sent.
  """
  @spec shutdown(t, :read | :write | :read_write) :: :ok | {:error, reason}
  def shutdown(connection, how \\ :read_write) when how in [:read, :write, :read_write] do
    socket = socket(connection)
    Transport.of(socket).shutdown(socket, how)
  end

  @doc """
  Closes the connection, which may be closed already. What was sent before is still delivered.
  """
  @spec close(t) :: :ok
  def close(connection) do
    socket = socket(connection)
    Transport.of(socket).close(socket)
  end

  defp setopts(connection, options) do
    socket = socket(connection)
    Transport.of(socket).setopts(socket, options)
  end

  defp socket(%Connection{socket: socket}), do: socket
  defp socket(socket), do: socket

  defp bang(:ok, _operation), do: :ok

  defp bang({:error, reason}, operation) do
    raise Socket.Error, operation: operation, reason: reason
  end
end
