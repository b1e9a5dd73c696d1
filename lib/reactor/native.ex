defmodule Reactor.Native do
  @moduledoc false

  # The functions of the native library, priv/native/reactor_nif.so, and nothing else.
  # None blocks a scheduler: runtime_stop/1, file_open/1, file_send/4, those that open and close what may
  # be in the file system, and those that look at every connection of a listener run on dirty ones. What each sends, and to whom,
  # is said where it is used: Reactor.Transport.Native, Reactor.Python.Context, Reactor.Runtime.

  # Loaded when first called, not by the compiler: the library may not be built yet.
  @compile {:autoload, false}
  @on_load :load

  @type socket :: reference
  @type listening_socket :: reference
  @type context :: reference
  @type call :: reference
  @type gate :: reference
  @type question :: reference
  @type isolation :: :shared | :subinterpreter
  @type cell :: reference
  @type file :: reference
  @type reason :: atom
  @type address :: Reactor.Transport.address()

  @doc false
  def load do
    path = path()

    with {:error, {_kind, text}} <- :erlang.load_nif(path, MapSet.new()) do
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
          report_to: pid
        }) :: :ok
  def runtime_start(_options), do: missing()

  @spec log_start(level :: :error | :warning | :info | :debug) :: :ok
  def log_start(_level), do: missing()

  @spec log_taken() :: :ok
  def log_taken, do: missing()

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

  @spec listen(map) :: {:ok, listening_socket} | {:error, reason | {atom, String.t()}}
  def listen(_options), do: missing()

  @spec listener_address(listening_socket) :: {:ok, address} | {:error, reason}
  def listener_address(_listening_socket), do: missing()

  # Of a listener with protocol: :udp what is accepted is {:udp, socket}, for the functions of datagrams.
  @spec accept(listening_socket) :: {:ok, socket} | :wait | {:error, reason}
  def accept(_listening_socket), do: missing()

  @spec listener_drain(listening_socket) :: :ok
  def listener_drain(_listening_socket), do: missing()

  @spec listener_update(listening_socket, map) :: :ok
  def listener_update(_listening_socket, _options), do: missing()

  @spec listener_info(listening_socket) :: %{
          connections: non_neg_integer,
          accepted: non_neg_integer,
          closed: non_neg_integer,
          rejected: non_neg_integer,
          received: non_neg_integer,
          sent: non_neg_integer,
          waiting: non_neg_integer
        }
  def listener_info(_listening_socket), do: missing()

  @spec listener_list(listening_socket) :: [map]
  def listener_list(_listening_socket), do: missing()

  @spec listener_retire(listening_socket, [pid], pos_integer) :: [pid]
  def listener_retire(_listening_socket, _acceptors, _count), do: missing()

  @spec listener_await(listening_socket) :: :ok
  def listener_await(_listening_socket), do: missing()

  @spec listener_cut(listening_socket) :: non_neg_integer
  def listener_cut(_listening_socket), do: missing()

  @spec listener_close(listening_socket) :: :ok
  def listener_close(_listening_socket), do: missing()

  @spec connect(map) :: {:wait, socket} | {:error, reason}
  def connect(_options), do: missing()

  @spec connect_local(map) :: {:wait, socket} | {:error, reason}
  def connect_local(_options), do: missing()

  @spec recv(socket, non_neg_integer) :: {:ok, binary} | (id :: pos_integer) | {:error, reason}
  def recv(_socket, _length), do: missing()

  @spec recv_cancel(socket) :: :ok | :sent
  def recv_cancel(_socket), do: missing()

  @spec send(socket, iodata) :: :ok | :wait | :again | {:error, reason}
  def send(_socket, _data), do: missing()

  @spec send_cancel(socket) :: :ok | :sent
  def send_cancel(_socket), do: missing()

  @spec send_timeout(socket) :: {timeout_ms :: pos_integer | :infinity, close :: boolean}
  def send_timeout(_socket), do: missing()

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

  @spec peer_credentials(socket) ::
          {:ok, Reactor.Connection.credentials()} | {:error, reason}
  def peer_credentials(_socket), do: missing()

  @spec shutdown(socket, :read | :write | :read_write) :: :ok | {:error, reason}
  def shutdown(_socket, _how), do: missing()

  @spec close(socket) :: :ok
  def close(_socket), do: missing()

  @spec relieve(socket) :: :ok
  def relieve(_socket), do: missing()

  @spec is_quiet(socket, surely :: boolean) :: :ok
  def is_quiet(_socket, _surely), do: missing()

  @spec id(socket) :: pos_integer
  def id(_socket), do: missing()

  @spec next_id() :: pos_integer
  def next_id, do: missing()

  @spec going_away(socket) :: boolean
  def going_away(_socket), do: missing()

  @spec statistics(socket) :: {:ok, map} | {:error, reason}
  def statistics(_socket), do: missing()

  @typep credential :: {[binary, ...], atom, binary}

  @spec tls_server(%{
          credentials: [credential],
          names: [{binary, [credential]}],
          cacerts: [binary],
          verify: boolean,
          required: boolean,
          alpn: [binary],
          versions: [atom],
          resumption: boolean
        }) :: {:ok, reference} | {:error, {option :: atom, expected :: binary}}
  def tls_server(_options), do: missing()

  @spec tls_client(%{
          credentials: [credential],
          cacerts: [binary],
          verify: boolean,
          server_name: boolean,
          alpn: [binary],
          versions: [atom],
          resumption: boolean
        }) :: {:ok, reference} | {:error, {option :: atom, expected :: binary}}
  def tls_client(_options), do: missing()

  @spec tls_name(binary) :: boolean
  def tls_name(_name), do: missing()

  @spec tls_info(socket) :: {:ok, map | nil} | {:error, reason}
  def tls_info(_socket), do: missing()

  @spec tls_peer_chain(socket) :: {:ok, [binary]} | {:error, reason}
  def tls_peer_chain(_socket), do: missing()

  @spec tls_alpn(socket) :: binary | nil
  def tls_alpn(_socket), do: missing()

  @spec is_secure(socket) :: boolean
  def is_secure(_socket), do: missing()

  @spec proxy_header(socket) :: Reactor.Proxy.t() | nil
  def proxy_header(_socket), do: missing()

  @spec proxy_parse(binary) ::
          {:ok, Reactor.Proxy.t(), binary} | :partial | {:error, why :: String.t()}
  def proxy_parse(_bytes), do: missing()

  @spec datagram_id(socket) :: pos_integer
  def datagram_id(_socket), do: missing()

  @spec datagram_recv(socket) ::
          {:ok, address, binary} | (id :: pos_integer) | {:error, reason}
  def datagram_recv(_socket), do: missing()

  @spec datagram_recv_cancel(socket) :: :ok | :sent
  def datagram_recv_cancel(_socket), do: missing()

  @spec datagram_send(socket, :inet.ip_address(), :inet.port_number(), iodata) ::
          :ok | :again | {:error, reason}
  def datagram_send(_socket, _ip, _port, _data), do: missing()

  @spec datagram_send_cancel(socket) :: :ok | :sent
  def datagram_send_cancel(_socket), do: missing()

  @spec datagram_send_timeout(socket) :: timeout_ms :: pos_integer | :infinity
  def datagram_send_timeout(_socket), do: missing()

  @spec datagram_setopts(socket, map) :: :ok | {:error, reason}
  def datagram_setopts(_socket, _options), do: missing()

  @spec datagram_getopts(socket) :: {:ok, map} | {:error, reason}
  def datagram_getopts(_socket), do: missing()

  @spec datagram_controlling_process(socket, pid) :: :ok | {:error, reason}
  def datagram_controlling_process(_socket, _pid), do: missing()

  @spec datagram_local(socket) :: {:ok, address} | {:error, reason}
  def datagram_local(_socket), do: missing()

  @spec datagram_statistics(socket) :: {:ok, map} | {:error, reason}
  def datagram_statistics(_socket), do: missing()

  @spec datagram_close(socket) :: :ok
  def datagram_close(_socket), do: missing()

  @spec datagram_relieve(socket) :: :ok
  def datagram_relieve(_socket), do: missing()

  @spec cell_new() :: cell
  def cell_new, do: missing()

  @spec cell_put(cell | socket, term) :: :ok
  def cell_put(_cell, _term), do: missing()

  @spec cell_get(cell | socket) :: {:ok, term} | :unset
  def cell_get(_cell), do: missing()

  @spec file_open(binary) :: {:ok, file, non_neg_integer} | {:error, reason}
  def file_open(_path), do: missing()

  @spec file_send(socket, file, non_neg_integer, pos_integer) ::
          {:ok, non_neg_integer} | :wait | {:error, reason}
  def file_send(_socket, _file, _offset, _count), do: missing()

  @spec reporting(boolean) :: :ok
  def reporting(_wanted), do: missing()

  @doc "Whether a context has not come to what it is given for half a second: others are to have it."
  @spec context_is_deaf(context) :: boolean
  def context_is_deaf(_context), do: missing()

  @spec context_adopt(context, socket, binary) :: :ok | {:error, reason}
  def context_adopt(_context, _socket, _factory), do: missing()

  @spec context_start(%{
          # Of one without a listener: :max_connections, and what its connections have. Of one with a process of
          # its own: :process, its program, and :rlimit.
          optional(atom) => term,
          name: binary,
          paths: [binary],
          python_dir: binary,
          isolation: isolation,
          experimental: boolean,
          callback_timeout: timeout_ms :: pos_integer | nil,
          stuck_timeout: timeout_ms :: pos_integer | nil,
          venv: binary | nil,
          requirements: [binary],
          setup: [binary] | nil,
          report_to: pid | nil
        }) :: {:ok, context} | {:error, reason}
  def context_start(_options), do: missing()

  @spec context_serve(context, listening_socket, binary) :: :ok
  def context_serve(_context, _listening_socket, _factory), do: missing()

  @spec call_start(
          context,
          reference | nil,
          operation :: atom,
          arguments :: list,
          callers :: [pid],
          Reactor.Python.Conversion.t()
        ) ::
          {:ok, call} | {:error, :closed | :overloaded}
  def call_start(_context, _reference, _operation, _arguments, _callers, _conversion),
    do: missing()

  @spec context_forget(context, processes :: [String.t()]) :: :ok
  def context_forget(_context, _processes), do: missing()

  @spec gate_new(most :: pos_integer) :: gate
  def gate_new(_most), do: missing()

  @spec gate_taken(gate) :: non_neg_integer
  def gate_taken(_gate), do: missing()

  @spec context_idlest([{pos_integer, context}]) :: {:ok, pos_integer} | {:error, :noproc}
  def context_idlest(_contexts), do: missing()

  @spec call_await(call, reference) :: {:ok, tuple} | :later | :cancelled | :taken | :not_owner
  def call_await(_call, _reference), do: missing()

  @spec call_abandon(call) :: boolean
  def call_abandon(_call), do: missing()

  @spec questions_to(index :: non_neg_integer) :: :ok
  def questions_to(_index), do: missing()

  @spec question_begin(question) ::
          {name :: binary, arguments :: list, callers :: [pid]} | nil
  def question_begin(_question), do: missing()

  @spec question_answer(question, {:ok, term} | {:error, tuple}) :: :ok
  def question_answer(_question, _answer), do: missing()

  @spec function_known(binary, boolean) :: :ok
  def function_known(_name, _known), do: missing()

  @spec functions_unknown() :: :ok
  def functions_unknown, do: missing()

  @spec relay_to() :: :ok
  def relay_to, do: missing()

  @spec relayed() :: :ok
  def relayed, do: missing()

  # `metadata` is what Reactor.Python.ClientInfo makes.
  @spec context_handoff(context, fd :: non_neg_integer, duplicate :: boolean, metadata :: map) ::
          :ok | {:error, reason | {:not_pollable, atom}}
  def context_handoff(_context, _fd, _duplicate, _metadata), do: missing()

  @spec context_take(context, socket, metadata :: map) :: :ok | {:error, reason}
  def context_take(_context, _socket, _metadata), do: missing()

  @spec context_counts(context) :: %{
          connections: non_neg_integer,
          waiting: non_neg_integer,
          handed_over: non_neg_integer,
          calls_waiting: non_neg_integer
        }
  def context_counts(_context), do: missing()

  @spec fd_duplicate(fd :: non_neg_integer) :: {:ok, non_neg_integer} | {:error, reason}
  def fd_duplicate(_fd), do: missing()

  @spec socket_duplicate(socket) :: {:ok, non_neg_integer} | {:error, reason}
  def socket_duplicate(_socket), do: missing()

  @spec context_stop(context, timeout_ms :: non_neg_integer) :: :ok
  def context_stop(_context, _timeout), do: missing()

  @doc """
  Has a context in a process of its own say what went through its connections: then its process here is told
  `{:traffic, reference}`. False for others, which need not be asked.
  """
  @spec context_survey(context, reference) :: boolean
  def context_survey(_context, _reference), do: missing()

  @doc "What Python runs in a context's own process, and in which; nil if it has none, or not yet."
  @spec context_interpreter(context) ::
          %{version: binary, executable: binary, libpython: binary, os_pid: pos_integer} | nil
  def context_interpreter(_context), do: missing()

  @spec python_info() :: %{version: binary, executable: binary, libpython: binary}
  def python_info, do: missing()

  @doc "Why the Python that this was built with does not have that isolation; nil if it does."
  @spec isolation_refusal(isolation, experimental :: boolean) :: binary | nil
  def isolation_refusal(_isolation, _experimental), do: missing()

  @spec python_doctor(binary, [binary]) ::
          {:ok,
           %{
             facts: [{binary, binary}],
             packages: [{binary, isolation, {:ok, binary} | {:error, binary}}]
           }}
          | {:error, map}
  def python_doctor(_python_dir, _packages), do: missing()

  defp missing, do: :erlang.nif_error(:nif_not_loaded)
end
