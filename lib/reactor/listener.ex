defmodule Reactor.Listener do
  @moduledoc """
  The listener descriptor: what `Reactor.start/2` was told, validated once.

  ## Options

  | option | value | default | meaning |
  |---|---|---|---|
  | `:port` | 0..65535 | `0` | where to listen; 0 lets the system choose, see `Reactor.info/1` |
  | `:ip` | address tuple or text, `{:local, path}`, `:any`, `:loopback` | `:any` | the local IPv4 or IPv6 address, or a Unix socket: see below |
  | `:protocol` | `:tcp`, `:udp` | `:tcp` | connections, or datagrams: see below |
  | `:name` | atom, `{:global, term}`, `{:via, module, term}` | none | a name for the server |
  | `:transport` | `:native`, `:tcp`, `:ssl`, or a `Reactor.Transport` | `:native` | who does the input and output |
  | `:secure` \\* | `false`, or a keyword list | `false` | TLS: `:certfile` and `:keyfile`, or `:certs_keys`, and what else is in `Reactor.Transport.SSL.Options` |
  | `:proxy` | `false`, or a keyword list | `false` | expect PROXY protocol headers: `:trusted` networks and a `:timeout`, see `Reactor.Proxy` |
  | `:acceptors` \\* | positive integer | `100` | processes that wait for a connection |
  | `:backlog` | positive integer | `1024` | connections that the kernel keeps waiting |
  | `:reuseaddr` | boolean | `true` | take the port though old connections linger |
  | `:drain_timeout` \\* | ms, up to 4294967295 | `3000` | how long a server that stops lets its connections finish; all servers together, if the VM stops |
  | `:going_away` \\* | boolean | `false` | send each Elixir handler `{Reactor, :going_away}` when the server begins to drain |
  | `:profile` \\* | boolean | `false` | measure each Elixir handler, and log and report it when it ends |
  | `:spawn_opt` | keyword | `[fullsweep_after: 0]` | how handler processes are spawned, as in `:erlang.spawn_opt/4` |
  | `:env` | any term | `nil` | for the handlers, see `env/1` |
  | `:python` \\* | `"module:factory"` or `"module"` | none | a Python protocol instead of an Elixir handler |
  | `:paths` | list of directories | `[]` | where Python looks first; then priv/python of the module's application, then the current directory |
  | `:contexts` | positive integer | `1` | Python contexts (threads) that serve the listener |
  | `:isolation`, `:rlimit`, `:experimental`, `:setup`, `:venv`, `:requirements`, `:callback_timeout`, `:stuck_timeout` | | | of each of those contexts, see `Reactor.Python` |

  and every option of `Reactor.Socket.Options`, for the connections that it accepts. \\* and those
  can be changed while the server runs, see `Reactor.update/2`.

  `spawn_opt` may hold `:fullsweep_after`, `:min_heap_size`, `:min_bin_vheap_size`,
  `:max_heap_size`, `:message_queue_data` and `:priority`. The default sweeps the whole heap
  each time, since a handler seldom keeps anything. A larger `:min_heap_size` collects less often, and
  costs memory: with 377 words an idle connection took 6.6 KiB instead of 3.4.

  With `going_away: true` a connection in active mode is not closed as idle when the server drains: its
  handler has been told, and one that does not end is cut when the time is over.

  Who gives a server a finite `shutdown:` in a supervisor (the default is `:infinity`) has to keep
  `:drain_timeout` below it, or everything is killed without a drain.

  `profile: true` is about `c:Reactor.Behaviour.handle/1`, and a `c:Reactor.Behaviour.start/1` that answers `:ok`.
  A process that a connection is handed over to is not measured.

  `:paths`, `:contexts` and the options after it in the table are for a listener with `:python`, or one whose module has
  `c:Reactor.Behaviour.route/1`.

  ## Where Python runs

  With `isolation: :shared` all contexts are threads of one interpreter: they share its modules, and its
  GIL, so one of them computes at a time. With `isolation: :subinterpreter` each has an interpreter of its own, with
  a GIL and modules of its own: contexts compute side by side, and share nothing. That needs Python 3.14. In
  such an interpreter modules in C can refuse to be imported (numpy does), and `os.fork`, daemon threads and
  `signal.signal` raise; `subprocess` works. `Reactor.Python.Doctor` and `mix reactor.doctor` say what works here.

  With `isolation: :process` each has a process of the operating system: what ends that ends its connections
  (`:context_died`) and no others, and it is started again while the listener goes on. One that dies again and again
  waits before it is, for at most a second. See "Processes" in `Reactor.Python`.

  Threads that a protocol's code started have a second to end with such a context. Those that take longer
  keep its interpreter, and a warning is logged.

  ## Callbacks that take too long

  A context calls one callback at a time, so one that never returns keeps all its other connections waiting. After
  `:callback_timeout` it is interrupted: `erlang.reactor.CallbackTimeout` is raised in it, which is
  no `Exception`, again and again until it returns. Its connection is then closed, and its
  `[:reactor, :connection, :stop]` has the reason `:callback_timeout`; a datagram socket stays open, as after other exceptions.
  One that waits outside of Python, as in `time.sleep`, cannot be interrupted before it comes back. It is
  reported as stuck, see `[:reactor, :python, :stuck]` in `Reactor.Telemetry`. After `:stuck_timeout` its context is
  given up, and another one takes its place: see `Reactor.Python`. Imports may take as long as they like.

  A context that hangs accepts nothing: whoever is new is served by the listener's other contexts. What a process
  (`isolation: :process`) has accepted, and has not begun with for half a second, goes to another one as well.
  `c:Reactor.Behaviour.route/1` passes over a context that hangs for so long; what that was given before waits for it.

  With one context, or when all hang, new connections wait in the kernel's backlog. Both timeouts are a minute by default, so
  it may be two until they are served. With `callback_timeout: 500, stuck_timeout: 500` they are within two seconds: a callback
  that runs Python is interrupted after half a second; one that waits in C is given up half a second later, and so
  is one that keeps the GIL, unless that is `:shared`'s, which all contexts need. Then every callback has to be done in that time.

  ## Addresses

  `ip: :any` is every IPv4 address of the machine, and `:loopback` is 127.0.0.1. For IPv6 give an address: `"::"` is
  every one, `"::1"` the loopback.

  | option | value | default | meaning |
  |---|---|---|---|
  | `:ipv6_v6only` | boolean | as the system has it | for an IPv6 address: whether IPv4 is kept away. With `ip: "::", ipv6_v6only: false` both come in by one port, and an IPv4 client has an address as `::ffff:192.0.2.1` |
  | `:unix` | keyword with `:mode`, `:owner`, `:group` | `[]` | who may connect to a Unix socket |
  | `:reuseport` | boolean | `false` | share the port with other sockets, of this process and of others of the same user; the kernel spreads connections among them |
  | `:num_listen_sockets` | 1..1024 | `1` | how many listening sockets the port has, each with a backlog of its own; more than one needs `reuseport: true` |
  | `:fd` | descriptor, `{:systemd, name}`, `{:systemd, index}` | none | a socket that listens already |

  But for `:ipv6_v6only` only the transport `:native` has these, and Unix sockets.

  ### Unix sockets

  `ip: {:local, path}` listens on a Unix socket. The path is at most 107 bytes long when it is absolute, which
  it becomes. What a server that is dead has left there is replaced; if somebody listens there, or is about to, the
  error is `:eaddrinuse`, and what is no socket is left alone. The path is removed when the server stops, is suspended
  or drained, unless somebody has put something else there meanwhile.

  `:unix` may say the `:mode` of the path (as `0o660`; without it the umask decides), its `:owner` and its `:group`, by
  name or number. To connect one has to be allowed to write. They are set before anybody can connect. To give it
  to another user needs a privilege; to a group, to be in it.

  A path that begins with a NUL byte, as `{:local, <<0, "my_app">>}`, is an abstract name, which Linux has. It is in no
  file system and needs no cleaning up, and everybody on the machine may connect to it.

  Such a server has `port: 0` and its `ip: {:local, path}` in `Reactor.info/1`. Its clients are `{:local, path}`, mostly
  `{:local, ""}`, since few of them are bound; `Reactor.Connection.peer_credentials/1` says who they are.
  `:max_connections_per_ip` does not count them. `:nodelay` and `:keepalive` mean nothing to them.

  ### A socket that listens already

  `fd: n` serves a socket that this VM was started with, `fd: {:systemd, "name"}` one that systemd has opened, see
  `Reactor.Systemd`. It has to be a stream socket that listens, of IPv4, IPv6 or Unix; what else it is the error
  says. The server works with a descriptor of its own, and leaves the one it was given, and the path of a Unix socket,
  alone: while it is suspended or restarted, clients wait in the backlog instead of being refused. The socket becomes
  non-blocking, and takes on the options of connections, for all who have it. `:backlog` and `:reuseaddr` are as who
  opened it wanted.

  ## Datagrams

  With `protocol: :udp` the socket is one for datagrams, and there is one connection: the socket itself. One handler
  process has it, until it returns, ends or closes it; then the next has it, and the port stays open
  meanwhile. So a datagram that a handler fails on costs that handler and no more. The next one starts at once,
  or after a pause, of up to a second, if the one before received nothing at all. What can be done with the
  connection is in `Reactor.Socket`.

  Nothing is read without demand, and the kernel drops what finds its buffer (`:recbuf`) full. A drain, and a
  stop, end reading: a handler that waits is told `:closed`, one in active mode `{:udp_closed, socket}`; it can
  still send until it ends. A suspend closes the socket. In a Python listener each context has a
  `erlang.reactor.DatagramProtocol`, and the contexts read side by side.

  It is for the transport `:native`, without TLS and without the limits below; of the connections' options it has
  `:active`, `:recbuf`, `:sndbuf` and `:send_timeout`. It has one socket, of IPv4 or IPv6, which `reuseport: true` lets share its
  port with others. `:acceptors` is 1 by default, and `:reuseaddr` has no meaning.

  ## Limits

  All of them can be changed while the server runs, and hold for both kinds of handler.

  | option | value | default | meaning |
  |---|---|---|---|
  | `:max_connections` | positive integer or `:infinity` | `:infinity` | how many are open at most; never one more |
  | `:overload` | `:wait`, `:reject` | `:wait` | what happens to those beyond it: they stay in the backlog, or are closed at once |
  | `:max_connections_per_ip` | positive integer or `:infinity` | `:infinity` | how many are open from one address; those beyond are closed at once |
  | `:accept_rate` | positive integer or `:infinity` | `:infinity` | connections a second, evenly, or in bursts of a tenth of that; the rest waits in the backlog |

  The last two only the transport `:native` has. With another one `:max_connections` counts
  handlers rather than sockets.

  ## The struct

  It also holds the `:module`, and, while the server runs, its listening `:socket` and its `:id`; its
  `:port` is then the one really bound. A handler finds the descriptor that was in force when its
  connection was accepted in `connection.listener`.
  """

  alias Reactor.{ConfigError, Proxy, Socket, Transport}
  alias Reactor.Listener.{Change, Options, Place}

  @enforce_keys [:module]
  # What `secure` holds is for nobody's log, and `env` may hold tokens.
  @derive {Inspect, except: [:secure, :env, :setup]}
  defstruct [
    :module,
    # The server's table.
    :id,
    :socket,
    # Who is told by the loops what happens to connections.
    :report_to,
    :name,
    :python,
    :env,
    # Grows with each change, so that waiting acceptors notice.
    version: 0,
    # The module says for each connection who handles it.
    route: false,
    ip: {0, 0, 0, 0},
    port: 0,
    protocol: :tcp,
    ipv6_v6only: nil,
    unix: [],
    fd: nil,
    reuseport: false,
    num_listen_sockets: 1,
    transport: Transport.Native,
    secure: false,
    proxy: false,
    acceptors: 100,
    backlog: 1024,
    reuseaddr: true,
    max_connections: :infinity,
    overload: :wait,
    max_connections_per_ip: :infinity,
    accept_rate: :infinity,
    drain_timeout: 3_000,
    going_away: false,
    profile: false,
    spawn_opt: [fullsweep_after: 0],
    paths: [],
    contexts: 1,
    isolation: :shared,
    rlimit: [],
    experimental: false,
    setup: [],
    venv: nil,
    requirements: [],
    callback_timeout: 60_000,
    stuck_timeout: 60_000,
    options: Socket.Options.defaults()
  ]

  @typedoc "What names a server while it runs. It is never used again."
  @type id :: reference

  @type limit :: pos_integer | :infinity

  @type t :: %__MODULE__{
          module: module,
          id: id | nil,
          socket: Transport.listening_socket() | nil,
          report_to: pid | nil,
          name: GenServer.name() | nil,
          python: String.t() | nil,
          env: term,
          version: non_neg_integer,
          route: boolean,
          ip: :inet.ip_address() | {:local, binary},
          port: :inet.port_number(),
          protocol: :tcp | :udp,
          ipv6_v6only: boolean | nil,
          unix: keyword,
          fd: non_neg_integer | {:systemd, String.t() | non_neg_integer} | nil,
          reuseport: boolean,
          num_listen_sockets: pos_integer,
          transport: module,
          secure: false | keyword,
          proxy: false | Proxy.expected(),
          acceptors: pos_integer,
          backlog: pos_integer,
          reuseaddr: boolean,
          max_connections: limit,
          overload: :wait | :reject,
          max_connections_per_ip: limit,
          accept_rate: limit,
          drain_timeout: non_neg_integer,
          going_away: boolean,
          profile: boolean,
          spawn_opt: keyword,
          paths: [Path.t()],
          contexts: pos_integer,
          isolation: Reactor.Python.Options.isolation(),
          rlimit: Reactor.Python.Options.rlimit(),
          experimental: boolean,
          setup: [String.t()],
          venv: Path.t() | nil,
          requirements: [String.t()],
          callback_timeout: pos_integer | :infinity,
          stuck_timeout: pos_integer | :infinity,
          options: Socket.Options.t()
        }

  @doc """
  Validates a descriptor.

  Options given to `use Reactor` in the module count as if they stood before these.

      iex> {:ok, listener} = Reactor.Listener.new(MyApp.Echo, port: 8080, ip: "127.0.0.1")
      iex> {listener.ip, listener.port, listener.acceptors}
      {{127, 0, 0, 1}, 8080, 100}

      iex> {:error, error} = Reactor.Listener.new(MyApp.Echo, acceptor: 10)
      iex> Exception.message(error)
      "unknown option :acceptor, did you mean :acceptors?"
  """
  @spec new(module, keyword) :: {:ok, t} | {:error, ConfigError.t()}
  def new(module, options) do
    with :ok <- keyword(options),
         {:ok, defaults} <- defaults(module),
         options = defaults ++ options,
         {:ok, listener} <- Options.put_all(%__MODULE__{module: module, transport: nil}, options),
         listener = listener |> chosen() |> waiting(options),
         :ok <- Options.together(listener),
         :ok <- Place.validate(listener),
         :ok <- Options.meant_for_python(listener, options) do
      {:ok, listener}
    end
  end

  @doc """
  Validates changes to the descriptor of a running server. `Reactor.update/2` makes them.
  """
  @spec change(t, keyword) :: {:ok, t} | {:error, ConfigError.t()}
  def change(%__MODULE__{} = listener, options) do
    with :ok <- keyword(options),
         :ok <- Change.known(options),
         {module, options} = Keyword.pop(options, :module, listener.module),
         {:ok, defaults} <- defaults(module),
         {:ok, changed} <- Options.put_all(%{listener | module: module}, options),
         changed = %{changed | route: route?(module)},
         :ok <- Change.possible(listener, changed, defaults),
         :ok <- Options.together(changed) do
      {:ok, changed}
    end
  end

  @doc """
  What names the server while it runs, `nil` for one that does not yet.
  """
  @spec id(t) :: id | nil
  def id(%__MODULE__{id: id}), do: id

  @doc """
  The port: the one really bound, for the descriptor of a running server; 0 for a Unix socket.
  """
  @spec port(t) :: :inet.port_number()
  def port(%__MODULE__{port: port}), do: port

  @doc """
  The environment as it is now: the `:env` option, until `env/2` sets another.

  Any process may read and write it, with the descriptor of any of the server's connections. When the
  server is gone, it is that of the option again.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0, env: %{motd: "hello"})
      iex> listener = Reactor.listener(server)
      iex> Reactor.Listener.env(listener)
      %{motd: "hello"}
      iex> Reactor.Listener.env(listener, %{motd: "goodbye"})
      :ok
      iex> Reactor.Listener.env(listener)
      %{motd: "goodbye"}
      iex> Reactor.stop(server)
      :ok
  """
  @spec env(t) :: term
  def env(%__MODULE__{id: nil, env: env}), do: env

  def env(%__MODULE__{id: id, env: env}) do
    :ets.lookup_element(id, :env, 2)
  rescue
    ArgumentError -> env
  end

  @doc """
  Sets the environment, for all of the server's connections that have none of their own.

  Raises `ArgumentError` if the server does not run.
  """
  @spec env(t, term) :: :ok
  def env(%__MODULE__{id: id}, env) do
    :ets.insert(id, {:env, env})
    :ok
  rescue
    ArgumentError -> reraise ArgumentError, "the server does not run", __STACKTRACE__
  end

  @doc """
  True if its connections are encrypted.
  """
  @spec secure?(t) :: boolean
  def secure?(%__MODULE__{secure: secure}), do: secure != false

  @doc """
  The server's certificate, DER-encoded.

  Errors: `:not_secure`, or why its file cannot be read.
  """
  @spec cert(t) :: {:ok, binary} | {:error, term}
  def cert(%__MODULE__{secure: false}), do: {:error, :not_secure}
  def cert(%__MODULE__{secure: secure}), do: Transport.SSL.Options.cert(secure)

  @doc false
  # For those who print it without `inspect`.
  @spec hide(t) :: t
  def hide(listener), do: %{listener | env: :"(hidden)", secure: listener.secure && []}

  defp keyword(options) do
    if Keyword.keyword?(options) do
      :ok
    else
      {:error, Options.error(:options, options, "a keyword list")}
    end
  end

  defp defaults(module) do
    if is_atom(module) and Code.ensure_loaded?(module) and
         function_exported?(module, :__reactor__, 0) do
      {:ok, module.__reactor__()}
    else
      {:error, Options.error(:module, module, "a module with `use Reactor`")}
    end
  rescue
    # As that of `use Reactor.BertRpc`, which has options of its own.
    error in ConfigError -> {:error, error}
  end

  defp chosen(%{transport: nil} = listener),
    do: chosen(%{listener | transport: Transport.Native})

  defp chosen(listener), do: %{listener | route: route?(listener.module)}

  # One of them has the socket, and one more is there to take it over.
  defp waiting(%{protocol: :udp} = listener, options) do
    if Keyword.has_key?(options, :acceptors), do: listener, else: %{listener | acceptors: 1}
  end

  defp waiting(listener, _options), do: listener

  defp route?(module), do: function_exported?(module, :route, 1)
end
