defmodule Reactor.Certificates do
  @moduledoc false

  # A certificate authority for tests, made when the first asks: one certificate for the server
  # ("localhost" and 127.0.0.1), one for a client, in PEM files that end with the VM.

  @curve {:namedCurve, :secp256r1}

  @doc "The files, and the server's certificate and key as they are in them."
  def get do
    :persistent_term.get(__MODULE__, nil) || :global.trans({__MODULE__, self()}, &made/0)
  end

  @doc "What a listener needs."
  def server, do: Map.to_list(Map.take(get(), [:certfile, :keyfile]))

  @doc "What a client needs that trusts the server."
  def trusting, do: [cacertfile: get().cacertfile]

  @doc "Another authority, and what it has signed, for those who trust only the first one."
  def strangers(directory), do: make(directory)

  defp made do
    with nil <- :persistent_term.get(__MODULE__, nil) do
      directory = Path.join(System.tmp_dir!(), "reactor_certificates_#{System.pid()}")
      System.at_exit(fn _status -> File.rm_rf(directory) end)
      files = make(directory)
      :persistent_term.put(__MODULE__, files)
      files
    end
  end

  defp make(directory) do
    File.mkdir_p!(directory)
    root = authority("Authority #{System.unique_integer()}")
    server = issue(root, names: ["localhost", {127, 0, 0, 1}])
    client = issue(root, [])

    %{
      certfile: certificates(directory, "server.pem", [server.cert]),
      keyfile: key(directory, "server.key", server.key),
      client_certfile: certificates(directory, "client.pem", [client.cert]),
      client_keyfile: key(directory, "client.key", client.key),
      cacertfile: certificates(directory, "ca.pem", [root.cert]),
      cert: server.cert,
      key: server.key,
      root: root
    }
  end

  @doc "An authority that can sign: its certificate and key as DER, and the key to sign with."
  def authority(name), do: issue(nil, name: name, authority: true)

  @doc """
  What an authority signs: its certificate and key as DER. Options: `:names` and addresses that it is for,
  `:key` (how it is made), `:days` from and to which it counts from now, and for another authority
  `:authority` and its `:name`.
  """
  def issue(issuer, options) do
    key = options |> Keyword.get(:key, @curve) |> :public_key.generate_key()
    name = options |> Keyword.get(:name, "Test") |> String.to_charlist()

    tbs =
      :public_key.pkix_test_root_cert(name, key: key, digest: :sha256).cert
      |> :public_key.pkix_decode_cert(:otp)
      |> elem(1)

    issuer = issuer || %{signing: key, subject: elem(tbs, 6), signature: elem(tbs, 3)}
    # By the standard the algorithm of an ECDSA signature has no parameters.
    signature =
      if is_tuple(issuer.signing) and elem(issuer.signing, 0) == :ECPrivateKey,
        do: put_elem(issuer.signature, 2, :asn1_NOVALUE),
        else: issuer.signature

    tbs =
      tbs
      |> put_elem(2, System.unique_integer([:positive]))
      |> put_elem(3, signature)
      |> put_elem(4, issuer.subject)
      |> put_elem(5, validity(Keyword.get(options, :days, {-1, 7})))
      |> put_elem(7, public(elem(tbs, 7), elem(key, 0)))
      |> put_elem(10, if(options[:authority], do: elem(tbs, 10), else: alternatives(options)))

    type = elem(key, 0)

    %{
      cert: :public_key.pkix_sign(tbs, issuer.signing),
      key: {type, :public_key.der_encode(type, key)},
      signing: key,
      subject: elem(tbs, 6),
      signature: elem(tbs, 3)
    }
  end

  # By the standard those of an RSA key are there, and nothing: newer releases of OTP leave them out.
  defp public({record, algorithm, key}, :RSAPrivateKey),
    do: {record, put_elem(algorithm, 2, :NULL), key}

  defp public(information, _type), do: information

  defp validity({from, to}), do: {:Validity, time(from), time(to)}

  defp time(days) do
    time = DateTime.add(DateTime.utc_now(), days * 86_400, :second)
    {:utcTime, time |> Calendar.strftime("%y%m%d%H%M%SZ") |> String.to_charlist()}
  end

  # The record of an X.509 extension: subjectAltName, not critical.
  defp alternatives(options) do
    case Keyword.get(options, :names, []) do
      [] -> :asn1_NOVALUE
      names -> [{:Extension, {2, 5, 29, 17}, false, Enum.map(names, &name/1)}]
    end
  end

  defp name({a, b, c, d}), do: {:iPAddress, <<a, b, c, d>>}
  defp name(name), do: {:dNSName, String.to_charlist(name)}

  @doc "Writes certificates as a PEM file: its path."
  def certificates(directory, name, ders) do
    entries = for der <- ders, do: {:Certificate, der, :not_encrypted}
    write(directory, name, entries)
  end

  @doc "Writes a key as a PEM file: its path."
  def key(directory, name, {type, der}),
    do: write(directory, name, [{type, der, :not_encrypted}])

  defp write(directory, name, entries) do
    path = Path.join(directory, name)
    File.write!(path, :public_key.pem_encode(entries))
    path
  end
end
