for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat(Reactor.Python.TermsTest, Macro.camelize("#{isolation}")) do
    # What docs/python_terms.md says, row by row.
    use ExUnit.Case, async: true

    alias Reactor.Python

    @setup """
    import collections, dataclasses, datetime, decimal, enum, typing
    from erlang.terms import Atom, BitString, Fun, ImproperList, Pid, Port, Reference

    @dataclasses.dataclass
    class Point:
        x: int
        y: object = None
        limit: typing.ClassVar[int] = 3

    class Color(enum.Enum):
        RED = "red"
        PAIR = (1, [2])

    class Number(enum.IntEnum):
        ONE = 1

    Named = collections.namedtuple("Named", "first second")

    class Int(int):
        def __int__(self): raise LookupError("not asked")
        __abs__ = __index__ = __int__

    class Str(str):
        def __str__(self): raise LookupError("not asked")
        encode = __repr__ = __str__

    class List(list):
        def __iter__(self): raise LookupError("not asked")
        __len__ = __getitem__ = __iter__

    class Dict(dict):
        def __iter__(self): raise LookupError("not asked")
        keys = items = copy = __getitem__ = __iter__

    class Set(set):
        def __iter__(self): raise LookupError("not asked")
        __len__ = copy = __iter__

    def offset(hours):
        return datetime.timezone(datetime.timedelta(hours=hours))
    """

    setup_all do
      options = [isolation: unquote(isolation), setup: @setup]
      {:ok, python: start_supervised!({Python, options})}
    end

    defp eval(context, expression, variables \\ %{}, options \\ []) do
      Python.eval(context.python, expression, variables, options)
    end

    defp value!(context, expression, variables \\ %{}, options \\ []) do
      {:ok, value} = eval(context, expression, variables, options)
      value
    end

    # Comes back as it was, and is this in Python.
    defp assert_same(context, term, repr) do
      assert value!(context, "x", %{x: term}) === term
      assert value!(context, "repr(x)", %{x: term}) == repr
    end

    defp assert_type(context, term, type) do
      assert value!(context, "x", %{x: term}) === term
      assert value!(context, "type(x) is #{type}", %{x: term}), "not #{type}: #{inspect(term)}"
    end

    defp error(context, expression, variables \\ %{}, options \\ []) do
      assert {:error, %Python.Error{type: type, message: message}} =
               eval(context, expression, variables, options)

      {type, message}
    end

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

    describe "an error" do
      test "names the type, and where it is", context do
        for {code, where, type} <- [
              {"object()", "value", "object"},
              {"{'rows': [0, 1, 2, decimal.Decimal(1)]}", ~s(value["rows"][3]),
               "decimal.Decimal"},
              {"({1: Point(2, 1j)},)", "value[0][1].y", "complex"},
              {"[{Atom('a'): {(1, range(2)): 3}}]", ~s(value[0]["a"]<key>[1]), "range"},
              {"[{(iter([]),)}]", "value[0]<element>[0]", "list_iterator"},
              {"ImproperList([1, open], 3)", "value[1]", "builtin_function_or_method"},
              {"ImproperList([1], {None: typing})", "value.tail[None]", "module"},
              {"{'#{String.duplicate("k", 50)}': Point}",
               ~s(value["#{String.duplicate("k", 40)}"...]), "type"},
              {"{Named(1, 2): datetime.timedelta(1)}", "value[<reactor_context.Named>]",
               "datetime.timedelta"}
            ] do
          {"TypeError", message} = error(context, code)
          # The name of a context's module has its number.
          message = String.replace(message, ~r/reactor_context_\d+/, "reactor_context")
          assert message == "#{where}: an instance of #{type} has no counterpart outside Python"
        end
      end

      test "names the argument", context do
        call = &Python.call(context.python, :builtins, :dict, &1, kwargs: &2)
        bad = %{[1] => 2}
        text = "<list> has no hash in Python, so it is no key of a dict and in no set"
        assert {:error, %{message: message}} = call.([1, [bad]], %{})
        assert message == "argument 1[0]: " <> text
        assert {:error, %{message: message}} = call.([], %{rows: {0, bad}})
        assert message == "argument rows[1]: " <> text
        assert error(context, "x", %{x: %{a: bad}}) == {"TypeError", "variable x[:a]: " <> text}

        for key <- [1, nil, {}, <<255>>] do
          assert {"TypeError", "variable: names of variables are text, not " <> _} =
                   error(context, "x", %{key => 1})
        end

        assert {"ValueError", "variable x: two variables have this name" <> _} =
                 error(context, "x", %{:x => 1, "x" => 2})
      end

      test "is what has no value outside", context do
        for {code, text} <- [
              {"float('nan')", "value: the float NaN has no counterpart outside Python"},
              {"[float('-inf')]", "value[0]: the float -inf has no counterpart outside Python"},
              {"['a\\ud800']",
               "value[0]: a str has half of a surrogate pair at 1, which is not UTF-8 outside Python"},
              {"Atom('no such atom')",
               ~s(value: the atom "no such atom" does not exist outside Python, and is not made there)},
              {"Atom('keine Atöme')",
               ~s(value: the atom "keine Atöme" does not exist outside Python, and is not made there)},
              {"[-(1 << 70_000_000)]",
               "value[0]: an int of 70000001 bits is too large outside Python"},
              {"Pid(b'x')", "value: the bytes of this erlang.Pid are those of none"},
              {"Pid(b'a\\x01')", "value: the bytes of this erlang.Pid are those of none"},
              {"Pid(b'')", "value: the bytes of this erlang.Pid are those of none"},
              {"datetime.time(1, tzinfo=offset(1))",
               "value: a datetime.time with a time zone has no counterpart outside Python"},
              {"datetime.datetime(1, 1, 1, tzinfo=offset(5))",
               "value: OverflowError: date value out of range"}
            ] do
          assert error(context, code) == {"ValueError", text}
        end

        bits = "(b := BitString(b'a', 1), setattr(b, 'bits', 9), b)[2]"
        {"ValueError", "value: an erlang.BitString has bytes" <> _} = error(context, bits)
        early = %{~D[2024-01-01] | year: 0}

        assert {"ValueError", "variable x: ValueError: year " <> _} =
                 error(context, "x", %{x: early})
      end

      test "is what would be lost: keys that are equal on one side", context do
        for {term, text} <- [
              {%{1 => :a, 1.0 => :b},
               ~r/^variable x: the key (1|1\.0) equals another one in Python$/},
              {[%{:a => 1, "a" => 2}],
               ~r/^variable x\[0\]: the key (:a|"a") equals another one in Python$/},
              {%{true => 1, 1 => 2},
               ~r/^variable x: the key (true|1) equals another one in Python$/},
              {MapSet.new([2, 2.0]),
               ~r/^variable x: the element 2(\.0)? equals another one in Python$/}
            ] do
          assert {"ValueError", message} = error(context, "x", %{x: term})
          assert message =~ text
        end

        for {code, text} <- [
              {"{'a': 1, b'a': 2}", ~s(value: two keys are "a" outside Python)},
              {"[{**{i: i for i in range(50)}, 'a': 1, b'a': 2}]",
               ~s(value[0]: two keys are "a" outside Python)},
              {"{'a', b'a'}", ~s(value: two elements are "a" outside Python)},
              {"{Color.RED: 1, 'red': 2}", ~s(value: two keys are "red" outside Python)}
            ] do
          assert error(context, code) == {"ValueError", text}
        end
      end

      test "is what Python cannot have as a key", context do
        for {term, where} <- [
              {%{[] => 1}, "variable x: <list>"},
              {[%{%{} => 1}], "variable x[0]: <map>"},
              {%{{1, []} => 1}, "variable x: <tuple>"},
              {MapSet.new([[1]]), "variable x: <list>"}
            ] do
          assert error(context, "x", %{x: term}) ==
                   {"TypeError",
                    where <> " has no hash in Python, so it is no key of a dict and in no set"}
        end
      end

      test "is what is too deep, or contains itself", context do
        nest = fn depth -> Enum.reduce(1..depth, 0, fn _, inner -> [inner] end) end
        tuples = fn depth -> Enum.reduce(1..depth, 0, fn _, inner -> {inner} end) end

        for make <- [nest, tuples],
            do: assert(value!(context, "x", %{x: make.(64)}) === make.(64))

        assert {"ValueError", message} = error(context, "x", %{x: nest.(65)})
        assert message == "variable x#{String.duplicate("[0]", 64)}: nested more than 64 deep"

        :ok =
          Python.exec(context.python, """
          def nest(depth):
              return [nest(depth - 1)] if depth else 0
          class Endless(enum.Enum):
              A = 1
          Endless.A._value_ = Endless.A
          endless = {"a": [0, 1]}
          endless["a"][1] = endless
          deep = point = Point(1)
          for _ in range(70):
              point.y = Point(2)
              point = point.y
          point.y = deep
          """)

        assert value!(context, "nest(64)") === nest.(64)
        assert {"ValueError", message} = error(context, "nest(65)")
        assert message == "value#{String.duplicate("[0]", 64)}: nested more than 64 deep"
        assert error(context, "endless") == {"ValueError", ~s(value["a"][1]: it contains itself)}
        assert error(context, "Endless.A") == {"ValueError", "value: it contains itself"}
        assert {"ValueError", "value.y.y.y." <> _} = error(context, "deep")
      end

      @tag timeout: 120_000
      test "is what is too large, however small it is in Python", context do
        assert {"ValueError", "value[9999999]: more than 10000000 values are too many to convert"} =
                 error(context, "[0] * 10_000_001", %{}, timeout: 60_000)

        :ok =
          Python.exec(context.python, """
          wide = [0] * 1000
          for _ in range(20):
              wide = [wide] * 1000
          """)

        assert {"ValueError", "value[0][0]" <> message} =
                 error(context, "wide", %{}, timeout: 60_000)

        assert message =~ ": more than 10000000 values are too many to convert"
        many = List.duplicate(0, 10_000_001)

        assert {"ValueError", "variable x[9999999]: more than" <> _} =
                 error(context, "x", %{x: many}, timeout: 60_000)
      end
    end

    describe "code of the value's own" do
      test "that raises is an error with its place and its cause", context do
        :ok =
          Python.exec(context.python, """
          class Zone(datetime.tzinfo):
              def utcoffset(self, moment):
                  raise LookupError("no such zone")

          class Fails:
              __dataclass_fields__ = Point.__dataclass_fields__
              @property
              def x(self):
                  return 1 // 0

          class Unhashable:
              def __hash__(self):
                  raise LookupError("no hash")

          class Unequal:
              def __hash__(self):
                  return hash("a")
              def __eq__(self, other):
                  raise LookupError("no comparison")
          """)

        assert {:error, %Python.Error{} = error} = eval(context, "{'a': [Fails()]}")

        assert error.message ==
                 ~s(value["a"][0].x: ZeroDivisionError: integer division or modulo by zero) or
                 error.message == ~s(value["a"][0].x: ZeroDivisionError: division by zero)

        assert error.traceback =~ "in x\nZeroDivisionError"

        zoned = "datetime.datetime(2024, 1, 1, tzinfo=Zone())"
        assert error(context, zoned) == {"ValueError", "value: LookupError: no such zone"}

        for {class, text} <- [{"Unhashable", "no hash"}, {"Unequal", "no comparison"}] do
          {:ok, key} = eval(context, class <> "()", %{}, return: :object)
          assert {"ValueError", message} = error(context, "x", %{x: [%{"a" => 1, key => 2}]})
          assert message == "variable x[0]: LookupError: " <> text
        end
      end

      test "that changes what is converted changes nothing of it, or the rest of a list",
           context do
        :ok =
          Python.exec(context.python, """
          class Changes(datetime.tzinfo):
              def __init__(self, what):
                  self.what = what
              def utcoffset(self, moment):
                  self.what()
                  return datetime.timedelta(0)
          def moment(what):
              return datetime.datetime(2024, 1, 1, tzinfo=Changes(what))
          growing = {}
          growing["a"] = moment(lambda: growing.update({len(growing): 0}))
          shrinking = set()
          shrinking.add(moment(shrinking.clear))
          endless = []
          endless.append(moment(lambda: endless.extend(endless[-1:])))
          emptied = [1]
          emptied.insert(0, moment(emptied.clear))
          """)

        moment = ~U[2024-01-01 00:00:00Z]
        assert value!(context, "growing") === %{"a" => moment}
        assert value!(context, "len(growing)") == 2
        assert value!(context, "shrinking") === MapSet.new([moment])
        assert value!(context, "emptied") === [moment]
      end
    end
  end
end
