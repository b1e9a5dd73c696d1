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

            {:error, :closed} ->
              :ok
          end
        end
      end

  See `Reactor.Behaviour` for what a module can define, `Reactor.Listener` for the options, and
  `Reactor.Socket` for what can be done with a connection.

  A server belongs in a supervision tree, as `{MyApp.Echo, port: 8080}` among the children.
  `start/2` is for a shell and for servers that come and go.
  """

  alias Reactor.{ConfigError, Connection, Listener, Server, Socket, Transport}

  @typedoc "A running server: its process, or the name given with the `:name` option."
  @type server :: pid | GenServer.name()

  defmacro __using__(options) do
    quote do
      use Reactor.Behaviour, unquote(options)
    end
  end

  @doc """
  A child specification: `{Reactor, {module, options}}` among a supervisor's children.

  `{module, options}` is the same for a module whose `child_spec/1` comes from `use Reactor`. The
  child's id is the module, or the `:name` option if there is one.
  """
  @spec child_spec({module, keyword}) :: Supervisor.child_spec()
  def child_spec({module, options}) do
    name = if Keyword.keyword?(options), do: options[:name]

    %{
      id: name || module,
      start: {__MODULE__, :start_link, [module, options]},
      type: :supervisor,
      shutdown: :infinity
    }
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
      start_child(%{
        id: Server,
        start: {Server, :start_link, [listener]},
        restart: :temporary,
        type: :supervisor
      })
    end
  end

  defp start_child(spec) do
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
      when timeout == nil or (is_integer(timeout) and timeout >= 0) do
    if timeout do
      board = Server.board(server)
      Server.put_listener(board, %{Server.listener(board) | drain_timeout: timeout})
    end

    Supervisor.stop(server, :normal, :infinity)
  catch
    :exit, _noproc_or_stopped_meanwhile -> {:error, :not_found}
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

  The map has `:module`, `:name`, `:transport`, `:ip`, `:port` (the one really bound), `:backlog`,
  `:drain_timeout` and `:options` (of its connections). `:connections` is how many there are.
  A server for Elixir adds `:acceptors` (how many wait); one for Python `:python`, `:contexts`,
  `:isolation` and `:interpreter`.

  Exits if the server does not run.
  """
  @spec info(server) :: map
  def info(server), do: server |> Server.board() |> Server.info()

  @doc """
  Connects to a server; the caller owns the connection.

  The host is a name or an address. Each address of a name is tried in turn, IPv4 first. Options:

    * `:timeout` - in ms, for each address; default 5000
    * `:transport` - `:native` (the default) or `:tcp`
    * those of `Reactor.Socket.Options`

  Errors: `%Reactor.ConfigError{}`, `:nxdomain`, `:timeout`, `:econnrefused` and the like.
  """
  @spec connect(String.t() | charlist | atom | :inet.ip_address(), :inet.port_number(), keyword) ::
          {:ok, Connection.t()} | {:error, ConfigError.t() | atom}
  def connect(host, port, options \\ []) do
    {own, options} = Keyword.split(options, [:timeout, :transport])

    with {:ok, transport} <- transport(own[:transport] || :native),
         {:ok, options} <- Socket.Options.validate(options),
         options = Map.merge(Socket.Options.defaults(), options),
         :ok <- Socket.Options.together(options),
         {:ok, addresses} <- addresses(host),
         {:ok, socket} <- dial(addresses, port, options, transport, own[:timeout] || 5_000) do
      {:ok, Connection.new(socket)}
    end
  end

  defp transport(transport) do
    case Transport.module(transport) do
      {:ok, module} ->
        {:ok, module}

      :error ->
        {:error, %ConfigError{option: :transport, value: transport, expected: ":native or :tcp"}}
    end
  end

  defp addresses(host) when is_tuple(host), do: {:ok, [host]}
  defp addresses(host) when is_binary(host), do: host |> String.to_charlist() |> addresses()

  defp addresses(host) do
    found =
      for family <- [:inet, :inet6],
          {:ok, addresses} <- [:inet.getaddrs(host, family)],
          address <- addresses,
          do: address

    if found == [], do: {:error, :nxdomain}, else: {:ok, Enum.uniq(found)}
  end

  defp dial([address | others], port, options, transport, timeout) do
    case transport.connect(address, port, options, timeout) do
      {:error, _reason} when others != [] -> dial(others, port, options, transport, timeout)
      result -> result
    end
  end
end
