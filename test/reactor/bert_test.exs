defmodule Reactor.BertTest do
  use ExUnit.Case, async: true

  alias Reactor.Bert

  doctest Reactor.Bert

  defp written(term) do
    assert {:ok, data} = Bert.encode(term)
    :erlang.binary_to_term(data)
  end

  defp read(term), do: term |> :erlang.term_to_binary() |> Bert.decode()

  defp again(term) do
    assert {:ok, data} = Bert.encode(term)
    assert {:ok, found} = Bert.decode(data)
    found
  end

  test "the complex types" do
    assert written(nil) == {:bert, nil}
    assert written([true, {false, :other}]) == [{:bert, true}, {{:bert, false}, :other}]
    assert written(%{a: %{}}) == {:bert, :dict, [{:a, {:bert, :dict, []}}]}
    assert written(~U[2009-10-11 14:12:01.446228Z]) == {:bert, :time, 1255, 270_321, 446_228}
    assert written(~U[1969-12-31 23:59:59.500000Z]) == {:bert, :time, -1, 999_999, 500_000}
    assert written(~r/^c(a*)t$/i) == {:bert, :regex, "^c(a*)t$", [:caseless]}
    assert written(~r/a.b/sx) == {:bert, :regex, "a.b", [:dotall, :extended]}
  end

  test "all of them come back" do
    term = [
      %{1 => [nil, true, false], "two" => %{three: {}}},
      {:ok, 1.5, -(2 ** 100), "text", <<255>>, ~c"bytes", [], :é},
      ~U[2009-10-11 14:12:01.446228Z],
      ~U[0001-01-01 00:00:00.000000Z]
    ]

    assert again(term) == term
    assert Regex.source(again(~r/a+/i)) == "a+"
    assert "xAAx" =~ again(~r/a+/i)
    refute "xAAx" =~ again(~r/a+/)
  end

  test "nothing but the tags of the specification is written" do
    assert Bert.encode(:ok) == {:ok, <<131, 100, 0, 2, "ok">>}
    assert {:ok, <<131, 99, "1.5000", _::binary>>} = Bert.encode(1.5)
    assert {:ok, <<131, 104, 3, 100, 0, 4, "bert", 100, 0, 4, "dict", 106>>} = Bert.encode(%{})
  end

  test "what BERT has nothing for" do
    for {term, what} <- [
          {self(), "a pid"},
          {make_ref(), "a reference"},
          {fn -> 1 end, "a function"},
          {hd(Port.list()), "a port"},
          {<<1::3>>, "a bit string"},
          {[1 | 2], "an improper list"},
          {MapSet.new(), "a struct of MapSet"},
          {~D[2020-01-01], "a struct of Date"}
        ] do
      assert Bert.encode(%{in: [{term}]}) ==
               {:error, {:unencodable, "BERT has nothing for #{what}"}}
    end

    assert Bert.encode([{:bert, nil}]) ==
             {:error, {:unencodable, "a tuple must not begin with :bert"}}
  end

  test "what is no BERT" do
    for {term, text} <- [
          {{:bert}, "none of BERT's types"},
          {{:bert, :other}, "none of BERT's types"},
          {[{:bert, :time, 1, 2, :c}], "none of BERT's types"},
          {{:bert, :time, 10 ** 9, 0, 0}, "out of range"},
          {{:bert, :dict, [{1, 2}, {1, 3}]}, "comes twice"},
          {{:bert, :dict, [1]}, "list of pairs"},
          {{:bert, :dict, [{1, 2} | 3]}, "list of pairs"},
          {{:bert, :regex, "(", []}, "cannot be compiled"},
          {{:bert, :regex, "a", [:report_errors]}, "cannot be compiled"},
          {{:bert, :regex, "a", [:caseless | 1]}, "cannot be compiled"},
          {fn -> 1 end, "a function"}
        ] do
      assert {:error, {:undecodable, reason}} = read(term)
      assert reason =~ text
    end

    name = "no_atom_#{System.unique_integer([:positive])}"
    assert {:error, {:undecodable, _}} = Bert.decode(<<131, 119, byte_size(name)>> <> name)
    assert {:error, {:undecodable, _}} = Bert.decode("nonsense")
    assert {:error, {:undecodable, text}} = Bert.decode(<<131, 97, 1>>, max_size: 2)
    assert text =~ "2 are allowed"
  end

  test "what others write in Erlang's own way is read" do
    assert read([nil, true, %{a: {:bert, :dict, [{"b", {:bert, nil}}]}}]) ==
             {:ok, [nil, true, %{a: %{"b" => nil}}]}

    assert read([1 | {:bert, nil}]) == {:ok, [1 | nil]}
  end
end
