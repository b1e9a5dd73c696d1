for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat(Reactor.Python.TermsPropertiesTest, Macro.camelize("#{isolation}")) do
    use ExUnit.Case, async: true

    alias Reactor.Python

    @moduletag :property
    @compile {:no_warn_undefined, [:proper, :proper_types]}

    # 100,000 terms, in lists.
    @terms 500
    @runs 200
    # How long lists in them are at most. Larger ones take long to make, and are not more different.
    @size 5

    @tag timeout: 120_000
    test "100,000 random terms come back as they were, from isolation: #{inspect(isolation)}" do
      context = start_supervised!({Python, isolation: unquote(isolation)})

      property =
        :proper.forall(:proper_types.vector(@terms, any(3)), fn terms ->
          Python.eval(context, "x", %{x: terms}, timeout: 60_000) === {:ok, terms}
        end)

      options = [:quiet, numtests: @runs, max_size: @size, max_shrinks: 100]

      assert :proper.quickcheck(property, options) == true,
             "counterexample: #{inspect(:proper.counterexample())}"
    end

    defp any(0), do: scalar()

    defp any(depth) do
      inner = any(depth - 1)

      :proper_types.weighted_union([
        {12, scalar()},
        {2, :proper_types.list(inner)},
        {1, make(:proper_types.non_empty(:proper_types.list(inner)), &improper/1)},
        {2, make(:proper_types.list(inner), &List.to_tuple/1)},
        {2, make(:proper_types.list({key(), inner}), &Map.new/1)},
        {1, make(:proper_types.list(key()), &MapSet.new/1)},
        {1, make({:proper_types.elements([:dog, :cat]), inner}, &structure/1)}
      ])
    end

    defp scalar do
      :proper_types.weighted_union([
        {3, :proper_types.integer()},
        {2, large_integer()},
        {2, :proper_types.float()},
        {2, :proper_types.binary()},
        {2, text()},
        {2, atom()},
        {1, make({:proper_types.binary(), :proper_types.integer(1, 7)}, &bits/1)},
        {1, :proper_types.elements(opaque())},
        {2, time()}
      ])
    end

    # What Python can have as a key, and tells from every other: 1, 1.0 and True are one key there, and so are
    # "a" and :a.
    defp key do
      plain = [
        make(:proper_types.integer(), &(&1 * 2 + if(&1 < 0, do: -1, else: 2))),
        make(:proper_types.integer(), &(&1 + 0.5)),
        make(:proper_types.binary(), &("binary" <> &1)),
        atom(),
        :proper_types.elements(opaque()),
        time()
      ]

      :proper_types.union([
        make(:proper_types.list(:proper_types.union(plain)), &List.to_tuple/1) | plain
      ])
    end

    defp atom do
      :proper_types.elements([
        nil,
        true,
        false,
        :ok,
        :error,
        :"with spaces",
        :"",
        :ü,
        :"€",
        String
      ])
    end

    defp text, do: make(:proper_types.list(character()), &List.to_string/1)

    defp character do
      :proper_types.union([
        :proper_types.integer(0, 0x7F),
        :proper_types.integer(0x80, 0xD7FF),
        :proper_types.integer(0xE000, 0x10FFFF)
      ])
    end

    # Around the limits of what fits in 32 and 64 bits and in 255 bytes, and anywhere.
    defp large_integer do
      bits = :proper_types.union([31, 32, 59, 60, 63, 64, 2040, :proper_types.integer(0, 3_000)])
      sign = :proper_types.elements([1, -1])

      make({bits, sign, :proper_types.integer(-2, 2)}, fn {bits, sign, near} ->
        sign * (Bitwise.bsl(1, bits) + near)
      end)
    end

    # Of these only Python's microseconds come back.
    defp time do
      second = :proper_types.integer(-62_135_596_800, 253_402_300_799)
      microsecond = :proper_types.union([0, :proper_types.integer(1, 999_999)])
      kind = :proper_types.elements([:date, :time, :naive, :utc])

      make({kind, second, microsecond}, fn {kind, second, microsecond} ->
        moment = DateTime.from_unix!(second)
        precision = if microsecond == 0, do: 0, else: 6
        moment = %{moment | microsecond: {microsecond, precision}}

        case kind do
          :date -> DateTime.to_date(moment)
          :time -> DateTime.to_time(moment)
          :naive -> DateTime.to_naive(moment)
          :utc -> moment
        end
      end)
    end

    defp opaque do
      n = :erlang.unique_integer()
      ports = Enum.take(Port.list(), 3)
      funs = [&String.length/1, fn x -> x + n end, fn -> self() end]
      [self(), Process.whereis(:init), make_ref(), make_ref()] ++ ports ++ funs
    end

    defp improper([last]), do: [last | :tail]
    defp improper([head | rest]) when is_list(hd(rest)), do: [head | {:tail, rest}]
    defp improper([head | rest]), do: List.foldr([head | tl(rest)], tail(hd(rest)), &[&1 | &2])

    # No list, with which it would be a proper one.
    defp tail(list) when is_list(list), do: {:tail, list}
    defp tail(term), do: term

    defp bits({binary, bits}), do: <<binary::binary, Enum.random(0..127)::size(bits)>>

    defp structure({:dog, inner}), do: %URI{host: inner}
    defp structure({:cat, inner}), do: %{__struct__: Nothing.Like.This, inner: inner}

    defp make(type, function), do: :proper_types.bind(type, function, false)
  end
end
