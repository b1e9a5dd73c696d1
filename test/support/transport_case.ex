defmodule Reactor.TransportCase do
  @moduledoc false

  # The same tests for every transport:
  #
  #     for transport <- Reactor.TransportCase.transports() do
  #       defmodule Module.concat(Reactor.SomeTest, transport) do
  #         use Reactor.TransportCase, transport: transport
  #
  # Clients are plain :gen_tcp, so that what is tested is not also what tests. A test that is also for TLS
  # asks for `all_transports`, and uses its client by the functions below, which know both.

  use ExUnit.CaseTemplate

  using options do
    quote do
      @moduletag transport: unquote(options[:transport])
      import Reactor.TransportCase
    end
  end

  @doc "Those whose clients are plain `:gen_tcp`."
  @spec transports() :: [atom]
  def transports, do: all_transports() -- [:SSL, :NativeTLS]

  @spec all_transports() :: [atom]
  def all_transports do
    case System.get_env("REACTOR_TRANSPORTS") do
      nil -> [:Native, :TCP, :SSL, :NativeTLS]
      names -> names |> String.split(",") |> Enum.map(&String.to_atom/1)
    end
  end

  @doc "The value of the `:transport` option for a test."
  def option(%{transport: :NativeTLS}), do: Reactor.Transport.Native
  def option(%{transport: name}), do: Module.concat(Reactor.Transport, name)

  @doc "Starts a server that ends with the test; the environment is the test's process."
  def serve(context, module, options \\ []) do
    options =
      [transport: option(context), ip: :loopback, env: self()]
      |> Keyword.merge(secure(context))
      |> Keyword.merge(isolated(context))
      |> Keyword.merge(options)

    spec = Supervisor.child_spec({Reactor, {module, options}}, id: make_ref())
    start_supervised!(spec)
  end

  defp secure(%{transport: name}) when name in [:SSL, :NativeTLS],
    do: [secure: Reactor.Certificates.server()]

  defp secure(_context), do: []

  # For the tests that run in every isolation of Python contexts.
  defp isolated(%{isolation: isolation}), do: [isolation: isolation]
  defp isolated(_context), do: []

  def port(server), do: Reactor.info(server).port

  @doc "A passive raw client of a server."
  def dial(server, options \\ []) do
    listener = Reactor.listener(server)
    port = listener.port
    options = [:binary, active: false] ++ options

    {:ok, client} =
      if Reactor.Listener.secure?(listener) do
        :ssl.connect(~c"localhost", port, options ++ trusting(), 5_000)
      else
        :gen_tcp.connect({127, 0, 0, 1}, port, options, 5_000)
      end

    client
  end

  # Half of a connection is not known to :ssl; its log would tell of every refused certificate.
  defp trusting do
    [verify: :verify_peer, log_level: :none] ++ Reactor.Certificates.trusting()
  end

  @doc "The names of a transport's messages in active mode."
  def tags(%{transport: :SSL}),
    do: %{data: :ssl, closed: :ssl_closed, passive: :ssl_passive, error: :ssl_error}

  def tags(_context),
    do: %{data: :tcp, closed: :tcp_closed, passive: :tcp_passive, error: :tcp_error}

  defmodule Lend do
    @moduledoc false

    # Gives each connection to the test, and waits for it to be over.
    use Reactor

    def handle(connection) do
      Reactor.Socket.process!(connection, connection.listener.env)
      send(connection.listener.env, {:lent, connection})
      monitor = Process.monitor(connection.listener.env)
      receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
    end
  end

  @doc "A connection that the test owns, and its peer."
  def pair(context, options \\ []) do
    client = context |> serve(Lend, options) |> dial()
    assert_receive {:lent, connection}
    {connection, client}
  end

  @doc "Sends until the peer takes no more: with a short `:send_timeout`."
  def fill(connection, bytes \\ 100_000) do
    case Reactor.Socket.send(connection, :binary.copy("x", bytes)) do
      :ok -> fill(connection, bytes)
      {:error, :timeout} -> :ok
    end
  end

  # What a client does.

  def put(client, data), do: peer(client).send(client, data)
  def take(client, length, timeout \\ 20_000), do: peer(client).recv(client, length, timeout)
  def shut(client, how), do: peer(client).shutdown(client, how)
  def hang_up(client), do: peer(client).close(client)

  def give(client, pid), do: peer(client).controlling_process(client, pid)

  def own_address(client) when is_port(client), do: :inet.sockname(client)
  def own_address(client), do: :ssl.sockname(client)
  def peer_address(client) when is_port(client), do: :inet.peername(client)
  def peer_address(client), do: :ssl.peername(client)

  defp peer(client) when is_port(client), do: :gen_tcp
  defp peer(_sslsocket), do: :ssl

  @doc "Sends, and takes as many bytes back."
  def echo(client, data) do
    :ok = put(client, data)
    {:ok, back} = take(client, IO.iodata_length(data))
    back
  end

  @doc """
  Waits until a monitored process has ended for this reason.

  For one that ends while its monitor is on the way, OTP 25 says `:noproc` instead, though it
  was alive when it was asked in between.
  """
  defmacro assert_down(monitor, reason) do
    quote do
      monitor = unquote(monitor)

      assert_receive {:DOWN, ^monitor, _, _, reason}
                     when reason in [unquote(reason), :noproc]
    end
  end

  @doc "Everything until the peer closes."
  def read_all(client, read \\ []) do
    case take(client, 0) do
      {:ok, data} -> read_all(client, [read, data])
      {:error, :closed} -> IO.iodata_to_binary(read)
    end
  end

  @doc """
  Asks again until the answer is true: for what happens soon, without an event of its own. How soon is not the
  point: on a machine that is busy, or stops for a while, it may take long.
  """
  def eventually(ask, deadline \\ System.monotonic_time(:millisecond) + 20_000) do
    cond do
      ask.() ->
        true

      System.monotonic_time(:millisecond) > deadline ->
        false

      true ->
        # The cores are for what is waited for.
        receive do
        after
          1 -> eventually(ask, deadline)
        end
    end
  end
end
