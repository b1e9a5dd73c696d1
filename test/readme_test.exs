defmodule ReadmeTest do
  # The modules of the README have global names.
  use ExUnit.Case, async: false

  @readme Path.expand("../README.md", __DIR__)
  @external_resource @readme

  # The blocks of one language, in order.
  defp blocks(language) do
    ~r/^```#{language}\n(.*?)^```$/ms
    |> Regex.scan(File.read!(@readme), capture: :all_but_first)
    |> List.flatten()
  end

  # The ports of the examples may be taken.
  defp free_ports(code), do: String.replace(code, ~r/port: 80\d\d/, "port: 0")

  defp with_files(code) do
    %{certfile: certfile, keyfile: keyfile, cacertfile: ca} = Reactor.Certificates.get()

    for {name, file} <- [{"cert.pem", certfile}, {"key.pem", keyfile}, {"ca.pem", ca}],
        reduce: code,
        do: (code -> String.replace(code, inspect(name), inspect(file)))
  end

  defp ask(server, data) do
    {:ok, client} = :gen_udp.open(0, [:binary, active: false])
    :ok = :gen_udp.send(client, {127, 0, 0, 1}, Reactor.info(server).port, data)
    {:ok, {_ip, _port, answer}} = :gen_udp.recv(client, 0, 5_000)
    :gen_udp.close(client)
    answer
  end

  @tag :tmp_dir
  test "the examples run", %{tmp_dir: directory} do
    File.write!(Path.join(directory, "echo.py"), blocks("python") |> Enum.join())

    [servers, _dependency, genserver, by_hand, tls, python_error, context, datagrams, calls] =
      blocks("elixir")

    {{:ok, supervisor}, _} =
      servers
      |> free_ports()
      |> String.replace("python: \"echo", "paths: [#{inspect(directory)}], python: \"echo")
      |> Code.eval_string()

    for {_module, server, :supervisor, _} <- Supervisor.which_children(supervisor) do
      {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
      Reactor.Socket.send!(connection, "hello")
      assert Reactor.Socket.recv!(connection, 5) == "hello"
    end

    Supervisor.stop(supervisor)
    Code.eval_string(genserver <> by_hand)
    tls |> with_files() |> Code.eval_string()
    Code.eval_string(python_error)
    Code.eval_string(context)

    {{:module, udp_echo, _, _}, _} = Code.eval_string(datagrams)
    {:ok, server} = Reactor.start(udp_echo, port: 0)
    assert ask(server, "hello") == "hello"
    assert Reactor.stop(server) == :ok
    options = [python: "echo:UdpEcho", protocol: :udp, paths: [directory]]
    {:ok, server} = Reactor.start(Module.concat(["PyEcho"]), options)
    assert ask(server, "hello") == "hello"
    assert Reactor.stop(server) == :ok
    Code.eval_string(calls)
  after
    for name <- ["Echo", "PyEcho", "Shout", "UdpEcho", "Rpc"], module = Module.concat([name]) do
      :code.purge(module)
      :code.delete(module)
    end
  end
end
