defmodule Reactor.Listener.Options do
  @moduledoc false

  # What each option of a listener may be, and which go together. Reactor.Listener documents them.

  alias Reactor.{Address, ConfigError, Listener, Options, Proxy, Python, Socket, Transport}
  alias Reactor.Listener.Place

  @max 4_294_967_295
  @limit "an integer from 1 to #{@max}, or :infinity"

  # More than there are cores.
  @max_sockets 1024

  # As much as the kernel takes, and a number of words that a heap can have.
  @max_int 2_147_483_647

  # Of the contexts: each of them alone is validated there.
  @of_contexts Python.Options.shared()

  @own %{
    ip: "an address (a tuple or text), {:local, path}, :any or :loopback",
    ipv6_v6only: "true or false",
    unix: "a keyword list with :mode, :owner and :group",
    fd: "the number of a descriptor, {:systemd, name} or {:systemd, index}",
    port: "an integer from 0 to 65535",
    name: "an atom, {:global, term} or {:via, module, term} with a module that registers names",
    protocol: ":tcp or :udp",
    transport: ":native, :tcp, :ssl or a module that is a Reactor.Transport",
    secure: "false, or a keyword list of options for TLS",
    proxy: "false, or a keyword list with :trusted, a list of networks, and perhaps :timeout",
    acceptors: "a positive integer",
    backlog: "an integer from 1 to #{@max_int}",
    reuseaddr: "true or false",
    reuseport: "true or false",
    num_listen_sockets: "an integer from 1 to #{@max_sockets}",
    max_connections: @limit,
    overload: ":wait or :reject",
    max_connections_per_ip: @limit,
    accept_rate: @limit,
    drain_timeout: "a number of milliseconds from 0 to #{@max}",
    going_away: "true or false",
    profile: "true or false",
    spawn_opt:
      "a keyword list of options for spawned processes, as :erlang.spawn_opt/4 takes them",
    python: ~s("module:factory" or "module"),
    contexts: "a positive integer"
  }

  @expected Map.merge(@own, @of_contexts)

  @names [:env | Map.keys(@expected)] ++ Socket.Options.names()

  # Only the loops count these.
  @native_only [:max_connections_per_ip, :accept_rate]

  @python_only [:contexts | Map.keys(@of_contexts)]

  @spawn_options [
    :fullsweep_after,
    :min_heap_size,
    :min_bin_vheap_size,
    :max_heap_size,
    :message_queue_data,
    :priority
  ]

  @doc "Every name of an option, those of connections included."
  @spec names() :: [atom]
  def names, do: @names

  @doc "What an option has to be, in words."
  @spec expected(atom) :: String.t()
  def expected(name), do: Map.fetch!(@expected, name)

  @doc "Puts options into a descriptor, each validated by itself; the last of a name counts."
  @spec put_all(Listener.t(), keyword) :: {:ok, Listener.t()} | {:error, ConfigError.t()}
  def put_all(listener, options), do: Options.put_all(listener, options, &put/3)

  defp put(listener, name, value) do
    case option(name, value) do
      {:ok, value} ->
        {:ok, Map.put(listener, name, value)}

      {:error, error} ->
        {:error, error}

      :error when is_map_key(@expected, name) ->
        {:error, error(name, value, @expected[name])}

      :error ->
        put_socket_option(listener, name, value)
    end
  end

  defp put_socket_option(listener, name, value) do
    case Socket.Options.option(name, value) do
      :ok -> {:ok, %{listener | options: Map.put(listener.options, name, value)}}
      {:error, %{expected: nil}} -> {:error, ConfigError.unknown(name, @names)}
      {:error, error} -> {:error, error}
    end
  end

  defguardp is_limit(value) when value == :infinity or value in 1..@max

  # One clause each; what no clause takes is wrong, or is an option of the connections.
  defp option(name, value) when is_map_key(@of_contexts, name),
    do: Python.Options.option(name, value)

  defp option(:env, value), do: {:ok, value}
  defp option(:port, value) when value in 0..65_535, do: {:ok, value}
  defp option(:protocol, value) when value in [:tcp, :udp], do: {:ok, value}
  defp option(:acceptors, value) when is_integer(value) and value > 0, do: {:ok, value}
  defp option(:backlog, value) when value in 1..@max_int, do: {:ok, value}
  defp option(:reuseaddr, value) when is_boolean(value), do: {:ok, value}
  defp option(:reuseport, value) when is_boolean(value), do: {:ok, value}
  defp option(:num_listen_sockets, value) when value in 1..@max_sockets, do: {:ok, value}
  defp option(:ipv6_v6only, value) when is_boolean(value) or value == nil, do: {:ok, value}
  defp option(:fd, nil), do: {:ok, nil}
  defp option(:fd, fd) when fd in 0..@max_int, do: {:ok, fd}
  defp option(:fd, {:systemd, name} = fd) when is_binary(name) and name != "", do: {:ok, fd}
  defp option(:fd, {:systemd, index} = fd) when index in 0..@max_int, do: {:ok, fd}
  defp option(:max_connections, value) when is_limit(value), do: {:ok, value}
  defp option(:overload, value) when value in [:wait, :reject], do: {:ok, value}
  defp option(:max_connections_per_ip, value) when is_limit(value), do: {:ok, value}
  defp option(:accept_rate, value) when is_limit(value), do: {:ok, value}
  defp option(:going_away, value) when is_boolean(value), do: {:ok, value}
  defp option(:profile, value) when is_boolean(value), do: {:ok, value}
  # More a timer of the emulator does not take.
  defp option(:drain_timeout, value) when value in 0..@max, do: {:ok, value}
  defp option(:contexts, value) when is_integer(value) and value > 0, do: {:ok, value}

  defp option(:name, name) when is_atom(name), do: {:ok, name}
  defp option(:name, {:global, _} = name), do: {:ok, name}

  defp option(:name, {:via, module, _} = name) when is_atom(module) do
    if Code.ensure_loaded?(module) and function_exported?(module, :register_name, 2),
      do: {:ok, name},
      else: :error
  end

  defp option(:ip, :any), do: {:ok, {0, 0, 0, 0}}
  defp option(:ip, :loopback), do: {:ok, {127, 0, 0, 1}}

  defp option(:ip, {:local, path} = value) do
    with {:error, expected} <- Address.local(path), do: {:error, error(:ip, value, expected)}
  end

  defp option(:ip, ip) when is_tuple(ip) do
    if :inet.is_ip_address(ip), do: {:ok, ip}, else: :error
  end

  defp option(:ip, ip) when is_binary(ip) do
    with true <- String.valid?(ip),
         {:ok, ip} <- :inet.parse_address(String.to_charlist(ip)) do
      {:ok, ip}
    else
      _no_address -> :error
    end
  end

  defp option(:unix, options) do
    if Keyword.keyword?(options), do: Place.access(options), else: :error
  end

  defp option(:transport, transport) do
    case Transport.module(transport) do
      {:ok, module} -> {:ok, module}
      :error -> :error
    end
  end

  defp option(:secure, false), do: {:ok, false}
  defp option(:secure, options), do: Transport.SSL.Options.validate(:server, options)

  defp option(:proxy, options), do: Proxy.listener(options)

  defp option(:spawn_opt, options) do
    valid? =
      Keyword.keyword?(options) and Enum.all?(options, &spawn_option?/1) and spawns?(options)

    if valid?, do: {:ok, options}, else: :error
  end

  defp option(:python, value), do: Python.Options.option(:python, value)

  defp option(_name, _value), do: :error

  defp spawn_option?({:priority, value}), do: value in [:low, :normal, :high, :max]
  defp spawn_option?({:message_queue_data, value}), do: value in [:on_heap, :off_heap]

  defp spawn_option?({:max_heap_size, %{size: size} = limit}) do
    size in 0..@max_int and
      Enum.all?(Map.delete(limit, :size), fn {name, value} ->
        name in [:kill, :error_logger, :include_shared_binaries] and is_boolean(value)
      end)
  end

  defp spawn_option?({name, value}), do: name in @spawn_options and value in 0..@max_int

  # What one alone does not show: a heap may not be larger at first than it may ever be.
  defp spawns?(options) do
    _pid = :erlang.spawn_opt(fn -> :ok end, options)
    true
  rescue
    ArgumentError -> false
  end

  @doc "Validates what one option alone does not show."
  @spec together(Listener.t()) :: :ok | {:error, ConfigError.t()}
  def together(listener) do
    with :ok <- Socket.Options.together(listener.options),
         :ok <- datagrams(listener),
         :ok <- Socket.Options.supported(listener.options, listener.transport),
         :ok <- counted(listener),
         :ok <- proxied(listener),
         :ok <- served(listener),
         :ok <- Python.Options.available(listener),
         :ok <- apart(listener) do
      secured(listener)
    end
  end

  # What cannot go into another process.
  defp apart(%{isolation: :process, protocol: :udp}) do
    expected =
      "another isolation with protocol :udp: a socket for datagrams cannot go into another process"

    {:error, error(:isolation, :process, expected)}
  end

  defp apart(%{isolation: :process, route: true, secure: secure}) when secure != false do
    expected =
      "another isolation with :secure and route/1: a TLS connection cannot go into another process when it is open"

    {:error, error(:isolation, :process, expected)}
  end

  defp apart(_listener), do: :ok

  # What makes no sense without connections.
  @of_connections [
    secure: false,
    proxy: false,
    backlog: 1024,
    max_connections: :infinity,
    overload: :wait,
    max_connections_per_ip: :infinity,
    accept_rate: :infinity
  ]

  # What it does not have besides.
  @of_streams [fd: nil, num_listen_sockets: 1]

  defp datagrams(%{protocol: :tcp}), do: :ok

  defp datagrams(%{ip: {:local, _path} = ip}) do
    {:error, error(:ip, ip, "an IPv4 or IPv6 address with protocol :udp")}
  end

  defp datagrams(%{transport: transport} = listener) do
    other = fn {name, value} -> Map.fetch!(listener, name) != value end
    wrong = Enum.find(@of_connections, other)
    more = Enum.find(@of_streams, other)

    cond do
      transport != Transport.Native ->
        {:error, error(:transport, Transport.name(transport), ":native with protocol :udp")}

      listener.route ->
        {:error, error(:protocol, :udp, ":tcp for a module with route/1")}

      wrong != nil ->
        stream_option(wrong, listener, "which has no connections")

      more != nil ->
        stream_option(more, listener, "which has one socket, its own")

      true ->
        Socket.Options.supported(listener.options, Transport.Native.Datagrams)
    end
  end

  defp stream_option({name, default}, listener, why) do
    expected = "#{inspect(default)} with protocol :udp, #{why}"
    {:error, error(name, Map.fetch!(listener, name), expected)}
  end

  @doc "Validates an option that only the native transport has, where it is given."
  @spec native(atom, term, String.t(), module) :: :ok | {:error, ConfigError.t()}
  def native(_name, _value, _none, Transport.Native), do: :ok

  def native(name, value, none, transport) do
    expected = "#{none} with transport #{inspect(Transport.name(transport))} (:native has it)"
    {:error, error(name, value, expected)}
  end

  defp counted(%{transport: Transport.Native}), do: :ok

  defp counted(%{transport: transport} = listener) do
    case Enum.find(@native_only, &(Map.fetch!(listener, &1) != :infinity)) do
      nil ->
        :ok

      name ->
        native(name, Map.fetch!(listener, name), ":infinity", transport)
    end
  end

  defp proxied(%{proxy: proxy, transport: transport})
       when proxy != false and transport != Transport.Native do
    transport = inspect(Transport.name(transport))
    {:error, error(:proxy, proxy, "false with transport #{transport} (:native has it)")}
  end

  defp proxied(_listener), do: :ok

  # A Python context takes over what the loops have.
  defp served(%{python: nil, route: false}), do: :ok

  defp served(%{python: python, route: true}) when python != nil do
    {:error, error(:python, python, "nil for a module with route/1, which chooses itself")}
  end

  defp served(%{transport: Transport.Native}), do: :ok

  defp served(%{transport: transport} = listener) do
    {:error, error(:transport, Transport.name(transport), ":native for #{kind(listener)}")}
  end

  defp kind(%{route: true}), do: "a module with route/1"
  defp kind(_listener), do: "a Python listener"

  defp secured(%{secure: false, transport: Transport.SSL}) do
    expected = "a keyword list with :certfile and :keyfile (or :certs_keys) with transport :ssl"

    {:error, error(:secure, false, expected)}
  end

  defp secured(%{secure: secure, transport: Transport.TCP}) when secure != false do
    {:error, error(:transport, :tcp, ":native or :ssl where :secure is given")}
  end

  defp secured(%{secure: secure, transport: Transport.Native}) when secure != false do
    Transport.Native.Secure.supported(:server, secure)
  end

  defp secured(_listener), do: :ok

  @doc "Validates that who gives options of Python contexts has any."
  @spec meant_for_python(Listener.t(), keyword) :: :ok | {:error, ConfigError.t()}
  def meant_for_python(listener, options)

  def meant_for_python(%{python: nil, route: false}, options) do
    case Enum.find(options, fn {name, _value} -> name in @python_only end) do
      nil ->
        :ok

      {name, value} ->
        expected = "left out without :python, and without route/1 in the module"
        {:error, error(name, value, expected)}
    end
  end

  def meant_for_python(_listener, _options), do: :ok

  @doc "An error, without a value that may hold a password: those are seen in logs."
  @spec error(atom, term, String.t()) :: ConfigError.t()
  def error(name, value, expected) do
    ConfigError.hiding(name, value, expected)
  end
end
