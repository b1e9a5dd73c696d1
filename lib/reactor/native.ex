defmodule Reactor.Native do
  @moduledoc false

  # The functions of the native library, priv/native/reactor_nif.so, and nothing else.
  # None blocks a scheduler; runtime_stop/1 runs on a dirty one. What each sends, and to whom,
  # is said where it is used: Reactor.Transport.Native, Reactor.Python.Context, Reactor.Runtime.

  # Loaded when first called, not by the compiler: the library may not be built yet.
  @compile {:autoload, false}
  @on_load :load

  @type socket :: reference
  @type listening_socket :: reference
  @type context :: reference
  @type reason :: atom
  @type address :: {:inet.ip_address(), :inet.port_number()}

  @doc false
  def load do
    path = path()

    with {:error, {_kind, text}} <- :erlang.load_nif(path, 0) do
      raise "Reactor's native library #{path}.so cannot be loaded: #{text}. " <>
              "It is built by `mix compile`."
    end
  end

  # Beside the ebin directory, for a tree that is not an installed application.
  defp path do
    case :code.priv_dir(:reactor) do
      {:error, :bad_name} ->
        __MODULE__
        |> :code.which()
        |> :filename.dirname()
        |> :filename.join(~c"../priv/native/reactor_nif")

      priv ->
        :filename.join(priv, ~c"native/reactor_nif")
    end
  end

  @spec runtime_start(%{
          loops: non_neg_integer,
          log_to: pid,
          log_level: :error | :warning | :info | :debug
        }) :: :ok
  def runtime_start(_options), do: missing()

  @spec runtime_stop(timeout_ms :: non_neg_integer) :: :ok | {:error, :timeout}
  def runtime_stop(_timeout), do: missing()

  @spec counters() :: %{
          fds_opened: non_neg_integer,
          fds_closed: non_neg_integer,
          connections: non_neg_integer,
          listeners: non_neg_integer,
          contexts: non_neg_integer,
          handles: non_neg_integer,
          buffers: non_neg_integer
        }
  def counters, do: missing()

  @spec listen(map) :: {:ok, listening_socket} | {:error, reason}
  def listen(_options), do: missing()

  @spec listener_address(listening_socket) :: {:ok, address} | {:error, reason}
  def listener_address(_listening_socket), do: missing()

  @spec accept(listening_socket) :: {:ok, socket} | :wait | {:error, reason}
  def accept(_listening_socket), do: missing()

  @spec accept_cancel(listening_socket) :: :ok | :sent
  def accept_cancel(_listening_socket), do: missing()

  @spec listener_drain(listening_socket) :: :ok
  def listener_drain(_listening_socket), do: missing()

  @spec listener_connections(listening_socket) :: non_neg_integer
  def listener_connections(_listener), do: missing()

  @spec listener_close(listening_socket) :: :ok
  def listener_close(_listening_socket), do: missing()

  @spec connect(map) :: {:wait, socket} | {:error, reason}
  def connect(_options), do: missing()

  @spec recv(socket, non_neg_integer) :: {:ok, binary} | (id :: pos_integer) | {:error, reason}
  def recv(_socket, _length), do: missing()

  @spec recv_cancel(socket) :: :ok | :sent
  def recv_cancel(_socket), do: missing()

  @spec send(socket, iodata) :: :ok | :wait | :again | {:error, reason}
  def send(_socket, _data), do: missing()

  @spec send_cancel(socket) :: :ok | :sent
  def send_cancel(_socket), do: missing()

  @spec setopts(socket, map) :: :ok | {:error, reason}
  def setopts(_socket, _options), do: missing()

  @spec getopts(socket) :: {:ok, map} | {:error, reason}
  def getopts(_socket), do: missing()

  @spec controlling_process(socket, pid) :: :ok | {:error, reason}
  def controlling_process(_socket, _pid), do: missing()

  @spec local(socket) :: {:ok, address} | {:error, reason}
  def local(_socket), do: missing()

  @spec remote(socket) :: {:ok, address} | {:error, reason}
  def remote(_socket), do: missing()

  @spec shutdown(socket, :read | :write | :read_write) :: :ok | {:error, reason}
  def shutdown(_socket, _how), do: missing()

  @spec close(socket) :: :ok
  def close(_socket), do: missing()

  @spec context_start(%{
          name: binary,
          paths: [binary],
          python_dir: binary,
          isolation: :shared
        }) :: {:ok, context} | {:error, reason}
  def context_start(_options), do: missing()

  @spec context_serve(context, listening_socket, binary) :: :ok
  def context_serve(_context, _listening_socket, _factory), do: missing()

  @spec context_stop(context, timeout_ms :: non_neg_integer) :: :ok
  def context_stop(_context, _timeout), do: missing()

  @spec python_info() :: %{version: binary, executable: binary, libpython: binary}
  def python_info, do: missing()

  defp missing, do: :erlang.nif_error(:nif_not_loaded)
end
