defmodule Reactor.Transport.Native.Secure do
  @moduledoc false

  # TLS of the native transport: from options that Reactor.Transport.SSL.Options has validated to what the
  # library speaks TLS with. Files, passwords and formats end here: the library gets DER, once, and what it
  # gives back cannot be looked into.

  require Logger

  alias Reactor.{ConfigError, Native}
  alias Reactor.Transport.SSL.{Credentials, Options}

  @typedoc "What the library speaks TLS with."
  @type config :: reference

  @pair [:certfile, :keyfile, :cert, :key, :password]

  # What the others are about the library does by itself, or not at all.
  @names [
           :certs_keys,
           :cacertfile,
           :cacerts,
           :verify,
           :fail_if_no_peer_cert,
           :alpn,
           :versions,
           :handshake_timeout,
           :session_tickets,
           :sni_hosts,
           :server_name_indication
         ] ++ @pair

  # Where the library names a file that it never saw.
  @without_files %{certfile: :cert, keyfile: :key, cacertfile: :cacerts}

  @tickets %{server: [:stateless, :disabled], client: [:auto, :disabled]}
  @expected_tickets %{
    server: ":stateless or :disabled with transport :native (transport: :ssl takes more)",
    client: ":auto or :disabled with transport :native (transport: :ssl takes more)"
  }

  # How many clients' configurations are kept.
  @kept 16

  @doc "Whether the options are such as this transport has."
  @spec supported(Options.role(), Options.t()) :: :ok | {:error, ConfigError.t()}
  def supported(role, options) do
    Enum.find_value(options, :ok, fn {name, value} ->
      case wrong(role, name, value) do
        nil -> nil
        expected -> {:error, Options.error(name, value, expected)}
      end
    end)
  end

  defp wrong(_role, name, _value) when name not in @names,
    do: "left out with transport :native (transport: :ssl takes it)"

  defp wrong(role, :session_tickets, value) do
    if value not in @tickets[role], do: @expected_tickets[role]
  end

  defp wrong(_role, :sni_hosts, hosts) do
    Enum.find_value(reveal(hosts), fn {name, options} ->
      cond do
        not name?(name) ->
          "a list of {name, options}, each name a host's or, as \"*.example.com\", that of many"

        options |> Keyword.keys() |> Enum.any?(&(&1 not in [:certs_keys | @pair])) ->
          "a list of {name, options} with only certificates and keys as options with transport " <>
            ":native (transport: :ssl takes more)"

        not Enum.any?([:certfile, :cert, :certs_keys], &Keyword.has_key?(options, &1)) ->
          "a list of {name, options}, each with :certfile and :keyfile, or :cert and :key, or :certs_keys"

        true ->
          nil
      end
    end)
  end

  defp wrong(_role, _name, _value), do: nil

  defp name?(name) do
    name = to_string(name)
    host = String.replace_prefix(name, "*.", "")
    String.valid?(host) and Native.tls_name(host)
  end

  @doc """
  Loads what a listener's `:secure` names. `nil` for one without TLS.
  """
  @spec server(false | Options.t()) :: {:ok, nil | {config, timeout}} | {:error, ConfigError.t()}
  def server(false), do: {:ok, nil}

  def server(options) do
    with :ok <- supported(:server, options),
         {:ok, common} <- common(:server, options),
         {:ok, names} <- names(reveal(Keyword.get(options, :sni_hosts, []))),
         settings =
           Map.merge(common, %{
             names: names,
             required: Keyword.get(options, :fail_if_no_peer_cert, false)
           }),
         {:ok, config} <- made(&Native.tls_server/1, settings, options) do
      {:ok, {config, Options.handshake_timeout(options)}}
    end
  end

  @doc """
  Likewise for a listener that is opened again on its address: what it had stays where what it names now
  cannot be used.
  """
  @spec again(false | Options.t()) :: {:ok, nil | {config, timeout} | :keep}
  def again(options) do
    with {:error, error} <- server(options) do
      Logger.error("The certificates stay as they were: #{Exception.message(error)}")
      {:ok, :keep}
    end
  end

  @doc """
  Loads what a client's `:secure` names, and says which name the server has to have.
  """
  @spec client(Options.t(), term) :: {:ok, {config, String.t()}} | {:error, ConfigError.t()}
  def client(options, host) do
    with :ok <- supported(:client, options),
         {:ok, name} <- server_name(options[:server_name_indication], host),
         {:ok, config} <- kept(options) do
      {:ok, {config, name}}
    end
  end

  defp server_name(:disable, _host), do: {:ok, "localhost"}

  defp server_name(nil, {:local, _path}) do
    expected = "given (or :disable) for TLS on a Unix socket, which has no name"
    {:error, Options.error(:server_name_indication, nil, expected)}
  end

  defp server_name(nil, host) when is_tuple(host), do: {:ok, host |> :inet.ntoa() |> to_string()}
  defp server_name(nil, host), do: host |> to_string() |> valid_name(:host)
  defp server_name(name, _host), do: name |> to_string() |> valid_name(:server_name_indication)

  defp valid_name(name, option) do
    if String.valid?(name) and Native.tls_name(name),
      do: {:ok, name},
      else: {:error, Options.error(option, name, "a name that a certificate can be for")}
  end

  # Made of every authority there is, and it has what is needed to resume sessions: one without files
  # and secrets is kept.
  defp kept(options) do
    options = Enum.sort(Keyword.delete(options, :server_name_indication) ++ disabled(options))

    plain? =
      Enum.all?(options, fn {name, _} ->
        name in [:alpn, :versions, :verify, :session_tickets, :server_name_indication]
      end)

    known = :persistent_term.get(__MODULE__, %{})

    case known do
      %{^options => config} ->
        {:ok, config}

      _new ->
        with {:ok, config} <- new_client(options) do
          if plain? and map_size(known) < @kept,
            do: :persistent_term.put(__MODULE__, Map.put(known, options, config))

          {:ok, config}
        end
    end
  end

  defp disabled(options) do
    if options[:server_name_indication] == :disable,
      do: [server_name_indication: :disable],
      else: []
  end

  defp new_client(options) do
    with {:ok, common} <- common(:client, options) do
      settings = Map.put(common, :server_name, options[:server_name_indication] != :disable)
      made(&Native.tls_client/1, settings, options)
    end
  end

  defp common(role, options) do
    verify? = Keyword.get(options, :verify, default_verify(role)) == :verify_peer

    with {:ok, credentials} <- credentials(options),
         {:ok, cacerts} <- authorities(role, options, verify?) do
      {:ok,
       %{
         credentials: credentials,
         cacerts: cacerts,
         verify: verify?,
         alpn: Keyword.get(options, :alpn, []),
         versions: Keyword.get(options, :versions, [:"tlsv1.2", :"tlsv1.3"]),
         resumption: Keyword.get(options, :session_tickets, default_tickets(role)) != :disabled
       }}
    end
  end

  # There are servers, of :ssl too, that refuse a client whose session they fail to resume.
  defp default_tickets(:server), do: :stateless
  defp default_tickets(:client), do: :disabled

  defp default_verify(:server), do: :verify_none
  defp default_verify(:client), do: :verify_peer

  # A server that checks nobody has no use for authorities, but they should be there if they are named.
  defp authorities(role, options, verify?) do
    cond do
      path = options[:cacertfile] ->
        with {:error, expected} <- Credentials.certificates(path),
             do: {:error, Options.error(:cacertfile, path, expected)}

      ders = options[:cacerts] ->
        {:ok, Enum.map(ders, &der/1)}

      verify? and role == :client ->
        with {:ok, cacerts} <- Options.system_authorities(), do: {:ok, Enum.map(cacerts, &der/1)}

      true ->
        {:ok, []}
    end
  end

  defp der({:cert, der, _decoded}), do: der
  defp der(der), do: der

  # The first are those that are named alone, as with :ssl.
  defp credentials(options) do
    own = for {name, value} <- options, name in @pair, into: %{}, do: {name, reveal(value)}
    pairs = [own | reveal(Keyword.get(options, :certs_keys, []))]

    pairs
    |> Enum.filter(&(is_map_key(&1, :certfile) or is_map_key(&1, :cert)))
    |> collect(fn pair ->
      with {:error, {name, value, expected}} <- Credentials.load(pair),
           do: {:error, Options.error(name, value, expected)}
    end)
  end

  defp names(hosts) do
    collect(hosts, fn {name, options} ->
      with {:ok, credentials} <- credentials(options), do: {:ok, {to_string(name), credentials}}
    end)
  end

  defp collect(list, fun) do
    Enum.reduce_while(list, {:ok, []}, fn item, {:ok, done} ->
      case fun.(item) do
        {:ok, result} -> {:cont, {:ok, [result | done]}}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
    |> case do
      {:ok, done} -> {:ok, Enum.reverse(done)}
      error -> error
    end
  end

  defp made(make, settings, options) do
    with {:error, {name, expected}} <- make.(settings) do
      name = if options[name] == nil, do: Map.get(@without_files, name, name), else: name
      {:error, Options.error(name, options[name], expected)}
    end
  rescue
    # It would show what it was called with, keys and all.
    ArgumentError -> {:error, ConfigError.hiding(:secure, options, "options that can be used")}
  end

  # A function keeps what it returns out of logs.
  defp reveal(function) when is_function(function, 0), do: function.()
  defp reveal(value), do: value
end
