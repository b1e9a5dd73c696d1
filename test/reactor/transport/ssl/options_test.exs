defmodule Reactor.Transport.SSL.OptionsTest do
  use ExUnit.Case, async: true

  alias Reactor.{Certificates, ConfigError}
  alias Reactor.Transport.SSL.Options

  doctest Options

  @path "the path of a PEM file"

  # option, what is right, what is wrong, and what a wrong value says it must be
  @table [
    {:certfile, ["a.pem", ~c"a.pem"], [nil, "", :a, 1, []], @path},
    {:keyfile, ["a.pem", ~c"a.pem"], [nil, "", :a], @path},
    {:cacertfile, ["a.pem"], [nil, ""], @path},
    {:cert, ["der", ["der", "der"]], [nil, [], [1]], "a certificate in DER, or a list of them"},
    {:cacerts, [[], ["der"]], [nil, "der"], "a list of certificates in DER"},
    {:verify, [:verify_peer, :verify_none], [nil, true, :peer], ":verify_peer or :verify_none"},
    {:alpn, [[], ["h2", "http/1.1"]], [nil, "h2", [:h2], [""], [String.duplicate("x", 256)]],
     "a list of protocol names, each a binary of 1 to 255 bytes"},
    {:versions, [[:"tlsv1.2"], [:"tlsv1.3", :"tlsv1.2"]], [nil, [], [:sslv3], :"tlsv1.3"],
     ~s(a list of :"tlsv1.2" and :"tlsv1.3")},
    {:depth, [0, 255], [-1, 256, nil], "an integer from 0 to 255"},
    {:handshake_timeout, [1, :infinity], [0, nil, 1.5],
     "a number of milliseconds from 1 to 4294967295, or :infinity"},
    {:fail_if_no_peer_cert, [false], [nil, 1], "true or false"}
  ]

  for {option, right, wrong, expected} <- @table do
    test "#{option}" do
      option = unquote(option)
      # Enough for a server.
      rest = Keyword.delete([certfile: "a.pem", cacertfile: "ca.pem"], option)

      for value <- unquote(Macro.escape(right)) do
        assert {:ok, options} = Options.validate(:server, [{option, value} | rest])
        assert options[option] == value
      end

      for value <- unquote(Macro.escape(wrong)) do
        assert {:error, %ConfigError{option: ^option, value: ^value} = error} =
                 Options.validate(:server, [{option, value} | rest])

        assert Exception.message(error) =~
                 "option #{inspect(option)} must be #{unquote(expected)}, got: "
      end
    end
  end

  test "fail_if_no_peer_cert is for a server that asks for it" do
    asking = [certfile: "a.pem", cacertfile: "ca.pem", verify: :verify_peer]
    assert {:ok, _} = Options.validate(:server, [fail_if_no_peer_cert: true] ++ asking)

    for verify <- [[], [verify: :verify_none]] do
      assert {:error, %ConfigError{option: :fail_if_no_peer_cert} = error} =
               Options.validate(
                 :server,
                 [certfile: "a.pem", fail_if_no_peer_cert: true] ++ verify
               )

      assert Exception.message(error) =~ "must be false without verify: :verify_peer"
    end
  end

  # What may hold a secret is hidden, right or wrong.
  for {option, right, wrong, expected} <- [
        {:key, [{:RSAPrivateKey, "secret"}], ["secret", {"secret", 1}, nil],
         "{type, DER}, as :ssl takes it, or a function that returns it"},
        {:password, ["secret", ~c"secret"], [:secret, 1, nil],
         "text, or a function that returns it"},
        {:certs_keys, [[%{certfile: "a.pem", password: "secret"}]],
         [
           [],
           nil,
           [certfile: "a.pem"],
           [%{password: "secret"}],
           [%{certfile: "a.pem", secret: 1}]
         ],
         "a list of maps with :certfile and :keyfile, or :cert and :key, and perhaps :password"},
        {:sni_hosts, [[{"a.org", [certfile: "a.pem", password: "secret"]}]], [nil, ["secret"]],
         "a list of {name, options}"}
      ] do
    test "#{option} is hidden" do
      option = unquote(option)
      rest = [certfile: "a.pem"]

      for value <- unquote(Macro.escape(right)) do
        assert {:ok, options} = Options.validate(:server, [{option, value} | rest])
        assert options[option].() == value
        refute inspect(options) =~ "secret"
        refute IO.iodata_to_binary(:io_lib.format("~p", [options])) =~ "secret"
      end

      for value <- unquote(Macro.escape(wrong)) do
        assert {:error, %ConfigError{option: ^option} = error} =
                 Options.validate(:server, [{option, value} | rest])

        assert Exception.message(error) ==
                 "option #{inspect(option)} must be #{unquote(expected)}, got: :\"(hidden)\""
      end
    end
  end

  test "a function is a secret that is told when it is needed" do
    secret = fn -> "secret" end
    assert {:ok, options} = Options.validate(:server, certfile: "a.pem", password: secret)
    assert options[:password] == secret
  end

  test "an unknown one is named" do
    assert {:error, error} = Options.validate(:server, certfile: "a.pem", keyfil: "secret")
    assert Exception.message(error) == "unknown option :keyfil, did you mean :keyfile?"
  end

  test "some are only for one side" do
    assert {:error, error} = Options.validate(:client, handshake_timeout: 1)
    assert Exception.message(error) =~ "unknown option :handshake_timeout"
    assert {:ok, _} = Options.validate(:client, server_name_indication: "example.org")

    assert {:error, error} =
             Options.validate(:server, certfile: "a.pem", server_name_indication: "example.org")

    assert Exception.message(error) =~ "unknown option :server_name_indication"
  end

  test "a server has a certificate, and somebody to trust if it asks for one" do
    assert {:error, error} = Options.validate(:server, alpn: ["h2"])

    assert Exception.message(error) ==
             "option :certfile must be given, with :keyfile, for TLS (or :cert and :key, or :certs_keys), got: nil"

    assert {:error, error} = Options.validate(:server, certfile: "a.pem", verify: :verify_peer)

    assert Exception.message(error) ==
             "option :cacertfile must be given (or :cacerts) for a server with verify: :verify_peer, got: nil"
  end

  test "it is a keyword list, and what else is given is not shown" do
    assert {:error, error} = Options.validate(:server, true)
    assert Exception.message(error) == "option :secure must be a keyword list, got: true"
    assert {:error, error} = Options.validate(:server, [{"password", "secret"}])
    assert Exception.message(error) == "option :secure must be a keyword list, got: :\"(hidden)\""
  end

  test "a client checks certificates, unless told otherwise" do
    {:ok, options} = Options.validate(:client, [])
    {:ok, tls} = Options.load(:client, options)
    assert tls[:verify] == :verify_peer
    assert [_ | _] = tls[:cacerts]

    {:ok, options} = Options.validate(:client, verify: :verify_none)
    {:ok, tls} = Options.load(:client, options)
    assert tls[:verify] == :verify_none
    refute tls[:cacerts]
  end

  test "the certificate of a listener can be had" do
    %{certfile: certfile, keyfile: keyfile, cert: cert, key: key} = Certificates.get()

    for options <- [
          [certfile: certfile, keyfile: keyfile],
          [cert: cert, key: key],
          [cert: [cert, "another"], key: key],
          [certs_keys: [%{certfile: certfile, keyfile: keyfile}]]
        ] do
      {:ok, options} = Options.validate(:server, options)
      assert Options.cert(options) == {:ok, cert}
    end

    {:ok, options} = Options.validate(:server, certfile: "/nowhere.pem")
    assert {:error, %ConfigError{option: :certfile}} = Options.cert(options)
    {:ok, options} = Options.validate(:server, sni_fun: fn _name -> [] end)
    assert Options.cert(options) == {:error, :no_certificate}
  end

  test "a key that signs for another certificate is found, of either kind" do
    %{certfile: certfile, key: {type, _der}} = Certificates.get()
    rsa = :public_key.generate_key({:rsa, 2048, 65_537})
    ec = :public_key.generate_key({:namedCurve, :secp256r1})

    for {type, key} <- [{:RSAPrivateKey, rsa}, {type, ec}] do
      der = :public_key.der_encode(type, key)
      {:ok, options} = Options.validate(:server, certfile: certfile, key: {type, der})
      assert {:error, error} = Options.load(:server, options)
      assert error.option == :key
      assert Exception.message(error) =~ "the key of the certificate (it is of another one)"
    end
  end
end
