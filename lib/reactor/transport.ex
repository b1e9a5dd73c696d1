defmodule Reactor.Transport do
  @moduledoc """
  Who does the input and output of a server's connections.

    * `Reactor.Transport.Native` (`:native`, the default) - the event loops of this package
    * `Reactor.Transport.TCP` (`:tcp`) - OTP's `:gen_tcp`

  A socket belongs to the process that accepted or dialed it, until `c:controlling_process/2`
  gives it away; it closes when that process ends. In active mode the owner is sent
  `{:tcp, socket, data}`, `{:tcp_closed, socket}`, `{:tcp_error, socket, reason}` and
  `{:tcp_passive, socket}` by either transport.
  """

  alias Reactor.{Listener, Socket}

  @typedoc "A native handle, or a port of `:gen_tcp`."
  @type socket :: reference | :gen_tcp.socket()

  @type listening_socket :: reference | :gen_tcp.socket()

  @type address :: {:inet.ip_address(), :inet.port_number()}

  @typedoc "`:closed`, `:timeout`, or a POSIX name as in `:inet`."
  @type reason :: atom

  @doc "Opens a listening socket, which closes when the caller ends."
  @callback listen(Listener.t()) :: {:ok, listening_socket} | {:error, reason}

  @doc "The address that a listening socket is bound to."
  @callback address(listening_socket) :: {:ok, address} | {:error, reason}

  @doc "Waits for a connection, which the caller then owns."
  @callback accept(listening_socket) :: {:ok, socket} | {:error, reason}

  @doc "Stops accepting, and closes the connections that have nothing to do where it knows them."
  @callback drain(listening_socket) :: :ok

  @doc """
  Tells one handler of a draining listener that no more input will come, for a transport whose
  `c:drain/1` cannot.
  """
  @callback drain_handler(handler :: pid, Listener.t()) :: :ok

  @doc "Stops accepting. Connections are left alone."
  @callback close_listener(listening_socket) :: :ok

  @doc "Dials; the caller owns the socket. `timeout` is in milliseconds."
  @callback connect(:inet.ip_address(), :inet.port_number(), Socket.Options.t(), timeout) ::
              {:ok, socket} | {:error, reason}

  @doc "Receives `length` bytes, or what there is if that is 0; a packet, if the socket is framed."
  @callback recv(socket, length :: non_neg_integer, timeout) ::
              {:ok, binary} | {:error, reason}

  @doc "Sends; returns when the data is queued and the queue is not too long."
  @callback send(socket, iodata) :: :ok | {:error, reason}

  @callback setopts(socket, Socket.Options.t()) :: :ok | {:error, reason}
  @callback getopts(socket) :: {:ok, Socket.Options.t()} | {:error, reason}

  @doc "Gives the socket, and messages of it that wait in the caller's mailbox, to `pid`."
  @callback controlling_process(socket, pid) :: :ok | {:error, reason}

  @callback local(socket) :: {:ok, address} | {:error, reason}
  @callback remote(socket) :: {:ok, address} | {:error, reason}
  @callback shutdown(socket, :read | :write | :read_write) :: :ok | {:error, reason}
  @callback close(socket) :: :ok

  @doc """
  The module for the value of a `:transport` option.

      iex> Reactor.Transport.module(:tcp)
      {:ok, Reactor.Transport.TCP}

      iex> Reactor.Transport.module(:pigeon)
      :error
  """
  @spec module(term) :: {:ok, module} | :error
  def module(:native), do: {:ok, Reactor.Transport.Native}
  def module(:tcp), do: {:ok, Reactor.Transport.TCP}

  def module(module) when is_atom(module) and module != nil do
    if Code.ensure_loaded?(module) and function_exported?(module, :drain_handler, 2) do
      {:ok, module}
    else
      :error
    end
  end

  def module(_other), do: :error

  @doc """
  The module that works with a socket.
  """
  @spec of(socket) :: module
  def of(socket) when is_reference(socket), do: Reactor.Transport.Native
  def of(_port), do: Reactor.Transport.TCP
end
