defmodule Reactor.BertRpc do
  @moduledoc """
  BERT-RPC: functions that programs in other languages call, and calls of theirs.

  It is `{call, module, function, arguments}` in BERT (see `Reactor.Bert`), in packets with a length of four bytes.
  The guide says more of the protocol and what of it is here.

  ## A server

      defmodule MyApp.Rpc do
        use Reactor.BertRpc, expose: [calc: {MyApp.Calc, [:add]}]
      end

      iex> {:ok, server} = Reactor.start(MyApp.Rpc, port: 0)
      iex> {:ok, client} = Reactor.BertRpc.connect("localhost", Reactor.info(server).port)
      iex> Reactor.BertRpc.call(client, :calc, :add, [1, 2])
      {:ok, 3}
      iex> {:error, error} = Reactor.BertRpc.call(client, :calc, :sub, [1, 2])
      iex> Exception.message(error)
      "server error 2, BERTError: function 'sub/2' not found on module 'calc'"
      iex> Reactor.BertRpc.close(client)
      iex> Reactor.stop(server)
      :ok

  It is a listener like any other, with its limits, deadlines, TLS and drain. Options of `use`, beside those of
  `Reactor.Listener`:

  | Option | | Default | |
  |---|---|---|---|
  | `:expose` | names and modules | | what can be called: `[calc: MyCalc]` exposes all public functions of the module as `calc`, `[calc: {MyCalc, [:add, sub: 2]}]` those that are named, and nothing else |
  | `:timeout` | ms or `:infinity` | 5,000 | how long a function may run |
  | `:max_heap` | bytes or `:infinity` | 256 MiB | how large its process may become |
  | `:max_packet` | bytes | 16 MiB | the largest request and reply. A request that has more than twice as much ends the connection. |
  | `:max_stream` | bytes | 64 MiB | the longest stream of a request |
  | `:max_casts` | | 16 | how many casts of a connection run at a time; the next one is not read before one is over |
  | `:callbacks` | `false`, `true`, addresses | `false` | where casts may call back to: anybody who can call could have this machine connect to what they name |

  A function runs in a process of its own. Its result is the reply. What it raises is answered as an error of
  the type `:user` with the exception's name and where it was; the message is in the log alone, since it may tell what is
  not for others. `Reactor.BertRpc.Error` is answered as it is.

  With a stream a function gets one argument more, an enumerable of binaries, which are read as they are taken.
  `stream/1` makes a result that is sent as a stream, `cached/2` one that may be kept.

  ## A client

  `connect/3` returns a connection of the calling process. One process at a time may use it. After a timeout it is
  closed, since the answer could still come.
  """

  alias Reactor.{ConfigError, Connection, Socket}
  alias Reactor.BertRpc.{Client, Error, Reply, Request}

  @own [:timeout, :max_packet, :max_stream]

  @typedoc """
  What a request can end with: an error of the server; one of the connection (`:closed`, `:timeout`), which is closed
  then; what is too large; and what cannot be encoded or decoded.
  """
  @type reason ::
          Error.t()
          | Reactor.Transport.reason()
          | {:too_large, map}
          | {:unencodable | :undecodable, String.t()}

  defmacro __using__(options) do
    quote do
      use Reactor.Behaviour, Reactor.BertRpc.Options.listener(unquote(options))

      @doc false
      def handle(connection) do
        Reactor.BertRpc.Server.serve(connection, Reactor.BertRpc.Options.new!(unquote(options)))
      end
    end
  end

  # ---- results of functions ----

  @doc """
  A result that the client, or a cache on the way, may keep: `[access: :public | :private]` and either `expiration: seconds`
  (0 is for ever) or `validation: token`, a binary that changes when the value does.

  The value may be a function without arguments. It is not called if the client sends the token.

      iex> Reactor.BertRpc.cached(17, access: :public, expiration: 60).cache
      [access: :public, expiration: 60]
      iex> Reactor.BertRpc.cached(17, expiry: 60)
      ** (ArgumentError) expected :access (:public or :private) and either :expiration (seconds) or :validation (a binary), got: [expiry: 60]
  """
  @spec cached(value :: term | fun, Reply.cache()) :: Reply.t()
  def cached(value, hints) do
    unless Keyword.keyword?(hints) and hint?(Enum.sort(hints)) do
      raise ArgumentError,
            "expected :access (:public or :private) and either :expiration (seconds) or :validation (a binary), got: " <>
              inspect(hints, limit: 10, printable_limit: 100)
    end

    %Reply{value: value, cache: hints}
  end

  defp hint?(access: access, expiration: seconds) when is_integer(seconds) and seconds >= 0,
    do: access in [:public, :private]

  defp hint?(access: access, validation: token) when is_binary(token),
    do: access in [:public, :private]

  defp hint?(_hints), do: false

  @doc """
  A result that is sent as a stream: an enumerable of binaries, taken as fast as the client reads.

  If it fails after it has begun, the connection ends without the stream's end.
  """
  @spec stream(Enumerable.t()) :: Reply.t()
  def stream(enumerable), do: %Reply{stream: enumerable}

  # ---- the client ----

  @doc """
  Connects to a server; the caller owns the connection.

  Options, beside those of `Reactor.connect/3`, are `:timeout` (ms or `:infinity`, to connect and for each request; 5,000),
  `:max_packet` (bytes of a request or an answer; 16 MiB) and `:max_stream` (bytes of a stream that is received; 64 MiB).

  Errors are those of `Reactor.connect/3`.
  """
  @spec connect(term, :inet.port_number(), keyword) :: {:ok, Client.t()} | {:error, term}
  def connect(host, port, options \\ []) do
    {own, options} = Keyword.split(options, @own)
    timeout = Keyword.get(own, :timeout, 5_000)
    max_packet = Keyword.get(own, :max_packet, 16 * 1_024 * 1_024)
    max_stream = Keyword.get(own, :max_stream, 64 * 1_024 * 1_024)
    framing = [timeout: timeout, packet: 4, packet_size: max_packet]

    with :ok <- max_stream(max_stream),
         {:ok, connection} <- Reactor.connect(host, port, Keyword.merge(options, framing)) do
      {:ok,
       %Client{
         connection: connection,
         timeout: timeout,
         max_packet: max_packet,
         max_stream: max_stream
       }}
    end
  end

  defp max_stream(bytes) when is_integer(bytes) and bytes >= 0, do: :ok

  defp max_stream(other),
    do: {:error, ConfigError.hiding(:max_stream, other, "a number of bytes from 0 on")}

  @doc """
  Calls a function and returns its result; of a stream, its bytes.

  Options are those of `request/5`. Errors are `t:reason/0`.
  """
  @spec call(Client.t(), atom, atom, list, keyword) :: {:ok, term} | {:error, reason}
  def call(client, module, function, args, options \\ []) do
    with {:ok, reply} <- request(client, module, function, args, options), do: {:ok, reply.value}
  end

  @doc """
  Calls a function and returns all that is said of its result, see `Reactor.BertRpc.Reply`.

  Options:

    * `:timeout` - in ms, or `:infinity`, for the answer
    * `:stream` - an enumerable of binaries, sent after the request
    * `:validation` - the token of a value that is kept. If that is valid, the reply says so, and has no value.

  Errors are `t:reason/0`. Raises `ArgumentError` for an option that does not exist, or has a wrong value.
  """
  @spec request(Client.t(), atom, atom, list, keyword) :: {:ok, Reply.t()} | {:error, reason}
  def request(%Client{} = client, module, function, args, options \\ [])
      when is_atom(module) and is_atom(function) and is_list(args) do
    options = Request.options!(options, [:timeout, :stream, :validation])
    Client.request(client, {:call, module, function, args}, options)
  end

  @doc """
  Has a function called, without its result: `:ok` says that the server has taken the request.

  Options are `:timeout`, `:stream`, and `callback: {"host:port", module, function, args}`: who is sent
  a cast with these arguments and the result when there is one, if the server is willing. Errors are `t:reason/0`.
  """
  @spec cast(Client.t(), atom, atom, list, keyword) :: :ok | {:error, reason}
  def cast(%Client{} = client, module, function, args, options \\ [])
      when is_atom(module) and is_atom(function) and is_list(args) do
    options = Request.options!(options, [:timeout, :stream, :callback])

    with {:ok, _reply} <- Client.request(client, {:cast, module, function, args}, options),
         do: :ok
  end

  @doc """
  Sends requests without waiting for the answers of those before, and returns a result for each, in their order.

  The option `:timeout` is for all of them together. After an error of the connection the rest have the same.

      iex> {:ok, server} = Reactor.start(MyApp.Rpc, port: 0)
      iex> {:ok, client} = Reactor.BertRpc.connect("localhost", Reactor.info(server).port)
      iex> Reactor.BertRpc.pipeline(client, for(n <- 1..3, do: {:call, :calc, :add, [n, n]}))
      [{:ok, 2}, {:ok, 4}, {:ok, 6}]
      iex> Reactor.stop(server)
      :ok
  """
  @spec pipeline(Client.t(), [Client.request()], timeout: timeout) ::
          [{:ok, term} | {:error, reason}]
  def pipeline(%Client{} = client, requests, options \\ []),
    do: Client.pipeline(client, requests, Request.options!(options, [:timeout]))

  @doc "Closes the connection."
  @spec close(Client.t()) :: :ok
  def close(%Client{connection: %Connection{} = connection}), do: Socket.close(connection)
end
