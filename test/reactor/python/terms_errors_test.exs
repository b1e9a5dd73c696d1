for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat(Reactor.Python.TermsErrorsTest, Macro.camelize("#{isolation}")) do
    # What docs/python_terms.md says of what cannot be converted.
    use Reactor.TermsCase, isolation: isolation, async: true

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

        text =
          "an instance of list has no hash in Python, so it is no key of a dict and in no set"

        assert {:error, %{message: message}} = call.([1, [bad]], %{})
        assert message == "argument 1[0]: " <> text
        assert {:error, %{message: message}} = call.([], %{rows: {0, bad}})
        assert message == "argument rows[1]: " <> text
        assert error(context, "x", %{x: %{a: bad}}) == {"TypeError", "variable x[:a]: " <> text}

        assert {:error, %{message: message}} = call.([1 | 2], %{})
        assert message == "arguments: they are no proper list"

        for key <- [1, nil, {}, <<255>>] do
          assert {"TypeError", "variable: names of variables are text, not " <> _} =
                   error(context, "x", %{key => 1})
        end

        assert {"ValueError", "variable x: two variables have this name" <> _} =
                 error(context, "x", %{:x => 1, "x" => 2})
      end

      test "is what has no value outside", context do
        for {code, text} <- [
              {"float('nan')", "value: the float nan has no counterpart outside Python"},
              {"[float('-inf')]", "value[0]: the float inf has no counterpart outside Python"},
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
          # What there is in the VM a process of its own does not know: that looks again.
          if unquote(isolation) == :process and text =~ ~r/atom|bits is too large/,
            do: assert({"ValueError", "what is returned" <> _} = error(context, code)),
            else: assert(error(context, code) == {"ValueError", text})
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
              {%{[] => 1}, "variable x: an instance of list"},
              {[%{%{} => 1}], "variable x[0]: an instance of dict"},
              {%{{1, []} => 1}, "variable x: an instance of tuple"},
              {MapSet.new([[1]]), "variable x: an instance of list"}
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

        # What a process of its own has is not held outside of it.
        if unquote(isolation) != :process do
          for {class, text} <- [{"Unhashable", "no hash"}, {"Unequal", "no comparison"}] do
            {:ok, key} = eval(context, class <> "()", %{}, return: :object)
            assert {"ValueError", message} = error(context, "x", %{x: [%{"a" => 1, key => 2}]})
            assert message == "variable x[0]: LookupError: " <> text
          end
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
