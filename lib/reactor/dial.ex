defmodule Reactor.Dial do
  @moduledoc false

  # Connections that are dialed: what `Reactor.connect/3` was told is validated, then each address is tried in
  # turn.

  alias Reactor.{Address, ConfigError, Connection, Listener, Proxy, Socket, Transport}

  # More a timer of the emulator does not take.
  @max_time 4_294_967_295

  @time "a number of milliseconds from 0 to #{@max_time}, or :infinity"

  @doc "See `Reactor.connect/3`."
  @spec connect(term, term, term) ::
          {:ok, Connection.t()} | {:error, ConfigError.t() | Transport.reason()}
  def connect(host, port, options) do
    with :ok <- check(Keyword.keyword?(options), :options, options, "a keyword list"),
         {own, options} = Keyword.split(options, [:timeout, :transport, :secure, :proxy]),
         timeout = Keyword.get(own, :timeout, 5_000),
         {:ok, host} <- host(host),
         :ok <- port(port, host),
         :ok <- check(time?(timeout), :timeout, timeout, @time),
         {:ok, transport} <- transport(own),
         :ok <- reached(host, transport),
         {:ok, options} <- Socket.Options.validate(options),
         options = Map.merge(Socket.Options.defaults(), options),
         :ok <- Socket.Options.together(options),
         :ok <- Socket.Options.supported(options, transport),
         {:ok, options} <- secure(options, transport, own, host),
         {:ok, options} <- proxy(options, transport, own[:proxy]),
         :ok <- between(host, options[:proxy]),
         {:ok, addresses} <- addresses(host),
         {:ok, socket} <- dial(addresses, port, options, transport, timeout) do
      {:ok, Connection.new(socket)}
    end
  end

  defp check(true, _option, _value, _expected), do: :ok
  defp check(false, option, value, expected), do: {:error, error(option, value, expected)}

  defp error(option, value, expected), do: ConfigError.hiding(option, value, expected)

  defp host({:local, path} = host) do
    with {:error, expected} <- Address.local(path), do: {:error, error(:host, host, expected)}
  end

  defp host(host) do
    with :ok <- check(host?(host), :host, host, "a name, an address or {:local, path}"),
         do: {:ok, host}
  end

  defp port(port, {:local, _path}), do: check(port == 0, :port, port, "0 for a Unix socket")
  defp port(port, _host), do: check(port in 1..65_535, :port, port, "an integer from 1 to 65535")

  defp reached({:local, _path} = host, Transport.SSL),
    do: Listener.Options.native(:host, host, "a name or an address", Transport.SSL)

  defp reached(_host, _transport), do: :ok

  defp host?(host) when is_tuple(host), do: :inet.is_ip_address(host)
  defp host?(host) when is_list(host), do: host != [] and List.ascii_printable?(host)
  defp host?(host) when is_atom(host), do: host not in [nil, true, false]
  defp host?(host), do: is_binary(host) and host != "" and String.valid?(host)

  defp time?(timeout), do: timeout == :infinity or timeout in 0..@max_time

  defp transport(own) do
    secure = Keyword.get(own, :secure, false)
    name = Keyword.get(own, :transport, :native)

    case Transport.module(name) do
      {:ok, transport}
      when secure != false and transport not in [Transport.Native, Transport.SSL] ->
        {:error, error(:transport, name, ":native or :ssl where :secure is given")}

      {:ok, transport} ->
        {:ok, transport}

      :error ->
        {:error, error(:transport, name, ":native, :tcp, :ssl or a module that is a transport")}
    end
  end

  defp secure(options, transport, own, host) do
    case {Keyword.get(own, :secure, false), transport} do
      {false, Transport.SSL} -> secure_by(options, Transport.SSL, [], host)
      {false, _plain} -> {:ok, options}
      {true, transport} -> secure_by(options, transport, [], host)
      {secure, transport} -> secure_by(options, transport, secure, host)
    end
  end

  defp secure_by(options, transport, secure, host) do
    with {:ok, secure} <- Transport.SSL.Options.validate(:client, secure) do
      case transport do
        Transport.SSL ->
          {:ok, Map.merge(options, %{secure: secure, host: host})}

        Transport.Native ->
          with {:ok, tls} <- Transport.Native.Secure.client(secure, host),
               do: {:ok, Map.put(options, :tls, tls)}
      end
    end
  end

  defp proxy(options, _transport, nil), do: {:ok, options}

  defp proxy(options, Transport.Native, proxy) do
    case Proxy.client(proxy) do
      {:ok, proxy} ->
        {:ok, Map.put(options, :proxy, proxy)}

      {:error, error} ->
        {:error, error}

      :error ->
        {:error, error(:proxy, proxy, "a keyword list of :version, :source, :destination")}
    end
  end

  defp proxy(_options, transport, proxy) do
    transport = inspect(Transport.name(transport))
    {:error, error(:proxy, proxy, "left out with transport #{transport} (:native has it)")}
  end

  # A Unix socket has no addresses to tell of.
  defp between({:local, _path}, %{source: source, destination: destination})
       when source == nil or destination == nil do
    {:error, error(:proxy, nil, "given with :source and :destination for a Unix socket")}
  end

  defp between(_host, _proxy), do: :ok

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
