defmodule Reactor.Transport.SSL.Credentials do
  @moduledoc false

  # Certificates and keys: whether they are what they should be. :ssl itself looks only when the first
  # client comes.

  @type pair :: %{optional(atom) => term}

  # A function keeps what it returns out of logs and crash reports.
  @spec password?(term) :: boolean
  def password?(value) when is_function(value, 0) or is_binary(value), do: true
  def password?(value), do: is_list(value) and List.ascii_printable?(value)

  @spec key?(term) :: boolean
  def key?({type, der}) when is_atom(type) and is_binary(der), do: true
  # A key that lives elsewhere, as in a hardware module.
  def key?(%{algorithm: _}), do: true
  def key?(value), do: is_function(value, 0)

  @doc "A password as every release of `:ssl` takes it."
  @spec password(term) :: charlist
  def password(function) when is_function(function), do: password(function.())
  def password(text), do: text |> IO.iodata_to_binary() |> :binary.bin_to_list()

  @doc """
  Checks that a certificate, a key and a password belong together. An error is what a
  `Reactor.ConfigError` consists of.
  """
  @spec check(pair) :: :ok | {:error, {option :: atom, value :: term, expected :: String.t()}}
  def check(pair) do
    with {:ok, certificate} <- certificate(pair),
         {:ok, key} <- key(pair) do
      if belongs?(key, certificate), do: :ok, else: {:error, foreign(pair)}
    end
  end

  @doc """
  Checks them as `check/1` does, and gives the chain of certificates and the key, both DER-encoded: the key
  as `:RSAPrivateKey`, `:ECPrivateKey` or `:PrivateKeyInfo`.
  """
  @spec load(pair) ::
          {:ok, {[binary, ...], format :: atom, key :: binary}}
          | {:error, {option :: atom, value :: term, expected :: String.t()}}
  def load(pair) do
    with :ok <- check(pair),
         {:ok, chain} <- chain(pair),
         {:ok, {format, der}} <- encoded_key(pair) do
      {:ok, {chain, format, der}}
    end
  end

  defp chain(%{cert: [_ | _] = ders}), do: {:ok, ders}
  defp chain(%{cert: der}), do: {:ok, [der]}

  defp chain(%{certfile: path}) do
    with {:error, expected} <- certificates(path), do: {:error, {:certfile, path, expected}}
  end

  defp encoded_key(%{key: function} = pair) when is_function(function),
    do: encoded_key(%{pair | key: function.()})

  defp encoded_key(%{key: {type, der}}), do: format(:key, nil, type, der)

  defp encoded_key(%{key: _elsewhere}) do
    {:error, {:key, nil, "{type, DER} (transport: :ssl takes keys that live elsewhere)"}}
  end

  defp encoded_key(pair) do
    {name, path} = key_file(pair)

    case entries(path) do
      {:error, expected} ->
        {:error, {name, path, expected}}

      {:ok, entries} ->
        entry = Enum.find(entries, &private?/1)

        with {:ok, key} <- decode_key(entry, name, path, pair) do
          case entry do
            {type, der, :not_encrypted} -> format(name, path, type, der)
            {type, _der, _cipher} -> format(name, path, type, encode(type, key))
          end
        end
    end
  end

  @formats [:RSAPrivateKey, :ECPrivateKey, :PrivateKeyInfo]

  defp format(_name, _value, type, der) when type in @formats, do: {:ok, {type, der}}
  # What newer releases call it.
  defp format(_name, _value, :OneAsymmetricKey, der), do: {:ok, {:PrivateKeyInfo, der}}

  defp format(name, value, _type, _der),
    do: {:error, {name, value, "an RSA, ECDSA or Ed25519 key (transport: :ssl takes others)"}}

  defp encode(type, key) when type in [:RSAPrivateKey, :ECPrivateKey, :DSAPrivateKey],
    do: :public_key.der_encode(type, key)

  defp encode(_encrypted_private_key_info, key), do: :public_key.der_encode(:PrivateKeyInfo, key)

  @doc "The certificates of a PEM file, DER-encoded, or what the file should be."
  @spec certificates(Path.t()) :: {:ok, [binary, ...]} | {:error, String.t()}
  def certificates(path) do
    with {:ok, entries} <- entries(path) do
      ders = for {:Certificate, der, _not_encrypted} <- entries, do: der

      if ders != [] and Enum.all?(ders, &match?({:ok, _}, decode(&1))) do
        {:ok, ders}
      else
        {:error, "a PEM file with a certificate (there is none that can be read in it)"}
      end
    end
  end

  defp entries(path) do
    case File.read(path) do
      {:ok, text} -> {:ok, :public_key.pem_decode(text)}
      {:error, reason} -> {:error, "a file that can be read (#{:file.format_error(reason)})"}
    end
  rescue
    _malformed -> {:ok, []}
  end

  defp certificate(%{cert: [der | _chain]}), do: certificate(%{cert: der})

  defp certificate(%{cert: der}) do
    with {:error, _} <- decode(der) do
      {:error, {:cert, :"(not a certificate)", "a certificate in DER, or a list of them"}}
    end
  end

  defp certificate(%{certfile: path}) do
    case certificates(path) do
      {:ok, [der | _chain]} -> decode(der)
      {:error, expected} -> {:error, {:certfile, path, expected}}
    end
  end

  defp decode(der) do
    {:ok, :public_key.pkix_decode_cert(der, :otp)}
  rescue
    _malformed -> {:error, :malformed}
  end

  defp key(%{key: function} = pair) when is_function(function),
    do: key(%{pair | key: function.()})

  defp key(%{key: {type, der}}) do
    {:ok, :public_key.der_decode(type, der)}
  rescue
    _malformed -> {:error, {:key, nil, "{type, DER} of a private key"}}
  end

  defp key(%{key: _elsewhere}), do: {:ok, :unknown}

  defp key(pair) do
    {name, path} = key_file(pair)

    case path && entries(path) do
      nil -> {:error, {:keyfile, nil, "given, or :key"}}
      {:error, expected} -> {:error, {name, path, expected}}
      {:ok, entries} -> entries |> Enum.find(&private?/1) |> decode_key(name, path, pair)
    end
  end

  # One file may hold both.
  defp key_file(%{keyfile: path}), do: {:keyfile, path}
  defp key_file(%{certfile: path}), do: {:keyfile, path}
  defp key_file(_pair), do: {:keyfile, nil}

  @private [:RSAPrivateKey, :DSAPrivateKey, :ECPrivateKey, :PrivateKeyInfo, :OneAsymmetricKey]

  # An encrypted one is a :PrivateKeyInfo too.
  defp private?({type, _der, _cipher}), do: type in @private

  defp decode_key(nil, name, path, _pair) do
    {:error, {name, path, "a PEM file with a private key (there is none in it)"}}
  end

  defp decode_key({_type, _der, :not_encrypted} = entry, name, path, _pair) do
    {:ok, :public_key.pem_entry_decode(entry)}
  rescue
    _malformed -> {:error, {name, path, "a PEM file with a private key that can be read"}}
  end

  defp decode_key(entry, _name, path, %{password: text}) do
    {:ok, :public_key.pem_entry_decode(entry, password(text))}
  rescue
    _wrong -> {:error, {:password, nil, "the one that #{inspect(path)} is encrypted with"}}
  end

  defp decode_key(_entry, _name, path, _pair) do
    {:error, {:password, nil, "given, since #{inspect(path)} is encrypted"}}
  end

  defp foreign(%{keyfile: path}),
    do: {:keyfile, path, "the key of the certificate (it is of another one)"}

  defp foreign(_pair), do: {:key, nil, "the key of the certificate (it is of another one)"}

  @probe "Does this key belong to this certificate?"

  # What the key signs, the certificate's public key verifies. What this cannot try out is :ssl's to refuse.
  defp belongs?(:unknown, _certificate), do: true

  defp belongs?(key, certificate) do
    {public, digest} = public(certificate)
    :public_key.verify(@probe, digest, :public_key.sign(@probe, digest, key), public)
  rescue
    # Of another kind than the certificate's, or one that is not known here.
    _ -> not comparable?(key, certificate)
  end

  # OTPCertificate, OTPTBSCertificate and OTPSubjectPublicKeyInfo of public_key.hrl, which need not be
  # installed where this is compiled.
  defp public(certificate) do
    {:OTPSubjectPublicKeyInfo, algorithm, key} = certificate |> elem(1) |> elem(7)

    case {key, algorithm} do
      {{:ECPoint, _} = point, {:PublicKeyAlgorithm, _oid, {:namedCurve, curve} = parameters}} ->
        {{point, parameters},
         if(curve in [{1, 3, 101, 112}, {1, 3, 101, 113}], do: :none, else: :sha256)}

      {{:ECPoint, _} = point, {:PublicKeyAlgorithm, _oid, parameters}} ->
        {{point, parameters}, :sha256}

      {{:RSAPublicKey, _, _} = rsa, _algorithm} ->
        {rsa, :sha256}
    end
  end

  defp comparable?(key, certificate) do
    {public, _digest} = public(certificate)
    kinds = {elem(public, 0), elem(key, 0)}

    match?({:RSAPublicKey, :ECPrivateKey}, kinds) or
      match?({{:ECPoint, _}, :RSAPrivateKey}, kinds)
  rescue
    _unknown -> false
  end
end
