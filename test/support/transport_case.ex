defmodule Reactor.TransportCase do
  @moduledoc false

  # The same tests for every transport:
  #
  #     for transport <- Reactor.TransportCase.transports() do
  #       defmodule Module.concat(Reactor.SomeTest, transport) do
  #         use Reactor.TransportCase, transport: transport
  #
  # Clients are plain :gen_tcp, so that what is tested is not also what tests.

  use ExUnit.CaseTemplate

  using options do
    quote do
      @moduletag transport: unquote(options[:transport])
      import Reactor.TransportCase
    end
  end

  @spec transports() :: [atom]
  def transports do
    case System.get_env("REACTOR_TRANSPORTS") do
      nil -> [:Native, :TCP]
      names -> names |> String.split(",") |> Enum.map(&String.to_atom/1)
    end
  end

  @doc "The value of the `:transport` option for a test."
  def option(%{transport: name}), do: Module.concat(Reactor.Transport, name)

  @doc "Starts a server that ends with the test; the environment is the test's process."
  def serve(context, module, options \\ []) do
    options = Keyword.merge([transport: option(context), ip: :loopback, env: self()], options)

    spec = Supervisor.child_spec({Reactor, {module, options}}, id: make_ref())
    start_supervised!(spec)
  end

  def port(server), do: Reactor.info(server).port

  @doc "A passive raw client of a server."
  def dial(server, options \\ []) do
    {:ok, client} =
      :gen_tcp.connect({127, 0, 0, 1}, port(server), [:binary, active: false] ++ options, 5_000)

    client
  end

  @doc "Sends, and takes as many bytes back."
  def echo(client, data) do
    :ok = :gen_tcp.send(client, data)
    {:ok, back} = :gen_tcp.recv(client, IO.iodata_length(data), 5_000)
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
    case :gen_tcp.recv(client, 0, 10_000) do
      {:ok, data} -> read_all(client, [read, data])
      {:error, :closed} -> IO.iodata_to_binary(read)
    end
  end

  @doc """
  Asks again until the answer is true: for what happens soon, without an event of its own.
  """
  def eventually(ask, deadline \\ System.monotonic_time(:millisecond) + 5_000) do
    cond do
      ask.() ->
        true

      System.monotonic_time(:millisecond) > deadline ->
        false

      true ->
        :erlang.yield()
        eventually(ask, deadline)
    end
  end
end
