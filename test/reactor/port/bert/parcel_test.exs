defmodule Reactor.Port.Bert.ParcelTest do
  use ExUnit.Case, async: true

  alias Reactor.Port.Bert.Parcel

  @limits %{max_frame: 1_000, max_stream: 10}

  # Takes packets, given as terms or as bytes, until something is whole.
  defp take(packets, limits \\ @limits) do
    Enum.reduce_while(packets, [], fn packet, part ->
      packet = if is_binary(packet), do: packet, else: :erlang.term_to_binary(packet)

      case Parcel.take(packet, part, limits) do
        {:more, part} -> {:cont, part}
        whole -> {:halt, whole}
      end
    end)
  end

  @call {:call, :calc, :add, [1, 2]}
  @stream {:info, :stream, []}

  test "a packet by itself is whole at once" do
    for {packet, kind} <- [
          {@call, :call},
          {{:cast, :calc, :add, [1, 2]}, :cast},
          {{:reply, 3}, :answer},
          {{:noreply}, :answer},
          {{:error, {:user, 0, "", "", []}}, :answer}
        ] do
      assert {^kind, %Parcel{infos: [], chunks: nil, packet: data}} = take([packet])
      assert :erlang.binary_to_term(data) == packet
    end
  end

  test "is known by its beginning, compressed or not, also if an atom in it is not" do
    name = "no_such_atom_#{System.unique_integer([:positive])}"
    data = <<131, 104, 2, 119, 5, "reply", 119, byte_size(name), name::binary>>
    assert {:answer, %Parcel{}} = take([data])
    data = <<131, 104, 3, 100, 4::16, "info", 100, 6::16, "stream", 106>>
    assert [{"stream", ^data}] = take([data])

    call = {:call, :calc, :echo, [String.duplicate("x", 500)]}
    data = :erlang.term_to_binary(call, compressed: 9)
    assert <<131, 80, _::binary>> = data
    assert {:call, %Parcel{packet: ^data}} = take([data])
  end

  test "info packets are of the packet behind them, in order" do
    infos = [{:info, :cache, [validation: "a"]}, {:info, :later, :any}]
    assert {:call, %Parcel{infos: found, chunks: nil}} = take(infos ++ [@call])
    assert Enum.map(found, &:erlang.binary_to_term/1) == infos
  end

  test "a stream is of what it was said of, up to its end" do
    for packet <- [@call, {:reply, []}] do
      assert {_kind, %Parcel{chunks: ["ab", "c"]}} = take([@stream, packet, "ab", "c", ""])
      assert {_kind, %Parcel{chunks: []}} = take([@stream, packet, ""])
    end

    # These have none.
    for packet <- [{:noreply}, {:error, {:user, 0, "", "", []}}],
        do: assert({:answer, %Parcel{chunks: nil}} = take([@stream, packet]))
  end

  test "a stream that is too long is read to its end, and not kept" do
    chunks = List.duplicate("0123456", 1_000)
    assert {:call, %Parcel{chunks: :too_large}} = take([@stream, @call] ++ chunks ++ [""])
  end

  test "as many info packets as nobody sends are an error" do
    assert take(List.duplicate(@stream, 17)) == :error
  end

  test "a stream that is sent has chunks that fit, none of them empty, and an end" do
    limits = %{max_frame: 4, max_stream: 10}
    assert Parcel.chunks(nil, limits) == {:ok, []}
    assert Parcel.chunks([], limits) == {:ok, [""]}
    assert Parcel.chunks(["abcdefghi", "", "j"], limits) == {:ok, ["abcd", "efgh", "i", "j", ""]}
    assert Parcel.chunks(["abcdefghi", "jk"], limits) == {:error, {:too_large, %{max: 10}}}
    assert {:error, {:unencodable, _}} = Parcel.chunks([~c"abc"], limits)
    # No more is taken than may be sent.
    assert Parcel.chunks(Stream.cycle(["abc"]), limits) == {:error, {:too_large, %{max: 10}}}
  end
end
