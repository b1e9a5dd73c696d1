defmodule Reactor.Transport.SSL.Options do
  @moduledoc """
  The options of TLS: a listener's or a client's `:secure`, on the transports `:native` and `:ssl`.

  | option | value | default | meaning |
  |---|---|---|---|
  | `:certfile` | path | none | PEM file with the certificate, and those that it was signed with |
  | `:keyfile` | path | `:certfile` | PEM file with its private key |
  | `:cert`, `:key` | DER; `{type, DER}` | none | the same without files |
  | `:password` | text, or a function that returns it | none | of the key, if that is encrypted |
  | `:certs_keys` | list of maps | none | several of these, with the names above as keys; the client chooses |
  | `:cacertfile` | path | the system's, for a client | PEM file with the authorities that a peer's certificate must come from |
  | `:cacerts` | list of DER | none | the same without a file |
  | `:verify` | `:verify_peer`, `:verify_none` | client: `:verify_peer`, server: `:verify_none` | ask for the peer's certificate, and check it |
  | `:fail_if_no_peer_cert` | boolean | `false` | server: refuse a client that has none |
  | `:alpn` | list of protocol names | `[]` | protocols spoken, the best first |
  | `:versions` | list of `:"tlsv1.2"`, `:"tlsv1.3"` | both | |
  | `:handshake_timeout` | ms or `:infinity` | `5000` | server: how long a client may take for the handshake |
  | `:sni_hosts` | list of `{name, options}` | none | server: other certificates for clients that ask for this name |
  | `:server_name_indication` | name or `:disable` | the host | client: which name to ask for, and to check; `:disable` does neither |
  | `:session_tickets` | server: `:stateless`, client: `:auto`; both: `:disabled` | off; on for a server on `:native` | resume sessions of clients that come back |

  On `:native` a name in `:sni_hosts` may be `"*.example.com"`, and its options are the first six rows. A
  certificate must then be one that rustls takes: with an RSA key of 2048 bits or more, an ECDSA one on P-256, P-384 or
  P-521, or Ed25519. Of several for a name the first that the client can check is shown.

  The transport `:ssl` has more of them; `:native` refuses these, since it has no such choice:
  `:depth` (0..255), and as `:ssl` takes them `:ciphers`, `:eccs`, `:signature_algs`, `:signature_algs_cert`,
  `:supported_groups`, `:verify_fun`, `:partial_chain`, `:crl_check`, `:crl_cache`,
  `:reuse_sessions`, `:secure_renegotiate`, `:hibernate_after`, `:log_level`, `:key_update_at`,
  `:max_handshake_size`; for a server also `:sni_fun`, `:honor_cipher_order`,
  `:honor_ecc_order`, `:client_renegotiation`, `:dh`, `:dhfile`; for a client `:customize_hostname_check`.

  A client checks the name it was told to connect to. A certificate's files are read when the listener
  starts, or the client connects: one that is missing, is no certificate, or does not belong to its key is
  found there. Keys and passwords are kept in functions, so that nothing that prints a listener prints them.
  """

  alias Reactor.ConfigError
  alias Reactor.Transport.SSL.Credentials

  @type role :: :server | :client

  @typedoc "Options that were validated, with the secrets hidden."
  @type t :: keyword

  @own [
    :certfile,
    :keyfile,
    :cert,
    :key,
    :password,
    :certs_keys,
    :cacertfile,
    :cacerts,
    :verify,
    :alpn,
    :versions,
    :depth
  ]

  @passed_on [
    :ciphers,
    :eccs,
    :signature_algs,
    :signature_algs_cert,
    :supported_groups,
    :verify_fun,
    :partial_chain,
    :crl_check,
    :crl_cache,
    :session_tickets,
    :reuse_sessions,
    :secure_renegotiate,
    :hibernate_after,
    :log_level,
    :key_update_at,
    :max_handshake_size
  ]

  @names %{
    server:
      @own ++
        @passed_on ++
        [
          :handshake_timeout,
          :fail_if_no_peer_cert,
          :sni_hosts,
          :sni_fun,
          :honor_cipher_order,
          :honor_ecc_order,
          :client_renegotiation,
          :dh,
          :dhfile
        ],
    client: @own ++ @passed_on ++ [:server_name_indication, :customize_hostname_check]
  }

  # May hold a key or a password.
  @secret [:key, :password, :certs_keys, :sni_hosts]

  # What an error shows in their place.
  @hidden :"(hidden)"

  @credentials [:certfile, :cert, :certs_keys, :sni_fun, :sni_hosts]

  @path "the path of a PEM file"

  @expected %{
    certfile: @path,
    keyfile: @path,
    cacertfile: @path,
    cert: "a certificate in DER, or a list of them",
    key: "{type, DER}, as :ssl takes it, or a function that returns it",
    password: "text, or a function that returns it",
    certs_keys:
      "a list of maps with :certfile and :keyfile, or :cert and :key, and perhaps :password",
    cacerts: "a list of certificates in DER",
    verify: ":verify_peer or :verify_none",
    alpn: "a list of protocol names, each a binary of 1 to 255 bytes",
    versions: ~s(a list of :"tlsv1.2" and :"tlsv1.3"),
    depth: "an integer from 0 to 255",
    handshake_timeout: "a number of milliseconds from 1 to 4294967295, or :infinity",
    fail_if_no_peer_cert: "true or false",
    sni_hosts: "a list of {name, options}",
    server_name_indication: "a host name or :disable"
  }

  @handshake_timeout 5_000

  @doc """
  Validates options. Files are not looked at.

      iex> {:error, error} =
      ...>   Reactor.Transport.SSL.Options.validate(:server, certfile: "cert.pem", verify: :maybe)
      iex> Exception.message(error)
      "option :verify must be :verify_peer or :verify_none, got: :maybe"
  """
  @spec validate(role, term) :: {:ok, t} | {:error, ConfigError.t()}
  def validate(role, options) do
    with :ok <- keyword(options),
         {:ok, options} <- each(role, options),
         :ok <- together(role, options) do
      {:ok, options}
    end
  end

  defp keyword(options) do
    cond do
      Keyword.keyword?(options) -> :ok
      is_atom(options) -> {:error, error(:secure, options, "a keyword list")}
      true -> {:error, error(:secure, @hidden, "a keyword list")}
    end
  end

  defp each(role, options) do
    Enum.reduce_while(options, {:ok, []}, fn {name, value}, {:ok, valid} ->
      cond do
        name not in @names[role] ->
          {:halt, {:error, ConfigError.unknown(name, @names[role])}}

        valid?(name, value) ->
          {:cont, {:ok, Keyword.put(valid, name, hide(name, value))}}

        true ->
          {:halt, {:error, error(name, value, @expected[name])}}
      end
    end)
  end

  defguardp is_time(value) when value == :infinity or value in 1..4_294_967_295

  # One clause each; the names are known here.
  defp valid?(name, value) when name in [:certfile, :keyfile, :cacertfile], do: path?(value)
  defp valid?(:cert, value), do: is_binary(value) or binaries?(value)
  defp valid?(:key, value), do: Credentials.key?(value)
  defp valid?(:password, value), do: Credentials.password?(value)
  defp valid?(:certs_keys, value), do: certs_keys?(value)
  defp valid?(:cacerts, value), do: is_list(value)
  defp valid?(:verify, value), do: value in [:verify_peer, :verify_none]
  defp valid?(:alpn, value), do: is_list(value) and Enum.all?(value, &protocol?/1)

  defp valid?(:versions, value),
    do: is_list(value) and value != [] and value -- [:"tlsv1.2", :"tlsv1.3"] == []

  defp valid?(:depth, value), do: value in 0..255
  defp valid?(:handshake_timeout, value), do: is_time(value)
  defp valid?(:fail_if_no_peer_cert, value), do: is_boolean(value)
  defp valid?(:sni_hosts, value), do: is_list(value) and Enum.all?(value, &sni_host?/1)
  defp valid?(:server_name_indication, value), do: value == :disable or path?(value)
  # :ssl knows.
  defp valid?(_passed_on, _value), do: true

  defp path?([first | _] = value), do: is_integer(first) and List.ascii_printable?(value)
  defp path?(value), do: is_binary(value) and value != ""

  defp binaries?(value), do: is_list(value) and value != [] and Enum.all?(value, &is_binary/1)

  defp protocol?(value), do: is_binary(value) and byte_size(value) in 1..255

  defp certs_keys?(value), do: is_list(value) and value != [] and Enum.all?(value, &cert_key?/1)

  defp cert_key?(%{} = map) do
    (is_map_key(map, :certfile) or is_map_key(map, :cert)) and
      Enum.all?(map, fn {name, value} ->
        name in [:certfile, :keyfile, :cert, :key, :password] and valid?(name, value)
      end)
  end

  defp cert_key?(_other), do: false

  defp sni_host?({name, options}), do: path?(name) and Keyword.keyword?(options)
  defp sni_host?(_other), do: false

  defp hide(_name, function) when is_function(function), do: function
  defp hide(name, value) when name in @secret, do: fn -> value end
  defp hide(_name, value), do: value

  defp together(:server, options) do
    cond do
      not Enum.any?(@credentials, &Keyword.has_key?(options, &1)) ->
        {:error,
         error(
           :certfile,
           nil,
           "given, with :keyfile, for TLS (or :cert and :key, or :certs_keys)"
         )}

      options[:fail_if_no_peer_cert] == true and options[:verify] != :verify_peer ->
        {:error, error(:fail_if_no_peer_cert, true, "false without verify: :verify_peer")}

      options[:verify] == :verify_peer and not authorities?(options) ->
        {:error,
         error(:cacertfile, nil, "given (or :cacerts) for a server with verify: :verify_peer")}

      true ->
        :ok
    end
  end

  defp together(:client, _options), do: :ok

  defp authorities?(options) do
    Keyword.has_key?(options, :cacertfile) or Keyword.has_key?(options, :cacerts)
  end

  @doc "How long a client of a listener may take for its handshake, in ms."
  @spec handshake_timeout(t) :: timeout
  def handshake_timeout(options),
    do: Keyword.get(options, :handshake_timeout, @handshake_timeout)

  @doc """
  Reads what the options name, and says what is to be given to `:ssl`.
  """
  @spec load(role, t) :: {:ok, keyword} | {:error, ConfigError.t()}
  def load(role, options) do
    options = Enum.map(options, &reveal/1)

    with :ok <- check_credentials(options),
         :ok <- check_authorities(options[:cacertfile]),
         {:ok, options} <- trust(role, options) do
      {:ok, Enum.flat_map(defaults(role, options), &to_ssl(role, &1))}
    end
  end

  defp reveal({name, function}) when name in @secret and is_function(function, 0),
    do: {name, function.()}

  defp reveal(option), do: option

  defp check_credentials(options) do
    # Those of a client, and of each name, may be missing.
    pairs = [Map.new(options) | Keyword.get(options, :certs_keys, [])]

    pairs
    |> Enum.filter(&(is_map_key(&1, :certfile) or is_map_key(&1, :cert)))
    |> Enum.find_value(:ok, fn pair ->
      case Credentials.check(pair) do
        :ok -> nil
        {:error, {name, value, expected}} -> {:error, error(name, value, expected)}
      end
    end)
  end

  defp check_authorities(nil), do: :ok

  defp check_authorities(path) do
    case Credentials.certificates(path) do
      {:ok, _certificates} -> :ok
      {:error, expected} -> {:error, error(:cacertfile, path, expected)}
    end
  end

  # A client trusts the authorities of its system, unless told otherwise.
  defp trust(:client, options) do
    if options[:verify] == :verify_none or authorities?(options) do
      {:ok, options}
    else
      with {:ok, cacerts} <- system_authorities(), do: {:ok, [{:cacerts, cacerts} | options]}
    end
  end

  defp trust(:server, options), do: {:ok, options}

  @doc "The authorities that this system trusts, as `:public_key` gives them."
  @spec system_authorities() :: {:ok, [term]} | {:error, ConfigError.t()}
  def system_authorities do
    {:ok, :public_key.cacerts_get()}
  rescue
    # What cacerts_get raises without a file is not documented.
    _ ->
      expected =
        "given, since this system has no certificates of authorities " <>
          "(verify: :verify_none does without, and trusts anybody)"

      {:error, error(:cacertfile, nil, expected)}
  end

  # Handshakes fail all day long, and whoever starts them can make :ssl log it.
  defp defaults(:server, options), do: Keyword.merge([log_level: :error], options)

  defp defaults(:client, options) do
    Keyword.merge(
      [
        log_level: :error,
        verify: :verify_peer,
        # Names with a wildcard, as everybody has them.
        customize_hostname_check: [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
      ],
      options
    )
  end

  defp to_ssl(_role, {:handshake_timeout, _ms}), do: []
  defp to_ssl(_role, {:alpn, []}), do: []
  defp to_ssl(:server, {:alpn, names}), do: [alpn_preferred_protocols: names]
  defp to_ssl(:client, {:alpn, names}), do: [alpn_advertised_protocols: names]
  defp to_ssl(_role, {:password, text}), do: [password: Credentials.password(text)]

  defp to_ssl(_role, {:certs_keys, pairs}) do
    pairs =
      for pair <- pairs do
        case pair do
          %{password: text} -> %{pair | password: Credentials.password(text)}
          _without -> pair
        end
      end

    [certs_keys: pairs]
  end

  defp to_ssl(_role, {:sni_hosts, hosts}),
    do: [sni_hosts: for({name, options} <- hosts, do: {to_charlist(name), options})]

  defp to_ssl(_role, {:server_name_indication, name}) when is_binary(name),
    do: [server_name_indication: to_charlist(name)]

  defp to_ssl(_role, option), do: [option]

  @doc """
  The certificate that a listener shows, DER-encoded: the first, if it has several.
  """
  @spec cert(t) :: {:ok, binary} | {:error, ConfigError.t() | :no_certificate}
  def cert(options) do
    options = Map.new(options, &reveal/1)
    pairs = [options | Map.get(options, :certs_keys, [])]

    case Enum.find(pairs, &(is_map_key(&1, :certfile) or is_map_key(&1, :cert))) do
      %{cert: [der | _chain]} -> {:ok, der}
      %{cert: der} -> {:ok, der}
      %{certfile: path} -> first(path)
      nil -> {:error, :no_certificate}
    end
  end

  defp first(path) do
    case Credentials.certificates(path) do
      {:ok, [der | _chain]} -> {:ok, der}
      {:error, expected} -> {:error, error(:certfile, path, expected)}
    end
  end

  @doc """
  The error for options that `:ssl` would not take; `reason` is what it said of them, if anything.
  """
  @spec refused(term, t) :: ConfigError.t()
  def refused(reason, options) do
    # Its terms differ from release to release, but name the option.
    suspects = if name = named(reason, options), do: [name], else: passed_on(options)

    case suspects do
      [name] ->
        error(name, options[name], "what :ssl takes for it")

      names ->
        among = Enum.map_join(names, ", ", &inspect/1)
        error(:secure, @hidden, "options that :ssl takes (it refuses one of #{among})")
    end
  end

  # What was validated here is not it.
  defp passed_on(options) do
    case options |> Keyword.keys() |> Enum.reject(&is_map_key(@expected, &1)) do
      [] -> Keyword.keys(options)
      names -> names
    end
  end

  defp named(:alpn_preferred_protocols, options), do: named(:alpn, options)
  defp named(:alpn_advertised_protocols, options), do: named(:alpn, options)

  defp named(atom, options) when is_atom(atom),
    do: (Keyword.has_key?(options, atom) && atom) || nil

  defp named(tuple, options) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> named(options)
  defp named([first | rest], options), do: named(first, options) || named(rest, options)
  defp named(_other, _options), do: nil

  @doc "The error for a wrong value, which is not shown if it may hold a secret."
  @spec error(atom, term, String.t()) :: ConfigError.t()
  def error(name, value, expected) do
    value = if name in @secret, do: @hidden, else: value
    %ConfigError{option: name, value: value, expected: expected}
  end
end
