defmodule Reactor do
  @moduledoc """
  Socket servers whose protocol is written in Elixir or in Python.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> %{port: port, connections: 0} = Reactor.info(server)
      iex> {:ok, connection} = Reactor.connect("127.0.0.1", port)
      iex> Reactor.Socket.send(connection, "hello")
      :ok
      iex> Reactor.Socket.recv(connection)
      {:ok, "hello"}
      iex> Reactor.stop(server)
      :ok

  where the module is

      defmodule MyApp.Echo do
        use Reactor

        def handle(connection) do
          case Reactor.Socket.recv(connection) do
            {:ok, data} ->
              Reactor.Socket.send(connection, data)
              handle(connection)

            {:error, _closed} ->
              :ok
          end
        end
      end

  See `Reactor.Behaviour` for what a module can define, `Reactor.Listener` for the options, and
  `Reactor.Socket` for what can be done with a connection.

  A server belongs in a supervision tree, as `{MyApp.Echo, port: 8080}` among the children.
  `start/2` is for a shell and for servers that come and go.
  """

  alias Reactor.{ConfigError, Connection, Dial, Listener, Server, Transport}

  @typedoc "A running server: its process, or the name given with the `:name` option."
  @type server :: pid | GenServer.name()

  # More a timer of the emulator does not take.
  @max_time 4_294_967_295

  @time "a number of milliseconds from 0 to #{@max_time}, or :infinity"

  defguardp is_time(value) when value in 0..@max_time

  defmacro __using__(options) do
    quote do
      use Reactor.Behaviour, unquote(options)
    end
  end

  @doc """
  A child specification: `{Reactor, {module, options}}` among a supervisor's children.

  `{module, options}` is the same for a module whose `child_spec/1` comes from `use Reactor`. The
  child's id is the module, or the `:name` option if there is one, here or in `use Reactor`.
  """
  @spec child_spec({module, keyword}) :: Supervisor.child_spec()
  def child_spec({module, options}) when is_atom(module) do
    %{
      id: name(module, options) || module,
      # A supervisor logs this with each report: a function keeps passwords out of it.
      start: {__MODULE__, :start_child, [module, fn -> options end]},
      type: :supervisor,
      shutdown: :infinity
    }
  end

  def child_spec(_other) do
    raise ArgumentError,
          "expected {Reactor, {module, options}} as a supervisor's child, as {Reactor, {MyApp.Echo, port: 8080}}"
  end

  defp name(module, options) do
    own =
      if Code.ensure_loaded?(module) and function_exported?(module, :__reactor__, 0),
        do: module.__reactor__(),
        else: []

    Enum.find_value([options, own], &(Keyword.keyword?(&1) && &1[:name]))
  end

  @doc false
  # For supervisors. An exception is shown with its message, not as a struct, where an exit reason
  # holds it in this form.
  @spec start_child(module, fun) :: {:ok, pid} | {:error, term}
  def start_child(module, options) when is_function(options, 0) do
    with {:error, error} when is_exception(error) <- start_link(module, options.()) do
      # Without the options: they may hold a password.
      {:error, {error, [{__MODULE__, :start_link, 2, []}]}}
    end
  end

  @doc """
  Starts a server of `module`, supervised by this application and not linked to the caller.

  Options are those of `Reactor.Listener`. It returns when the server accepts connections; a Python
  listener's module is imported by then. A server started so is not restarted if it fails for good.

  Errors:

    * `%Reactor.ConfigError{}` - an option that does not exist, or has a wrong value
    * `%Reactor.Python.Error{}` - the Python module cannot be imported, or lacks the factory; the
      traceback is also logged
    * `{:already_started, pid}` - the name is taken
    * `:eaddrinuse`, `:eacces`, `:eaddrnotavail` and the like - from the operating system
    * `:not_started` - the application `:reactor` does not run
  """
  @spec start(module, keyword) :: {:ok, pid} | {:error, term}
  def start(module, options \\ []) do
    with {:ok, listener} <- Listener.new(module, options) do
      start_alone(%{
        id: Server,
        start: {__MODULE__, :start_listener, [fn -> listener end]},
        restart: :temporary,
        type: :supervisor
      })
    end
  end

  @doc false
  # For the supervisor of start/2, whose reports show no more of it than of start_child/2.
  @spec start_listener(fun) :: {:ok, pid} | {:error, term}
  def start_listener(listener), do: Server.start_link(listener.())

  defp start_alone(spec) do
    DynamicSupervisor.start_child(Reactor.ServerSupervisor, spec)
  catch
    :exit, {:noproc, _call} -> {:error, :not_started}
  end

  @doc """
  Starts a server as `start/2` does, linked to the caller: for supervisors.

  As with any supervisor, an error other than `%Reactor.ConfigError{}` also reaches the caller as
  an exit signal.
  """
  @spec start_link(module, keyword) :: {:ok, pid} | {:error, term}
  def start_link(module, options \\ []) do
    with {:ok, listener} <- Listener.new(module, options) do
      Server.start_link(listener)
    end
  end

  @doc """
  Stops a server: it accepts nothing more, idle connections are closed, and the others have
  `timeout` ms to finish, by default the `:drain_timeout` it was started with. Then their
  handlers are shut down.

  Returns when all are gone, or `{:error, :not_found}` if the server does not run. One that a
  supervisor of yours would restart is stopped with `Supervisor.terminate_child/2`.
  """
  @spec stop(server, timeout_ms :: non_neg_integer | nil) :: :ok | {:error, :not_found}
  def stop(server, timeout \\ nil)

  def stop(server, timeout) when timeout == nil or is_time(timeout) do
    if timeout, do: on_board(server, :stop, &Server.put_stop_timeout(&1, timeout))
    Supervisor.stop(server, :normal, :infinity)
  catch
    :exit, _noproc_or_stopped_meanwhile -> {:error, :not_found}
  end

  def stop(_server, timeout) do
    wrong_timeout("a number of milliseconds from 0 to #{@max_time}", timeout)
  end

  @spec wrong_timeout(String.t(), term) :: no_return
  defp wrong_timeout(expected, timeout) do
    raise ArgumentError,
          "expected a timeout that is #{expected}, got: #{inspect(timeout, limit: 10, printable_limit: 100)}"
  end

  # The table of a server that stops meanwhile is gone: that is as if it had not run.
  defp on_board(server, function, call) do
    board = Server.board(server)

    try do
      call.(board)
    rescue
      error in ArgumentError ->
        if :ets.info(board) == :undefined,
          do: exit({:noproc, {__MODULE__, function, [server]}}),
          else: reraise(error, __STACKTRACE__)
    end
  end

  @doc """
  Has a server end its connections, as `stop/2` does, without stopping it.

  Nothing is accepted from now on, handlers are told if `:going_away` is set, and idle connections are
  closed. The others have `timeout` ms to finish, or for ever with `:infinity`; the default is the
  server's `:drain_timeout`. What is left then is cut: what it still had to send is lost, and
  its handler is shut down.

  Returns, at most some 600 ms after the timeout, how many `:connections` there were or came while it
  lasted, how many of them `:finished`, and how many were `:cut`. The server is then suspended, and
  `resume/1` has it accept again. Who calls this while it drains already waits for the same end; the
  shorter timeout counts. A server that is stopped meanwhile takes no longer to stop than otherwise.

  A handler of the same server that calls it waits for its own end, and is cut when the time is over; with
  `:infinity` that is never. It should have another process call it.

  `{:error, :not_found}` says that the server does not run.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      iex> Reactor.Socket.send!(connection, "last orders")
      iex> Reactor.Socket.recv!(connection)
      "last orders"
      iex> Reactor.drain(server)
      {:ok, %{connections: 1, finished: 1, cut: 0}}
      iex> Reactor.info(server).state
      :suspended
      iex> Reactor.stop(server)
      :ok
  """
  @spec drain(server, timeout | nil) :: {:ok, Server.Drain.counts()} | {:error, :not_found}
  def drain(server, timeout \\ nil)

  def drain(server, timeout) when timeout in [nil, :infinity] or is_time(timeout) do
    on_board(server, :drain, fn board ->
      {:ok, Server.Drain.drain(board, timeout || Server.listener(board).drain_timeout)}
    end)
  catch
    :exit, _noproc_or_stopped_meanwhile -> {:error, :not_found}
  end

  def drain(_server, timeout), do: wrong_timeout(@time, timeout)

  @doc """
  Closes the listening socket of a server: clients are refused, until `resume/1`. The connections that
  there are go on, and so do those that the server was about to accept. On a suspended server it does
  nothing.

  Exits if the server does not run.
  """
  @spec suspend(server) :: :ok
  def suspend(server), do: on_board(server, :suspend, &Server.Control.suspend/1)

  @doc """
  Has a suspended server listen again, on the same address. On one that listens it does nothing.

  Errors: `:eaddrinuse` and the like, if the address is taken by now; `:draining` while `drain/2`
  lasts; `%Reactor.Python.Error{}` if a Python context that was restarted meanwhile cannot import its
  module. The server then stays suspended.

  It waits for all Python contexts. One that hangs ends that wait with its `:callback_timeout` and `:stuck_timeout`; with both
  `:infinity` nothing does.

  Exits if the server does not run.
  """
  @spec resume(server) :: :ok | {:error, term}
  def resume(server), do: on_board(server, :resume, &Server.Control.resume/1)

  @doc """
  Changes options of a running server, for the connections that it accepts from now on; those that
  there are keep what they were accepted with. All are changed, or none.

    * `:module` - another module that is served in the same language; connections in progress stay
      with the old one
    * `:python` - another `"module:factory"`, imported in all contexts before it counts, which waits for one that hangs as
      `resume/1` does. For one that is imported already Python does not look at the file again.
    * `:acceptors`, `:max_connections`, `:overload`, `:max_connections_per_ip`, `:accept_rate`,
      `:drain_timeout`, `:going_away`, `:profile` - see `Reactor.Listener`. A lower limit closes nobody:
      nothing is accepted until there is room.
    * `:secure`, of a server that has it: other certificates, and all else that its options say. What they
      name is read before anything changes. With the transport `:ssl` it cannot be changed.
    * those of `Reactor.Socket.Options`

  Errors: `%Reactor.ConfigError{}` for a wrong option, or one that cannot be changed;
  `%Reactor.Python.Error{}` if a context cannot import what `:python` says.

  Exits if the server does not run.

      iex> {:ok, server} = Reactor.start(MyApp.Echo, port: 0)
      iex> Reactor.update(server, max_connections: 1_000, idle_timeout: 60_000)
      :ok
      iex> Reactor.info(server).max_connections
      1_000
      iex> {:error, error} = Reactor.update(server, port: 8080)
      iex> Exception.message(error)
      "option :port must be left alone: it cannot be changed while the server runs, got: 8080"
      iex> Reactor.stop(server)
      :ok
  """
  @spec update(server, keyword) :: :ok | {:error, ConfigError.t() | term}
  def update(server, options) do
    on_board(server, :update, &Server.Control.update(&1, options))
  end

  @doc """
  Reads the certificates and keys of a server with TLS again, from the same files, for the connections that
  it accepts from now on.

  If they cannot be used, nothing changes, and `{:error, %Reactor.ConfigError{}}` says why. So does a server
  without TLS, and one on the transport `:ssl`, which reads files by itself, after a while.
  `update/2` with `:secure` takes other files.

  Exits if the server does not run.
  """
  @spec reload_certificates(server) :: :ok | {:error, ConfigError.t()}
  def reload_certificates(server) do
    on_board(server, :reload_certificates, &Server.Control.reload_certificates/1)
  end

  @doc """
  Waits until a server stops, for whatever reason. Returns at once if it does not run.
  """
  @spec wait(server) :: :ok
  def wait(server) do
    case GenServer.whereis(server) do
      nil ->
        :ok

      process ->
        monitor = Process.monitor(process)

        receive do
          {:DOWN, ^monitor, _, _, _reason} -> :ok
        end
    end
  end

  @doc """
  What is known of a running server.

  The map has

    * what it was started with, or changed to: `:module`, `:name`, `:transport`, `:protocol`, `:ip`, `:port` (those
      really bound; `{:local, path}` and 0 for a Unix socket), `:backlog`, `:max_connections`, `:overload`, `:max_connections_per_ip`,
      `:accept_rate`, `:drain_timeout`, `:going_away`, `:profile`, and `:options` (of its connections)
    * `:state` - `:running`, `:suspended` or `:draining`
    * `:connections` - how many there are; `:accepted`, `:rejected` - how many there ever were, and how
      many were closed at once because of a limit
    * `:received`, `:sent` - the bytes of all connections there ever were, `nil` with a transport other
      than `:native`
    * `:acceptors` - how many wait for a connection
    * for a listener that has Python contexts `:python`, `:contexts`, `:isolation` and `:interpreter`

  Exits if the server does not run.
  """
  @spec info(server) :: map
  def info(server), do: on_board(server, :info, &Server.info/1)

  @doc """
  The connections of a running server, in no order.

  Each is a map with `:id`, `:remote` (`{ip, port}`, `{:local, path}` of a Unix socket, or `nil` if the peer
  is gone), `:since` (a `DateTime`), `:received` and `:sent` (bytes), `:queued` (bytes that the peer has not taken yet),
  `:owner` (its handler's process, or `:python`; `nil` before it has one), `:proxy` (what a proxy said of it, see
  `Reactor.Proxy`, or `nil`) and `:state` (`:open`; `:greeting` during its PROXY header and TLS handshake; or
  `:closing` when only the queue is left to be written).

  Exits if the server does not run.
  """
  @spec connections(server) :: [map]
  def connections(server), do: on_board(server, :connections, &Server.connections/1)

  @doc """
  The descriptor of a running server, as it is for the next connection. See `Reactor.Listener`.

  Exits if the server does not run.
  """
  @spec listener(server) :: Listener.t()
  def listener(server), do: on_board(server, :listener, &Server.listener/1)

  @doc """
  Connects to a server; the caller owns the connection.

  The host is a name or an address. Each address of a name is tried in turn, IPv4 first. A Unix socket is
  `{:local, path}`, with port 0, for the transports `:native` and `:tcp`; a path that begins with a NUL byte is an
  abstract name. Options:

    * `:timeout` - in ms, or `:infinity`, for each address; default 5000
    * `:transport` - `:native` (the default), `:tcp` or `:ssl`
    * `:secure` - TLS: `true`, or a keyword list of `Reactor.Transport.SSL.Options`. The timeout is for the
      handshake too.
    * `:proxy` - send a PROXY protocol header: a keyword list, see `Reactor.Proxy`
    * those of `Reactor.Socket.Options`

  With TLS the host is what the server's certificate has to be for, and it has to come from an authority
  that the system trusts, or one of the option `:cacertfile`.

  Errors: `%Reactor.ConfigError{}`, `:nxdomain`, `:timeout`, `:econnrefused` and the like; with
  TLS also `{:tls_alert, {name, text}}`.
  """
  @spec connect(
          String.t() | charlist | atom | :inet.ip_address() | {:local, Path.t()},
          :inet.port_number(),
          keyword
        ) ::
          {:ok, Connection.t()} | {:error, ConfigError.t() | Transport.reason()}
  def connect(host, port, options \\ []), do: Dial.connect(host, port, options)
end
