defmodule Reactor.BertRpc.ServerTest do
  # What a server answers to clients that send what they like.
  use Reactor.TransportCase, async: true, transport: :Native

  defmodule Calc do
    def add(a, b), do: a + b
    def echo(term), do: term
  end

  defmodule Small do
    def one, do: 1
  end

  defmodule Rpc do
    use Reactor.BertRpc, expose: [calc: Calc, small: Small], max_packet: 100_000
  end

  defp raw(context), do: context |> serve(Rpc) |> dial(packet: 4)

  defp say(socket, data) when is_binary(data), do: :ok = :gen_tcp.send(socket, data)
  defp say(socket, term), do: say(socket, :erlang.term_to_binary(term))

  defp hear(socket) do
    with {:ok, data} <- :gen_tcp.recv(socket, 0, 5_000), do: :erlang.binary_to_term(data)
  end

  test "packets that are no requests are answered by errors, and the connection goes on",
       context do
    socket = raw(context)

    for {data, type, code, text} <- [
          {"nonsense", :protocol, 2, "no term"},
          {<<131, 104, 4, 119, 4, "call">>, :protocol, 2, "no term"},
          {{:call, :calc}, :protocol, 0, "a request is"},
          {{:call, :calc, :add, 3}, :protocol, 0, "a request is"},
          {{:call, :calc, :add, [1 | 2]}, :protocol, 0, "a request is"},
          {{:call, "calc", :add, [1, 2]}, :protocol, 0, "a request is"},
          {{:reply, 3}, :protocol, 0, "a request is"},
          {{:call, :calc, :echo, [fn -> 1 end]}, :protocol, 2, "a function in it"},
          {{:call, :calc, :echo, [{:bert, :what}]}, :protocol, 2, "none of BERT's types"},
          {{:call, :nowhere, :add, []}, :server, 1, "module 'nowhere' not found"}
        ] do
      say(socket, data)
      assert {:error, {^type, ^code, "BERTError", detail, []}} = hear(socket)
      assert detail =~ text
    end

    say(socket, {:call, :calc, :add, [1, 2]})
    assert hear(socket) == {:reply, 3}
  end

  test "names that are no atoms here", context do
    socket = raw(context)
    name = fn text -> <<119, byte_size(text), text::binary>> end
    unknown = "unknown_#{System.unique_integer([:positive])}_name"

    say(
      socket,
      <<131, 104, 4, name.("call")::binary, name.(unknown)::binary, name.("add")::binary, 106>>
    )

    assert {:error, {:server, 1, _, detail, []}} = hear(socket)
    assert detail == "module '#{unknown}' not found"

    say(
      socket,
      <<131, 104, 4, name.("call")::binary, name.("calc")::binary, name.(unknown)::binary, 106>>
    )

    assert {:error, {:protocol, 2, _, detail, []}} = hear(socket)
    assert detail =~ "an atom in it that does not exist"
    assert_raise ArgumentError, fn -> String.to_existing_atom(unknown) end
  end

  test "a packet that is too large", context do
    socket = raw(context)
    say(socket, {:call, :calc, :echo, [:binary.copy("x", 150_000)]})
    assert {:error, {:protocol, 1, _, detail, []}} = hear(socket)
    assert detail =~ ~r/^the packet has 150\d\d\d bytes, 100000 are allowed/
    say(socket, {:call, :small, :one, []})
    assert hear(socket) == {:reply, 1}
    # That much is not even received.
    :ok = :inet.setopts(socket, packet: :raw)
    say(socket, <<1_000_000::32>>)
    assert hear(socket) == {:error, :closed}
  end

  test "a compressed packet that is too large when it is expanded", context do
    socket = raw(context)
    term = {:call, :calc, :echo, [:binary.copy("x", 1_000_000)]}
    say(socket, :erlang.term_to_binary(term, compressed: 9))
    assert {:error, {:protocol, 2, _, detail, []}} = hear(socket)
    assert detail =~ "it expands to"
  end

  test "info packets that make no sense are answered with the request after them", context do
    socket = raw(context)

    for info <- [
          {:info, :stream, [1]},
          {:info, :cache, [:what]},
          {:info, :callback, [{:service, "nowhere"}, {:mfa, :a, :b, []}]},
          {:info, :callback, []},
          {:info, :something, []}
        ] do
      say(socket, info)
      say(socket, {:call, :small, :one, []})
      assert {:error, {:server, 0, _, detail, []}} = hear(socket)
      assert detail =~ "is not understood"
      say(socket, {:call, :small, :one, []})
      assert hear(socket) == {:reply, 1}
    end

    say(socket, {:info, :callback, [{:service, "localhost:1"}, {:mfa, :a, :b, []}]})
    say(socket, {:call, :small, :one, []})
    assert {:error, {:server, 0, _, "a callback is for a cast", []}} = hear(socket)
  end
end
