defmodule Reactor.ProxyTest do
  use ExUnit.Case, async: true

  alias MyApp.Echo
  alias Reactor.{ConfigError, Listener}

  doctest Reactor.Proxy

  describe "parse" do
    @signature "\r\n\r\n\0\r\nQUIT\n"

    defp v2(command, family, block) do
      @signature <> <<2::4, command::4, family, byte_size(block)::16>> <> block
    end

    defp tlv(type, value), do: <<type, byte_size(value)::16>> <> value

    test "tells all that a header of version 2 says" do
      ssl =
        <<7, 0::32>> <>
          tlv(0x21, "TLSv1.3") <>
          tlv(0x22, "jörg") <>
          tlv(0x23, "AES") <>
          tlv(0x24, "SHA256") <>
          tlv(0x25, "RSA2048") <>
          tlv(0x26, "X25519") <> tlv(0x27, "pss") <> tlv(0x28, <<0x30, 0>>)

      addresses = <<1::128, 0x2001::16, 1::112, 4711::16, 443::16>>

      tlvs =
        tlv(0x01, "h2") <>
          tlv(0x02, "example.org") <>
          tlv(0x04, "padding") <>
          tlv(0x05, <<1, 2>>) <>
          tlv(0x20, ssl) <> tlv(0x30, "blue") <> tlv(0xEA, "mine") <> tlv(0xEA, "too")

      assert Reactor.Proxy.parse(v2(1, 0x21, addresses <> tlvs) <> "rest") ==
               {:ok,
                %{
                  version: 2,
                  command: :proxy,
                  transport: :stream,
                  source: {{0, 0, 0, 0, 0, 0, 0, 1}, 4711},
                  destination: {{0x2001, 0, 0, 0, 0, 0, 0, 1}, 443},
                  tlvs: %{
                    alpn: "h2",
                    authority: "example.org",
                    unique_id: <<1, 2>>,
                    netns: "blue",
                    others: [{0xEA, "mine"}, {0xEA, "too"}],
                    ssl: %{
                      tls: true,
                      certificate: true,
                      certificate_in_session: true,
                      verified: true,
                      verify: 0,
                      version: "TLSv1.3",
                      cn: "jörg",
                      cipher: "AES",
                      sig_alg: "SHA256",
                      key_alg: "RSA2048",
                      group: "X25519",
                      sig_scheme: "pss",
                      client_cert: <<0x30, 0>>
                    }
                  }
                }, "rest"}
    end

    test "has nothing that a header does not have" do
      nothing = %{source: nil, destination: nil, transport: nil, tlvs: %{}}

      for {header, said} <- [
            {"PROXY UNKNOWN\r\n", %{version: 1, command: :proxy}},
            {v2(0, 0, ""), %{version: 2, command: :local}},
            {v2(1, 0, "ignored"), %{version: 2, command: :proxy}}
          ] do
        assert Reactor.Proxy.parse(header) == {:ok, Map.merge(nothing, said), ""}
      end

      path = fn path -> String.pad_trailing(path, 108, <<0>>) end

      assert {:ok, %{transport: :datagram, source: source, destination: destination}, ""} =
               Reactor.Proxy.parse(v2(1, 0x32, path.("/a.sock") <> path.("")))

      assert {source, destination} == {{:local, "/a.sock"}, {:local, ""}}
    end

    test "says why it is none" do
      assert Reactor.Proxy.parse("") == :partial

      assert Reactor.Proxy.parse(v2(1, 0x11, "short")) ==
               {:error, "it is shorter than its addresses"}

      assert Reactor.Proxy.parse(v2(0, 0, :binary.copy("x", 4_097))) ==
               {:error, "it is longer than a header may be"}
    end
  end

  defp new(proxy, options \\ []), do: Listener.new(Echo, [{:proxy, proxy} | options])

  defp message(result) do
    assert {:error, %ConfigError{} = error} = result
    Exception.message(error)
  end

  describe "proxy of a listener" do
    test "is off, or has trusted networks and a timeout" do
      assert {:ok, %{proxy: false}} = new(false)

      assert {:ok, %{proxy: %{trusted: [{{10, 0, 0, 0}, 8}], timeout: 5_000}}} =
               new(trusted: ["10.0.0.0/8"])

      assert {:ok, %{proxy: %{timeout: 100}}} = new(trusted: [:local], timeout: 100)

      for wrong <- [nil, true, "10.0.0.0/8", ["10.0.0.0/8"], %{trusted: ["::1"]}] do
        assert message(new(wrong)) =~
                 "option :proxy must be false, or a keyword list with :trusted, a list of networks, " <>
                   "and perhaps :timeout, got: "
      end
    end

    test "trusted are networks and addresses of either family, as text or tuples" do
      for {network, expected} <- [
            {"10.0.0.0/8", {{10, 0, 0, 0}, 8}},
            {"192.168.7.128/25", {{192, 168, 7, 128}, 25}},
            {"0.0.0.0/0", {{0, 0, 0, 0}, 0}},
            {"127.0.0.1", {{127, 0, 0, 1}, 32}},
            {{127, 0, 0, 1}, {{127, 0, 0, 1}, 32}},
            {"::1", {{0, 0, 0, 0, 0, 0, 0, 1}, 128}},
            {{0, 0, 0, 0, 0, 0, 0, 1}, {{0, 0, 0, 0, 0, 0, 0, 1}, 128}},
            {"2001:db8::/33", {{0x2001, 0xDB8, 0, 0, 0, 0, 0, 0}, 33}},
            {"::ffff:10.0.0.0/104", {{0, 0, 0, 0, 0, 0xFFFF, 0x0A00, 0}, 104}},
            {:local, :local}
          ] do
        assert {:ok, %{proxy: %{trusted: [^expected]}}} = new(trusted: [network])
      end
    end

    test "trusted must be said, and each is named that is none" do
      for wrong <- [nil, [], "10.0.0.0/8", [:a | :b], {127, 0, 0, 1}] do
        assert message(new(trusted: wrong)) =~ "option :trusted must be a list, not empty, each"
      end

      assert message(new([])) =~ "option :trusted must be a list, not empty, each"
      assert message(new(timeout: 10)) =~ "option :trusted must be a list, not empty, each"

      for wrong <- [
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.0/8 ",
            "10",
            "::1/129",
            "localhost",
            "",
            <<255>>,
            {1, 2, 3},
            {10, 0, 0, 256},
            :any,
            ~c"10.0.0.1",
            nil
          ] do
        message = message(new(trusted: ["::1", wrong]))
        assert message =~ ~s(option :trusted must be a network \("10.0.0.0/8"\), an address)
        assert message =~ "got: #{inspect(wrong)}"
      end
    end

    test "a network with an address in it is not guessed at" do
      assert message(new(trusted: ["10.1.2.3/8"])) ==
               ~s(option :trusted must be "10.0.0.0/8", or "10.1.2.3" alone, got: "10.1.2.3/8")

      assert message(new(trusted: ["2001:db8:8000::/32"])) =~ ~s(must be "2001:db8::/32", or )
    end

    test "timeout is a time" do
      for wrong <- [0, -1, 1.5, :infinity, nil, 4_294_967_296] do
        assert message(new(trusted: ["::1"], timeout: wrong)) ==
                 "option :timeout must be a number of milliseconds from 1 to 4294967295, got: #{inspect(wrong)}"
      end
    end

    test "an unknown option is named" do
      assert message(new(trustd: ["::1"])) == "unknown option :trustd, did you mean :trusted?"
    end

    test "is for the native transport" do
      for transport <- [:tcp, :ssl] do
        assert message(new([trusted: ["::1"]], transport: transport)) =~
                 "option :proxy must be false with transport #{inspect(transport)} (:native has it)"
      end
    end
  end

  describe "proxy of connect" do
    defp connect(proxy, options \\ []) do
      Reactor.connect({127, 0, 0, 1}, 1, [{:proxy, proxy} | options])
    end

    test "has a version and addresses" do
      for wrong <- [true, "2", [2]] do
        assert message(connect(wrong)) =~
                 "option :proxy must be a keyword list of :version, :source, :destination, got: "
      end

      for wrong <- [0, 3, "1", nil] do
        assert message(connect(version: wrong)) ==
                 "option :version must be 1 or 2, got: #{inspect(wrong)}"
      end

      for option <- [:source, :destination],
          wrong <- ["127.0.0.1", {"127.0.0.1", 65_536}, {"nowhere", 1}, {{1, 2, 3}, 1}, 80] do
        assert message(connect([{option, wrong}])) ==
                 ~s(option #{inspect(option)} must be {ip, port}, as {"192.0.2.1", 4711}, or nil, ) <>
                   "got: #{inspect(wrong)}"
      end

      assert message(connect(versoin: 1)) == "unknown option :versoin, did you mean :version?"
    end

    test "is for the native transport" do
      for transport <- [:tcp, :ssl] do
        assert message(connect([version: 1], transport: transport)) =~
                 "option :proxy must be left out with transport #{inspect(transport)} (:native has it)"
      end
    end
  end
end
