defmodule Reactor.BertRpc.ClientTest do
  # What a client makes of servers that answer what they like, and of options.
  use ExUnit.Case, async: true

  alias Reactor.BertRpc
  alias Reactor.BertRpc.Error

  test "a server that answers nonsense" do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, packet: 4, active: false, ip: {127, 0, 0, 1}])

    {:ok, port} = :inet.port(listener)
    {:ok, client} = BertRpc.connect("127.0.0.1", port)
    {:ok, server} = :gen_tcp.accept(listener, 5_000)

    for {answer, text} <- [
          {"nonsense", "no term"},
          {:erlang.term_to_binary({:answer, 1}), "no answer of BERT-RPC"},
          {:erlang.term_to_binary({:error, {:who, 1, "", "", []}}), "no answer of BERT-RPC"},
          {:erlang.term_to_binary({:error, {:user, 1, "", "", [1]}}), "no answer of BERT-RPC"}
        ] do
      :ok = :gen_tcp.send(server, answer)
      assert {:error, {:undecodable, reason}} = BertRpc.call(client, :a, :b, [])
      assert reason =~ text
    end

    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:info, :unknown, [1]}))
    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:error, {:proxy, 7, "C", "D", ["b"]}}))

    assert BertRpc.call(client, :a, :b, []) ==
             {:error, %Error{type: :proxy, code: 7, class: "C", detail: "D", backtrace: ["b"]}}

    # One that cannot be read, since there is no such atom here, is no answer either.
    :ok = :gen_tcp.send(server, <<131, 104, 3, 119, 4, "info", 119, 9, "no_such_4", 106>>)
    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:reply, 1}))
    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:reply, 2}))
    assert BertRpc.call(client, :a, :b, []) == {:ok, 1}
    assert BertRpc.call(client, :a, :b, []) == {:ok, 2}

    assert BertRpc.call(client, :a, :b, [self()]) ==
             {:error, {:unencodable, "BERT has nothing for a pid"}}

    assert {:error, {:too_large, %{size: _, max: _}}} =
             BertRpc.call(client, :a, :b, [:binary.copy("x", 17_000_000)])

    :gen_tcp.close(server)
    assert BertRpc.call(client, :a, :b, []) == {:error, :closed}
  end

  test "a stream whose answer cannot be read ends the connection" do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, packet: 4, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)
    {:ok, client} = BertRpc.connect("127.0.0.1", port)
    {:ok, server} = :gen_tcp.accept(listener, 5_000)
    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:info, :stream, []}))
    :ok = :gen_tcp.send(server, "nonsense")
    :ok = :gen_tcp.send(server, "a chunk")
    :ok = :gen_tcp.send(server, "")
    :ok = :gen_tcp.send(server, :erlang.term_to_binary({:reply, 2}))
    assert {:error, {:undecodable, _}} = BertRpc.call(client, :a, :b, [])
    assert BertRpc.call(client, :a, :b, []) == {:error, :closed}
  end

  test "arguments that are an improper list are an error" do
    client = struct!(BertRpc.Client, connection: nil, timeout: 1, max_packet: 99, max_stream: 1)
    error = {:error, {:unencodable, "the arguments are an improper list"}}
    assert BertRpc.call(client, :a, :b, [1 | 2]) == error
    assert BertRpc.cast(client, :a, :b, [1 | 2]) == error
    assert BertRpc.pipeline(client, [{:call, :a, :b, [1 | 2]}]) == [error]
  end

  test "options of requests are named when they are wrong" do
    client = struct!(BertRpc.Client, connection: nil, timeout: 1, max_packet: 1, max_stream: 1)

    for {options, text} <- [
          {[timeot: 1], "unknown option :timeot, did you mean :timeout?"},
          {[timeout: -1], "timeout must be a number of milliseconds"},
          {[validation: 1], "validation must be a binary, got: 1"},
          {[callback: "here"], "unknown option :callback"},
          {:none, "options must be a keyword list, got: :none"}
        ] do
      assert_raise ArgumentError, ~r/^#{Regex.escape(text)}/, fn ->
        BertRpc.call(client, :a, :b, [], options)
      end
    end

    assert_raise ArgumentError, ~r/callback must be {"host:port", module, function, args}/, fn ->
      BertRpc.cast(client, :a, :b, [], callback: "here")
    end

    for callback <- [{"nowhere", :a, :b, []}, {"a:0", :a, :b, []}, {"a:1", :a, :b, [1 | 2]}] do
      assert_raise ArgumentError, ~r/callback must be {"host:port", module, function/, fn ->
        BertRpc.cast(client, :a, :b, [], callback: callback)
      end
    end

    assert {:error, %Reactor.ConfigError{option: :max_stream}} =
             BertRpc.connect("127.0.0.1", 1, max_stream: "much")
  end
end
