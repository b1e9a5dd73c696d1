defmodule Reactor.Behaviour do
  @moduledoc """
  What a server's module is.

      defmodule MyApp.Upcase do
        use Reactor.Behaviour

        def handle(connection) do
          if data = Reactor.Socket.recv!(connection) do
            Reactor.Socket.send!(connection, String.upcase(data))
            handle(connection)
          end
        end
      end

  `use Reactor` is the same. It takes options of `Reactor.start/2`, which become the module's
  defaults: `use Reactor, python: "echo:EchoProtocol"`.

  It defines the callbacks below, and `child_spec/1`, so that `{MyApp.Upcase, port: 8080}` can be
  a child of a supervisor. Every one of them can be overridden. A module with `use GenServer`
  after it has the `child_spec/1` of that: it is a child as `{Reactor, {MyModule, port: 8080}}`.

  A module needs `c:handle/1`, or else `c:start/1`; a Python listener's needs neither.

  ## When the server goes

  A server that drains tells its handlers with `{Reactor, :going_away}`, if it has `going_away: true`. A
  connection in active mode is then not closed as idle: a handler that does not end is cut at the timeout.
  A handler that only receives from its socket can ask `Reactor.Connection.going_away?/1` instead.
  """

  alias Reactor.{Connection, Listener}

  @doc """
  Called in an acceptor process to wait for a connection; by default it calls
  `Reactor.Connection.accept/1`.

  The calling process must own the connection that is returned: one of the listener's, or one made by
  `Reactor.Connection.new/2` of a native, `:gen_tcp` or `:ssl` socket from elsewhere. With the
  transport `:ssl` the listener's connections can be used after `Reactor.Connection.handshake/1`.

  Errors of `Reactor.Connection.accept/1` are returned as they are. After any error but
  `{:error, :closed}` of a closed listener, and `{:error, :retired}`, the acceptor tries again, later
  each time.
  """
  @callback accept(Listener.t()) :: {:ok, Connection.t()} | {:error, term}

  @doc """
  Called in the acceptor process that accepted the connection, which another one has replaced.

  By default it calls `c:handle/1` and returns `:ok`. It may instead start a process and return
  `{:ok, pid}`. That process then becomes the connection's owner, counts as its handler, and is
  sent `{Reactor, :ack}` when it can use the socket. It is not measured by `profile: true`.

  After `:ok` the connection is closed. After `{:error, reason}` too, and the reason is logged.
  """
  @callback start(Connection.t()) :: :ok | {:ok, pid} | {:error, term}

  @doc """
  Called by the default `c:start/1`, in the process that owns the connection.

  It has the process for as long as it likes; when it returns, whatever it returns, the
  connection is closed. If it fails, or is killed, that connection is closed and no other.
  """
  @callback handle(Connection.t()) :: term

  @doc """
  Says who handles a connection: Elixir (`c:start/1`, and so `c:handle/1`), or a Python protocol.

  Called in the acceptor process that accepted it, which another one has replaced. The listener of a
  module that has it, also has Python contexts, as many as its `:contexts` say; they take the connections in
  turn. A module or factory is imported when a context first needs it; one that cannot be, and any other
  answer, closes that connection and no other.

      def route(connection) do
        if rem(connection.id, 10) == 0, do: {:python, "canary:Protocol"}, else: :elixir
      end
  """
  @callback route(Connection.t()) :: :elixir | {:python, module_and_factory :: String.t()}

  @optional_callbacks handle: 1, route: 1

  defmacro __using__(options) do
    quote do
      @behaviour Reactor.Behaviour

      @doc false
      def __reactor__, do: unquote(options)

      @doc false
      def child_spec(options), do: Reactor.child_spec({__MODULE__, options})

      @doc false
      def accept(listener), do: Reactor.Connection.accept(listener)

      @doc false
      def start(connection), do: Reactor.Behaviour.run(__MODULE__, connection)

      @doc false
      def handle(_connection), do: Reactor.Behaviour.missing(__MODULE__)

      defoverridable child_spec: 1, accept: 1, start: 1, handle: 1
    end
  end

  @doc false
  @spec run(module, Connection.t()) :: :ok
  def run(module, connection) do
    module.handle(connection)
    :ok
  end

  @doc false
  @spec missing(module) :: no_return
  def missing(module) do
    raise ArgumentError, "#{inspect(module)} must define handle/1 or start/1"
  end
end
