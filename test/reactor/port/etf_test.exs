defmodule Reactor.Port.EtfTest do
  # priv/python/erlang/etf, in a Python process, against this emulator.
  use ExUnit.Case, async: true

  @compile {:no_warn_undefined, [:proper, :proper_types]}

  # So many batches of so many terms: 100,000, and 25,000 that are damaged.
  @batches 200
  @damaged 50
  @batch 500

  test "the codec's own tests pass in a Python that has nothing else" do
    arguments = ~w(-m unittest discover -s test/python -p test_etf*.py)
    environment = [{"PYTHONPATH", "priv/python"}]
    options = [env: environment, stderr_to_stdout: true]
    assert {report, 0} = System.cmd(python(), arguments, options)
    assert report =~ ~r/^Ran \d\d tests/m
  end

  describe "against the emulator" do
    @describetag :property

    setup do
      port =
        Port.open(
          {:spawn_executable, python()},
          [
            :binary,
            :exit_status,
            packet: 4,
            args: ["test/support/python/etf_peer.py"],
            env: [{~c"PYTHONPATH", ~c"priv/python"}]
          ]
        )

      {:ok, port: port}
    end

    test "what the emulator writes is read, and written again byte by byte", %{port: port} do
      any = :proper_types.weighted_union([{9, scalar()}, {1, opaque()}])

      check(
        :proper.forall({:proper_types.vector(@batch, term(any)), options()}, fn {terms, options} ->
          externals = Enum.map(terms, &:erlang.term_to_binary(&1, options))
          same(terms, ask(port, {"again", externals}))
        end)
      )
    end

    test "what Python writes is what the emulator would have written", %{port: port} do
      check(
        :proper.forall(:proper_types.integer(0, 0xFFFFFFFF), fn seed ->
          externals = ask(port, {"make", seed, @batch})
          same(Enum.map(externals, &(is_binary(&1) and :erlang.binary_to_term(&1))), externals)
        end)
      )
    end

    test "what the emulator refuses is refused, whichever bits of it are wrong", %{port: port} do
      check(
        :proper.forall(:proper_types.vector(@batch, damaged()), fn externals ->
          answers = ask(port, {"again", externals})
          wrong = externals |> Enum.zip(answers) |> Enum.filter(&wrongly_taken?/1)
          wrong == [] or tell(wrong)
        end),
        @damaged
      )
    end
  end

  defp python, do: System.find_executable(System.get_env("PYO3_PYTHON", "python3"))

  defp wrongly_taken?({_external, {_error}}), do: false

  defp wrongly_taken?({external, _again}) do
    _ = :erlang.binary_to_term(external)
    false
  rescue
    ArgumentError -> true
  end

  defp ask(port, request) do
    true = Port.command(port, :erlang.term_to_binary(request))

    receive do
      {^port, {:data, data}} -> :erlang.binary_to_term(data)
      {^port, {:exit_status, status}} -> flunk("Python ended with status #{status}")
    after
      60_000 -> flunk("Python does not answer")
    end
  end

  defp check(property, batches \\ @batches) do
    assert :proper.quickcheck(property, [:quiet, :noshrink, numtests: batches, max_size: 20]) ==
             true,
           "see above for the first term that is wrong"
  end

  defp same(terms, externals) do
    wrong = terms |> Enum.zip(externals) |> Enum.reject(&same?/1)
    (length(terms) == @batch and wrong == []) or tell(wrong)
  end

  # The report is about a batch: what is wrong with it is what is wanted.
  defp tell(wrong) do
    IO.puts(inspect(hd(wrong), limit: :infinity, binaries: :as_binaries))
    false
  end

  defp same?({term, external}) when is_binary(external) do
    external == :erlang.term_to_binary(term, [:deterministic, minor_version: 2]) or
      (free?(term) and :erlang.binary_to_term(external) === term)
  end

  defp same?({_term, _error}), do: false

  # Large maps have no order, and the names of nodes in pids are as they were.
  defp free?(term) when is_pid(term) or is_reference(term) or is_port(term) or is_function(term),
    do: true

  defp free?(map) when map_size(map) > 32, do: true
  defp free?(map) when is_map(map), do: map |> Map.to_list() |> free?()
  defp free?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> free?()
  defp free?([item | rest]), do: free?(item) or free?(rest)
  defp free?(_term), do: false

  # ---- terms ----

  defp options do
    :proper_types.oneof([
      [],
      [minor_version: 0],
      [minor_version: 1],
      [minor_version: 2],
      [minor_version: 2, compressed: 6]
    ])
  end

  defp term(scalar), do: :proper_types.sized(&term(&1, scalar))

  defp term(0, scalar), do: scalar

  defp term(size, scalar) do
    inner = :proper_types.lazy(fn -> term(div(size, 3), scalar) end)
    list = :proper_types.resize(4, :proper_types.list(inner))

    :proper_types.weighted_union([
      {40, scalar},
      {10, list},
      {10, :proper_types.list(:proper_types.byte())},
      {5,
       let({:proper_types.non_empty(list), scalar}, fn {items, tail} -> join(items, tail) end)},
      {10, let(list, &List.to_tuple/1)},
      {10, let(:proper_types.resize(6, :proper_types.list({key(), inner})), &map/1)},
      {1, let(:proper_types.vector(40, {key(), scalar}), &map/1)}
    ])
  end

  defp scalar do
    :proper_types.oneof([
      :proper_types.integer(),
      :proper_types.oneof([255, 256, -1, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1]),
      let({:proper_types.integer(), :proper_types.integer(1, 2_100)}, fn {n, bits} ->
        n * Bitwise.bsl(1, bits) - n
      end),
      :proper_types.float(),
      :proper_types.oneof([-0.0, 1.0e300, 5.0e-324]),
      atom(),
      :proper_types.binary(),
      let(:proper_types.list(:proper_types.oneof(~c"aZ é€😀")), &List.to_string/1),
      :proper_types.bitstring(),
      [],
      {}
    ])
  end

  # What only the emulator can look into.
  defp opaque do
    :proper_types.oneof([self(), make_ref(), hd(Port.list()), &List.first/1, fn -> self() end])
  end

  defp atom do
    name = :proper_types.list(:proper_types.oneof(~c"aZ_ é€😀"))

    :proper_types.oneof([
      nil,
      true,
      false,
      :ok,
      String.to_atom(String.duplicate("é", 255)),
      let(:proper_types.resize(3, name), &(&1 |> List.to_string() |> String.to_atom()))
    ])
  end

  defp key do
    one = :proper_types.oneof([:proper_types.integer(), :proper_types.binary(), atom()])

    :proper_types.oneof([
      one,
      :proper_types.float(),
      :proper_types.bitstring(),
      let({one, one}, fn pair -> pair end),
      2 ** 70
    ])
  end

  # Of keys that are one to Python the first.
  defp map(pairs), do: pairs |> Enum.uniq_by(fn {key, _value} -> in_python(key) end) |> Map.new()

  defp in_python(key) when is_boolean(key), do: if(key, do: 1, else: 0)
  defp in_python(key) when is_atom(key) and key != nil, do: Atom.to_string(key)
  defp in_python(key) when is_float(key) and trunc(key) == key, do: trunc(key)
  defp in_python({one, other}), do: {in_python(one), in_python(other)}
  defp in_python(key), do: key

  defp join(items, tail), do: List.foldr(items, tail, &[&1 | &2])

  defp let(type, function), do: :proper_types.bind(type, function, false)

  # ---- damage ----

  defp damaged do
    damage = :proper_types.list({:proper_types.integer(0, 1_000_000), :proper_types.byte()})

    let({term(scalar()), options(), :proper_types.resize(3, damage)}, fn {term, options, damage} ->
      Enum.reduce(damage, :erlang.term_to_binary(term, options), &damage/2)
    end)
  end

  defp damage({place, 0}, external),
    do: binary_part(external, 0, rem(place, byte_size(external) + 1))

  defp damage({place, byte}, external) when byte_size(external) > 1 do
    # Not of the version byte, which would end it all.
    before = 1 + rem(place, byte_size(external) - 1)
    rest = binary_part(external, before + 1, byte_size(external) - before - 1)
    <<binary_part(external, 0, before)::binary, byte, rest::binary>>
  end

  defp damage(_damage, external), do: external
end
