defmodule Reactor.Proxy do
  @moduledoc """
  The PROXY protocol: how a proxy, or a load balancer, tells whose connection it passes on.

  It is that of HAProxy's text "The PROXY protocol", in its versions 1 (a line) and 2 (binary). A header is
  the first thing on a connection, in front of TLS.

  ## A listener that expects headers

      Reactor.start(MyApp.Echo, port: 8080, proxy: [trusted: ["10.0.0.0/8", "::1"]])

  | option | value | default | meaning |
  |---|---|---|---|
  | `:trusted` | list of networks | | from where headers come: each as text (`"10.0.0.0/8"`, `"::1"`), as an address tuple, or `:local` for the peers of Unix sockets |
  | `:timeout` | ms | `5000` | how long a header may take |

  `:trusted` has to be given. Who connects from there must send a header: any other beginning, one that
  is not exactly as specified, and one that takes too long close the connection, before a handler
  sees it. Who connects from elsewhere is served as on any listener, and a header of theirs is never
  believed: it is data as any other. An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.

  A header of version 1 has at most 107 bytes, as specified. One of version 2 may have 16 and 4096 more:
  enough for all names and ids, and for most client certificates.

  ## A client that sends one

      Reactor.connect("localhost", 8080, proxy: [version: 2, source: {"192.0.2.1", 4711}])

  | option | value | default | meaning |
  |---|---|---|---|
  | `:version` | `1`, `2` | `2` | of the protocol |
  | `:source` | `{ip, port}` | the socket's own address | whose connection it is |
  | `:destination` | `{ip, port}` | that of the socket's peer | where it was made to |

  An address is a tuple or text. If one is IPv4 and the other IPv6, both are sent as IPv6.

  Only the transport `:native` has this, for streams.
  """

  alias Reactor.{ConfigError, Native, Options}

  @typedoc """
  What a header says.

    * `:version` - of the protocol
    * `:command` - `:proxy`, or `:local` if the connection is the proxy's own, as for a health check:
      the socket's addresses are then the true ones
    * `:transport` - how the proxy was reached, `nil` if it does not say
    * `:source`, `:destination` - who connected to the proxy, and to what address; `nil` if it does not say,
      and `{:local, path}` for Unix sockets
    * `:tlvs` - what else version 2 may say
  """
  @type t :: %{
          version: 1 | 2,
          command: :proxy | :local,
          transport: :stream | :datagram | nil,
          source: address | nil,
          destination: address | nil,
          tlvs: tlvs
        }

  @type address :: {:inet.ip_address(), :inet.port_number()} | {:local, path :: binary}

  @typedoc """
  Only what the header has:

    * `:alpn` - the protocol that was agreed on with the client
    * `:authority` - the name of the host that it asked for (by SNI)
    * `:unique_id` - the proxy's id for the connection, up to 128 bytes
    * `:netns` - the network namespace that the proxy was reached in
    * `:ssl` - about the client's TLS
    * `:others` - those of other types, in order

  A checksum (CRC32C) is verified where there is one.
  """
  @type tlvs :: %{
          optional(:alpn) => binary,
          optional(:authority) => String.t(),
          optional(:unique_id) => binary,
          optional(:netns) => String.t(),
          optional(:ssl) => ssl,
          optional(:others) => [{type :: byte, value :: binary}]
        }

  @typedoc """
  What the proxy says about the client's TLS.

    * `:tls` - true if it was used
    * `:certificate`, `:certificate_in_session` - the client showed a certificate in this connection, or in
      one with the same TLS session
    * `:verify` - what came of verifying it, 0 if it is good; `:verified` - true if it showed one, and
      that is good

  and, only if the header has them, texts as `:version` (`"TLSv1.3"`), and the certificate in DER.
  """
  @type ssl :: %{
          required(:tls) => boolean,
          required(:certificate) => boolean,
          required(:certificate_in_session) => boolean,
          required(:verified) => boolean,
          required(:verify) => non_neg_integer,
          optional(:version) => String.t(),
          optional(:cn) => String.t(),
          optional(:cipher) => String.t(),
          optional(:sig_alg) => String.t(),
          optional(:key_alg) => String.t(),
          optional(:group) => String.t(),
          optional(:sig_scheme) => String.t(),
          optional(:client_cert) => binary
        }

  @typedoc false
  @type expected :: %{
          trusted: [{:inet.ip_address(), bits :: 0..128} | :local],
          timeout: pos_integer
        }

  @typedoc false
  @type announced :: %{
          version: 1 | 2,
          source: {:inet.ip_address(), :inet.port_number()} | nil,
          destination: {:inet.ip_address(), :inet.port_number()} | nil
        }

  # As much as a timer of the emulator takes.
  @max_time 4_294_967_295

  @timeout 5_000

  @network ~s(a network \("10.0.0.0/8"\), an address \(text or tuple\) or :local)
  @address ~s({ip, port}, as {"192.0.2.1", 4711}, or nil)

  @expected %{
    trusted: "a list, not empty, each of which is #{@network}",
    timeout: "a number of milliseconds from 1 to #{@max_time}",
    version: "1 or 2",
    source: @address,
    destination: @address
  }

  @doc """
  Looks for a header at the beginning of what was received, for a handler on another transport.

  Returns the header and what follows it; `:partial` if it may become one when more is received (there are then fewer
  than 107 bytes, or 4112 for version 2); or why it is none. Who asks has to know that the peer can be
  believed.

      iex> line = "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\\r\\nGET / HTTP/1.1"
      iex> {:ok, header, "GET / HTTP/1.1"} = Reactor.Proxy.parse(line)
      iex> {header.version, header.command, header.source, header.destination}
      {1, :proxy, {{192, 0, 2, 1}, 4711}, {{198, 51, 100, 2}, 443}}
      iex> Reactor.Proxy.parse("PROXY TCP4 192.0.2.1")
      :partial
      iex> Reactor.Proxy.parse("GET / HTTP/1.1")
      {:error, "it does not begin as a PROXY header"}
  """
  @spec parse(binary) :: {:ok, t, rest :: binary} | :partial | {:error, String.t()}
  def parse(bytes) when is_binary(bytes), do: Native.proxy_parse(bytes)

  @doc false
  # A listener's :proxy; the error is about the option in it that is wrong.
  @spec listener(term) :: {:ok, expected | false} | {:error, ConfigError.t()} | :error
  def listener(false), do: {:ok, false}

  def listener(options) do
    with {:ok, proxy} <- each(options, %{trusted: nil, timeout: @timeout}) do
      if proxy.trusted, do: {:ok, proxy}, else: {:error, error(:trusted, nil)}
    end
  end

  @doc false
  # That of a connection that is dialed.
  @spec client(term) :: {:ok, announced | nil} | {:error, ConfigError.t()} | :error
  def client(nil), do: {:ok, nil}
  def client(options), do: each(options, %{version: 2, source: nil, destination: nil})

  defp each(options, defaults) do
    if Keyword.keyword?(options),
      do: Options.put_all(defaults, options, &put/3),
      else: :error
  end

  defp put(proxy, name, value) when is_map_key(proxy, name) do
    case option(name, value) do
      {:ok, value} -> {:ok, Map.put(proxy, name, value)}
      :error -> {:error, error(name, value)}
      {:error, error} -> {:error, error}
    end
  end

  defp put(proxy, name, _value), do: {:error, ConfigError.unknown(name, Map.keys(proxy))}

  defp option(:timeout, value) when value in 1..@max_time, do: {:ok, value}
  defp option(:version, value) when value in [1, 2], do: {:ok, value}

  defp option(:trusted, [_ | _] = list) do
    if List.improper?(list), do: :error, else: networks(list, [])
  end

  defp option(name, nil) when name in [:source, :destination], do: {:ok, nil}

  defp option(name, {ip, port}) when name in [:source, :destination] and port in 0..65_535 do
    with {:ok, ip} <- ip(ip), do: {:ok, {ip, port}}
  end

  defp option(_name, _value), do: :error

  defp networks([], done), do: {:ok, Enum.reverse(done)}

  defp networks([network | others], done) do
    case network(network) do
      {:ok, network} -> networks(others, [network | done])
      :error -> {:error, wrong(network, @network)}
      {:error, expected} -> {:error, wrong(network, expected)}
    end
  end

  # The one of them that is wrong.
  defp wrong(network, expected), do: ConfigError.hiding(:trusted, network, expected)

  defp network(:local), do: {:ok, :local}

  defp network(text) when is_binary(text) do
    with [address, bits] <- String.split(text, "/"),
         {:ok, ip} <- ip(address),
         {:ok, bits} <- bits(bits, size(ip)) do
      of_network(ip, bits)
    else
      [_no_bits] -> one(text)
      _no_network -> :error
    end
  end

  defp network(ip), do: one(ip)

  defp one(ip) do
    with {:ok, ip} <- ip(ip), do: {:ok, {ip, size(ip)}}
  end

  defp bits(text, size) do
    if text =~ ~r/\A\d{1,3}\z/ and String.to_integer(text) <= size,
      do: {:ok, String.to_integer(text)},
      else: :error
  end

  # Who writes 10.0.0.1/8 may have meant one address: who is trusted must not be a matter of luck.
  defp of_network(ip, bits) do
    case first(ip, bits) do
      ^ip -> {:ok, {ip, bits}}
      first -> {:error, ~s("#{:inet.ntoa(first)}/#{bits}", or "#{:inet.ntoa(ip)}" alone)}
    end
  end

  # The address of the network that it is in.
  defp first(ip, bits) do
    width = div(size(ip), tuple_size(ip))

    {parts, _left} =
      ip
      |> Tuple.to_list()
      |> Enum.map_reduce(bits, fn part, left ->
        host = (width - left) |> max(0) |> min(width)
        {part |> Bitwise.bsr(host) |> Bitwise.bsl(host), left - width}
      end)

    List.to_tuple(parts)
  end

  defp size(ip), do: if(tuple_size(ip) == 4, do: 32, else: 128)

  defp ip(ip) when is_tuple(ip), do: if(:inet.is_ip_address(ip), do: {:ok, ip}, else: :error)

  # Not parse_address/1, for which "10" is 0.0.0.10.
  defp ip(text) when is_binary(text) do
    with true <- String.valid?(text),
         {:ok, ip} <- :inet.parse_strict_address(String.to_charlist(text)) do
      {:ok, ip}
    else
      _no_address -> :error
    end
  end

  defp ip(_other), do: :error

  defp error(name, value), do: ConfigError.hiding(name, value, Map.fetch!(@expected, name))

  @doc false
  # As the native side takes them.
  @spec to_native(expected | announced | false | nil) :: tuple | nil
  def to_native(%{trusted: trusted, timeout: timeout}) do
    {List.delete(Enum.uniq(trusted), :local), :local in trusted, timeout}
  end

  def to_native(%{version: version, source: source, destination: destination}) do
    {version, source, destination}
  end

  def to_native(_none), do: nil
end
