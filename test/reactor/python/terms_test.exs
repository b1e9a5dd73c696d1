for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat(Reactor.Python.TermsTest, Macro.camelize("#{isolation}")) do
    # What docs/python_terms.md says, row by row.
    use Reactor.TermsCase, isolation: isolation, async: true

    describe "alike on both sides:" do
      test "nil, true and false", context do
        for {term, repr} <- [{nil, "None"}, {true, "True"}, {false, "False"}] do
          assert_same(context, term, repr)
        end
      end

      test "atoms", context do
        assert_same(context, :an_atom, "Atom('an_atom')")
        assert_same(context, String, "Atom('Elixir.String')")

        for atom <- [:"", :"with space", :ü, :"€", :"\u{10FFFF}"],
            do: assert_type(context, atom, "Atom")

        longest = String.to_atom(String.duplicate("€", 255))
        assert_type(context, longest, "Atom")

        assert value!(context, "x == 'tcp' and {'tcp': 1}[x] == 1 and isinstance(x, str)", %{
                 x: :tcp
               })

        # An atom that is text for some other program is text from here on.
        assert value!(context, "str(x)", %{x: :tcp}) === "tcp"
        assert value!(context, "[Atom('ok'), 'ok']") === [:ok, "ok"]
      end

      test "integers of any size", context do
        assert_same(context, 0, "0")
        assert_same(context, -(2 ** 64), "-18446744073709551616")

        for bits <- [31, 32, 59, 60, 62, 63, 64, 65, 128, 2_039, 2_040, 2_041, 50_000],
            sign <- [1, -1],
            near <- [-1, 0, 1] do
          assert_type(context, sign * 2 ** bits + near, "int")
        end

        assert value!(context, "x == -(2 ** 5000)", %{x: -(2 ** 5_000)})
      end

      test "floats", context do
        for float <- [0.0, 1.5, -1.0e308, 5.0e-324], do: assert_type(context, float, "float")
        assert value!(context, "str(x)", %{x: -0.0}) == "-0.0"
      end

      test "lists", context do
        assert_same(context, [], "[]")
        assert_same(context, [1, [2, []], "a"], "[1, [2, []], 'a']")
        assert value!(context, "x", %{x: [?t, ?e]}) === [?t, ?e]
      end

      test "tuples", context do
        assert_same(context, {}, "()")
        assert_same(context, {1, {2}, "a"}, "(1, (2,), 'a')")
      end

      test "maps", context do
        assert_same(context, %{}, "{}")
        assert_same(context, %{"a" => %{1 => nil}}, "{'a': {1: None}}")
        many = Map.new(1..100, &{{&1, "k"}, [&1]})
        assert_type(context, many, "dict")
        assert value!(context, "dict(sorted(x.items(), reverse=True))", %{x: many}) === many
      end

      test "improper lists", context do
        assert_same(context, [1, 2 | 3], "ImproperList([1, 2], 3)")
        assert_same(context, [[1 | "a"] | nil], "ImproperList([ImproperList([1], 'a')], None)")
        assert value!(context, "ImproperList([1], [2])") === [1, 2]
      end

      test "bits that are no bytes", context do
        assert_same(context, <<5::3>>, "BitString(b'\\xa0', 3)")
        assert_same(context, <<"a", 1::7>>, "BitString(b'a\\x02', 7)")
        assert value!(context, "BitString(b'\\xff', 3)") === <<7::3>>
      end

      test "sets", context do
        assert_same(context, MapSet.new(), "set()")
        set = MapSet.new([1, :a, "b", {2, nil}])
        assert_type(context, set, "set")
        assert value!(context, "frozenset(x)", %{x: set}) === set

        assert value!(context, "{x: {frozenset({1})}}", %{x: 1}) === %{
                 1 => MapSet.new([MapSet.new([1])])
               }

        many = MapSet.new(1..100)
        assert value!(context, "set(range(1, 101))") === many
      end

      test "dates", context do
        assert_same(context, ~D[2024-02-29], "datetime.date(2024, 2, 29)")

        for date <- [~D[0001-01-01], ~D[9999-12-31]],
            do: assert_type(context, date, "datetime.date")
      end

      test "times", context do
        assert_same(context, ~T[23:59:59], "datetime.time(23, 59, 59)")
        assert_same(context, ~T[00:00:00.000001], "datetime.time(0, 0, 0, 1)")
        assert value!(context, "x", %{x: ~T[01:02:03.5]}) === ~T[01:02:03.500000]
        assert value!(context, "x", %{x: ~T[01:02:03.000]}) === ~T[01:02:03]
      end

      test "naive datetimes", context do
        assert_same(context, ~N[2024-02-29 01:02:03], "datetime.datetime(2024, 2, 29, 1, 2, 3)")
        assert_type(context, ~N[9999-12-31 23:59:59.999999], "datetime.datetime")
      end

      test "datetimes, which come back in UTC", context do
        utc = ~U[2024-02-29 01:02:03.000004Z]
        repr = "datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)"
        assert_same(context, utc, repr)
        # As a library for time zones makes them.
        there = %{
          ~U[2024-07-01 14:00:00Z]
          | time_zone: "Europe/Berlin",
            zone_abbr: "CEST",
            utc_offset: 3600,
            std_offset: 3600
        }

        assert value!(context, "x", %{x: there}) === ~U[2024-07-01 12:00:00Z]
        assert value!(context, "x.isoformat()", %{x: there}) == "2024-07-01T14:00:00+02:00"

        assert value!(context, "datetime.datetime(2024, 1, 1, 3, tzinfo=offset(-5))") ===
                 ~U[2024-01-01 08:00:00Z]
      end

      test "other structs, as dicts", context do
        assert_type(context, %URI{host: "a", port: 80}, "dict")
        assert_type(context, 1..3//2, "dict")
        assert value!(context, "x[Atom('__struct__')]", %{x: 1..3}) === Range
        assert value!(context, "x['host']", %{x: %URI{host: "a"}}) === "a"
        # Not of the calendar that Python has, or not what such a struct has.
        for struct <- [
              %{~D[2024-01-01] | calendar: Calendar.Other},
              %{__struct__: Date, calendar: Calendar.ISO},
              %{__struct__: MapSet, map: []}
            ] do
          assert_type(context, struct, "dict")
        end
      end

      test "pids", context do
        for pid <- [self(), Process.whereis(:init)], do: assert_type(context, pid, "Pid")
        pids = %{x: self(), y: self(), z: Process.whereis(:init)}
        assert value!(context, "x == y and x != z and len({x, y, z}) == 2", pids)
      end

      test "ports", context do
        for port <- Port.list(), do: assert_type(context, port, "Port")
      end

      test "references, also to resources", context do
        assert_type(context, make_ref(), "Reference")
        counter = :counters.new(1, [])
        {:write_concurrency, resource} = {:write_concurrency, elem(counter, 1)}
        assert_type(context, resource, "Reference")
        :ok = :counters.add({:atomics, value!(context, "x", %{x: resource})}, 1, 5)
        assert :counters.get(counter, 1) == 5
      end

      test "functions", context do
        n = System.unique_integer()

        for function <- [&String.length/1, Function.capture(Nothing, :is, 3)],
            do: assert_type(context, function, "Fun")

        assert value!(context, "x", %{x: fn m -> n + m end}).(1) == n + 1
      end
    end

    describe "binaries" do
      test "are str if they are UTF-8, else bytes", context do
        for text <- ["", "text", "ü€\u{10FFFF}\0"], do: assert_type(context, text, "str")

        for bytes <- [<<255>>, <<"a", 0xC0, 0x80>>, <<0xED, 0xA0, 0x80>>],
            do: assert_type(context, bytes, "bytes")
      end

      test "are all bytes, or all str, where that is asked for", context do
        for {option, type} <- [auto: "str", text: "str", bytes: "bytes"] do
          options = [binaries: option]
          assert value!(context, "type(x[0]).__name__", %{x: ["a"]}, options) == type
          assert value!(context, "x", %{x: ["a"]}, options) === ["a"]

          assert Python.call(context.python, :builtins, :repr, [%{a: "b"}], options) ==
                   {:ok, if(type == "str", do: "{Atom('a'): 'b'}", else: "{Atom('a'): b'b'}")}
        end

        stream = Python.stream_eval(context.python, "map(repr, x)", %{x: ["a"]}, binaries: :bytes)
        assert Enum.to_list(stream) == ["b'a'"]

        assert {"ValueError", "variable x[1]: a binary is to be text, and is not UTF-8 at byte 1"} =
                 error(context, "x", %{x: ["a", <<"a", 255>>]}, binaries: :text)
      end

      test "are bytes one by one, whatever the others are", context do
        for option <- [:auto, :text, :bytes], binary <- ["a", "", <<255>>] do
          given = %{x: %{a: Python.bytes(binary)}}
          assert value!(context, "type(x['a']) is bytes", given, binaries: option)
          assert value!(context, "x", given, binaries: option) === %{a: binary}
        end

        assert {"TypeError", "variable x: a Reactor.Python.Bytes has a binary"} =
                 error(context, "x", %{x: %Python.Bytes{binary: 1}})
      end

      test "are what bytes, bytearray and memoryview become", context do
        for code <- [
              "'a'",
              "b'a'",
              "bytearray(b'a')",
              "memoryview(b'a')",
              "memoryview(b'abab')[::4]"
            ] do
          assert value!(context, code) === "a"
        end
      end

      test "are what a buffer of a protocol's becomes", context do
        :ok =
          Python.exec(context.python, """
          import erlang.reactor as reactor
          class Keeps(reactor.Protocol):
              def data_received(self, data):
                  global kept
                  kept = data
                  self.write_buffer.extend(b"kept")
                  return "write_pending"
          reactor.set_protocol_factory(Keeps)
          """)

        {:ok, listening} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
        {:ok, port} = :inet.port(listening)
        {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
        {:ok, socket} = :gen_tcp.accept(listening)
        assert Python.handoff(context.python, socket) == :ok
        :ok = :gen_tcp.send(client, <<"data", 255>>)
        assert :gen_tcp.recv(client, 4, 5_000) == {:ok, "kept"}
        assert value!(context, "type(kept).__name__") == "ReactorBuffer"
        assert value!(context, "kept") === <<"data", 255>>
      end
    end

    describe "of Python alone:" do
      test "dataclasses", context do
        assert value!(context, "Point(1, [Point('a')])") ===
                 %{"x" => 1, "y" => [%{"x" => "a", "y" => nil}]}
      end

      test "named tuples", context do
        assert value!(context, "Named(1, Named(2, 'a'))") === {1, {2, "a"}}
      end

      test "enumerations", context do
        assert value!(context, "[Color.RED, Color.PAIR, Number.ONE]") === ["red", {1, [2]}, 1]
        assert value!(context, "{Color.RED: 1}") === %{"red" => 1}
      end

      test "derived classes, of which nothing is asked", context do
        code = "Dict(a=[Int(5), Int(2 ** 70), Str('s'), List([1]), Set({2})])"
        assert value!(context, code) === %{"a" => [5, 2 ** 70, "s", [1], MapSet.new([2])]}
        assert value!(context, "collections.OrderedDict(a=1)") === %{"a" => 1}
        assert value!(context, "collections.Counter('aa')") === %{"a" => 2}
        assert value!(context, "type('Day', (datetime.date,), {})(2024, 1, 1)") === ~D[2024-01-01]
      end
    end
  end
end
