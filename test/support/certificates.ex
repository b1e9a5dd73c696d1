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
    signed = [key: @curve, digest: :sha256]
    names = [{:dNSName, ~c"localhost"}, {:iPAddress, <<127, 0, 0, 1>>}]
    # The record of an X.509 extension: subjectAltName, not critical.
    alternative = {:Extension, {2, 5, 29, 17}, false, names}

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{
        server_chain: %{
          root: signed,
          intermediates: [],
          peer: [{:extensions, [alternative]} | signed]
        },
        client_chain: %{root: signed, intermediates: [], peer: signed}
      })

    %{
      certfile: certificates(directory, "server.pem", [server[:cert]]),
      keyfile: key(directory, "server.key", server[:key]),
      client_certfile: certificates(directory, "client.pem", [client[:cert]]),
      client_keyfile: key(directory, "client.key", client[:key]),
      # The root of either.
      cacertfile: certificates(directory, "ca.pem", server[:cacerts] ++ client[:cacerts]),
      cert: server[:cert],
      key: server[:key]
    }
  end

  defp certificates(directory, name, ders) do
    entries = for der <- ders, do: {:Certificate, der, :not_encrypted}
    write(directory, name, entries)
  end

  defp key(directory, name, {type, der}),
    do: write(directory, name, [{type, der, :not_encrypted}])

  defp write(directory, name, entries) do
    path = Path.join(directory, name)
    File.write!(path, :public_key.pem_encode(entries))
    path
  end
end
