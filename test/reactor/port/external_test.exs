defmodule Reactor.Port.ExternalTest do
  use ExUnit.Case, async: true

  alias Reactor.Port.External

  defp text(data, limits \\ []) do
    assert {:error, {:undecodable, text}} = External.decode(data, limits)
    text
  end

  defp binary(term, options \\ []), do: :erlang.term_to_binary(term, options)

  test "what other nodes write is read, and so is what is compressed" do
    term = %{"c" => 2 ** 100, a: [1, 2.5 | :b], b: {self(), make_ref(), <<1::3>>}}
    assert External.decode(binary(term)) == {:ok, term}
    assert External.decode(binary(term, minor_version: 2)) == {:ok, term}

    long = List.duplicate("hello", 1_000)
    assert <<131, 80, _::binary>> = compressed = binary(long, compressed: 9)
    assert External.decode(compressed) == {:ok, long}
  end

  test "no atom is made" do
    name = "no_such_atom_#{System.unique_integer([:positive])}_here"
    data = <<131, 104, 1, 119, byte_size(name), name::binary>>
    assert text(data) =~ "an atom in it that does not exist"
    assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
  end

  test "what is no term is refused, however it is cut" do
    data = binary(%{"a" => [1, 2.5, {:ok, "text"}], "b" => <<1::3>>})
    assert {:ok, _} = External.decode(data)
    for size <- 0..(byte_size(data) - 1), do: text(binary_part(data, 0, size))
    assert text("nonsense") =~ "no term"
    assert text(data <> "xy") == "2 bytes follow the term"

    compressed = binary(List.duplicate("hello", 100), compressed: 9)
    for size <- 0..(byte_size(compressed) - 1), do: text(binary_part(compressed, 0, size))
    assert text(compressed <> "x") == "1 bytes follow the term"
  end

  test "sizes are looked at before anything is decoded" do
    assert text(binary("abc"), max_size: 8) == "it has 9 bytes, 8 are allowed"
    assert {:ok, "abc"} = External.decode(binary("abc"), max_size: 9)

    # A megabyte of nothing is a kilobyte, in truth or not.
    bomb = binary(:binary.copy(<<0>>, 1_000_000), compressed: 9)
    assert byte_size(bomb) < 2_000
    assert text(bomb, max_size: 100_000) =~ "it expands to 1000005 bytes, 100000 are allowed"
    assert {:ok, _} = External.decode(bomb, max_size: 1_000_005)
    <<131, 80, _size::32, deflated::binary>> = bomb
    assert text(<<131, 80, 10::32, deflated::binary>>) =~ "no term"
    assert text(<<131, 80, 4_000_000_000::32, deflated::binary>>) =~ "67108864 are allowed"
  end

  test "functions are refused unless they are asked for, wherever they are" do
    fun = fn -> :ok end

    for term <- [
          fun,
          &List.first/1,
          [1, fun],
          [1 | fun],
          {fun},
          %{a: fun},
          %{fun => 1},
          [[{%{1 => fun}}]]
        ] do
      assert text(binary(term)) == "there is a function in it"
      assert External.decode(binary(term), functions: true) == {:ok, term}
    end
  end

  test "a term that is nested a million deep" do
    deep = Enum.reduce(1..1_000_000, [], fn _, inner -> [inner] end)
    assert {:ok, ^deep} = External.decode(binary(deep))
  end
end
