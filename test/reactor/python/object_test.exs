# What a process of its own has is not held outside of it.
for isolation <- Reactor.Isolations.in_vm() do
  defmodule Module.concat(Reactor.Python.ObjectTest, Macro.camelize("#{isolation}")) do
    # The native side counts what all hold.
    use ExUnit.Case, async: false

    import Reactor.TransportCase, only: [eventually: 1]

    alias Reactor.{Native, Python}

    @isolation isolation

    # Says what was freed: each Python object has a name.
    @setup """
    import os, weakref
    freed = []
    class Thing:
        def __init__(self, name):
            self.name = name
            weakref.finalize(self, freed.append, name)
        def __repr__(self):
            return "secret"
    class Raises:
        def __init__(self, thing): self.thing = thing
        def __del__(self): raise LookupError("in __del__")
    class Tells:
        def __init__(self, write): self.write = write
        def __del__(self): os.write(self.write, b".")
    """

    setup do
      {:ok, python: start()}
    end

    defp start(options \\ []) do
      {:ok, context} = Python.start_context([isolation: @isolation, setup: @setup] ++ options)
      {:ok, keeper} = Python.Context.keeper(context)
      on_exit(fn -> Python.Contexts.stop(keeper) end)
      context
    end

    defp object!(context, expression, variables \\ %{}) do
      {:ok, %Python.Object{} = object} =
        Python.eval(context, expression, variables, return: :object)

      object
    end

    defp freed(context) do
      {:ok, freed} = Python.eval(context, "sorted(freed)")
      freed
    end

    # What a process holds ends with it.
    defp in_another_process(function) do
      :ok =
        fn ->
          function.()
          :ok
        end
        |> Task.async()
        |> Task.await()
    end

    describe "an object" do
      test "is the very same when it comes back, wherever it is in a term", %{python: python} do
        thing = object!(python, "Thing('a')")
        given = %{x: thing, y: %{deep: [{thing}]}}
        assert Python.eval(python, "x is y['deep'][0][0]", given) == {:ok, true}
        assert Python.eval(python, "x.name", given) == {:ok, "a"}
        assert Python.eval(python, "{x: 1}[x]", given) == {:ok, 1}
        assert Python.call(python, :builtins, :getattr, [thing, "name"]) == {:ok, "a"}

        assert Python.call(python, :builtins, :dict, [], kwargs: %{a: 1}, return: :object)
               |> elem(0) == :ok
      end

      test "may be anything: a function, a generator, None", %{python: python} do
        function = object!(python, "lambda x: x + 1")
        assert Python.eval(python, "f(1)", %{f: function}) == {:ok, 2}
        generator = object!(python, "(n * n for n in range(3))")
        for n <- 0..2, do: assert(Python.eval(python, "next(g)", %{g: generator}) == {:ok, n * n})

        assert {:error, %Python.Error{type: "StopIteration"}} =
                 Python.eval(python, "next(g)", %{g: generator})

        assert Python.eval(python, "n is None", %{n: object!(python, "None")}) == {:ok, true}
        bound = object!(python, "[].append")
        assert Python.eval(python, "(f(1), f.__self__)[1]", %{f: bound}) == {:ok, [1]}
      end

      test "is what a call comes to that is awaited later", %{python: python} do
        {:ok, call} = Python.eval_async(python, "Thing('a')", %{}, return: :object)
        {:ok, object} = Python.await(call)
        {:ok, call} = Python.call_async(python, :builtins, :getattr, [object, "name"])
        assert Python.await(call) == {:ok, "a"}

        :ok =
          Python.exec(python, """
          async def later(thing):
              return thing
          """)

        arguments = [:__main__, :later, [object], [return: :object]]
        {:ok, same} = apply(Python, :call, [python | arguments])
        assert Python.eval(python, "x is y", %{x: object, y: same}) == {:ok, true}
      end

      test "shows its type alone", %{python: python} do
        assert inspect(object!(python, "Thing('a')")) =~
                 ~r/^#Reactor.Python.Object<reactor_context_\d+.Thing>$/

        assert inspect(object!(python, "1")) == "#Reactor.Python.Object<int>"

        :ok =
          Python.exec(python, """
          class Hides(type):
              def __getattribute__(cls, name):
                  raise LookupError("hidden")
          class Hidden(metaclass=Hides): pass
          """)

        assert inspect(object!(python, "Hidden()")) == "#Reactor.Python.Object<object>"
      end

      test "is given by nobody who is not asked, nor within other values", %{python: python} do
        assert {:error, %Python.Error{type: "TypeError"}} = Python.eval(python, "[Thing('a')]")
        assert Python.exec(python, "Thing('a')") == :ok

        for option <- [:objects, nil, "object"] do
          assert_raise ArgumentError, ~r/^return must be :value or :object, got: /, fn ->
            Python.eval(python, "1", %{}, return: option)
          end
        end

        assert_raise ArgumentError, ~r/^binaries must be :auto or :text or :bytes, got: 1/, fn ->
          Python.call(python, :math, :sqrt, [1], binaries: 1)
        end
      end
    end

    describe "garbage collection" do
      test "of its last holder lets Python free it", %{python: python} do
        kept = object!(python, "Thing('kept')")

        in_another_process(fn ->
          object = object!(python, "Thing('lost')")
          {:ok, "lost"} = Python.eval(python, "x.name", %{x: object})
        end)

        assert eventually(fn -> freed(python) == ["lost"] end)
        assert Python.eval(python, "x.name", %{x: kept}) == {:ok, "kept"}
      end

      test "wakes a context that has nothing else to do", %{python: python} do
        {:ok, [read, write]} = Python.eval(python, "list(os.pipe())")
        in_another_process(fn -> object!(python, "Tells(write)", %{write: write}) end)
        {:ok, pipe} = File.open("/proc/self/fd/#{read}", [:read, :raw])
        # The end of the test's time would be that of this read.
        assert :file.read(pipe, 1) == {:ok, "."}
        File.close(pipe)
      end

      test "of 10,000 at once from many processes frees each once", %{python: python} do
        handles = Native.counters().handles

        1..10
        |> Enum.map(fn part ->
          Task.async(fn ->
            for n <- 1..1_000, do: object!(python, "Thing(n)", %{n: part * 1_000 + n})
            :ok
          end)
        end)
        |> Task.await_many(60_000)

        assert eventually(fn -> freed(python) == Enum.to_list(1_001..11_000) end)
        assert eventually(fn -> Native.counters().handles == handles end)
      end

      test "frees what frees others, and survives what raises in that", %{python: python} do
        in_another_process(fn -> object!(python, "Raises(Thing('inner'))") end)
        assert eventually(fn -> freed(python) == ["inner"] end)
      end
    end

    describe "the end of its context" do
      test "frees what is held, and makes an error of what is given then" do
        context = start()
        other = start()
        {:ok, path} = Python.eval(context, "__import__('tempfile').mkdtemp()")
        mark = Path.join(path, "freed")

        :ok =
          Python.exec(context, """
          class Marks:
              def __init__(self, path): self.path = path
              def __del__(self, open=open): open(self.path, "w").close()
          """)

        object = object!(context, "Marks(path)", %{path: mark})
        refute File.exists?(mark)
        assert Python.stop_context(context) == :ok
        assert File.exists?(mark)

        assert {:error, %Python.Error{type: "ValueError", message: message}} =
                 Python.eval(other, "x", %{x: [object]})

        assert message in [
                 "variable x[0]: the context that this object came from has ended",
                 "variable x[0]: this object belongs to another interpreter"
               ]

        # What is collected now finds nobody.
        assert inspect(object) =~ "Marks"
      after
        :erlang.garbage_collect()
      end
    end

    describe "another context" do
      test "has it if it shares the interpreter, and else says that it is another's", %{
        python: python
      } do
        object = object!(python, "Thing('a')")
        answer = Python.eval(start(), "x.name", %{x: object})

        if @isolation == :shared do
          assert answer == {:ok, "a"}
        else
          assert {:error, %Python.Error{type: "ValueError"} = error} = answer
          assert error.message == "variable x: this object belongs to another interpreter"
        end
      end

      if isolation != :shared do
        test "of the main interpreter is another one too", %{python: python} do
          object = object!(python, "Thing('a')")
          shared = start(isolation: :shared)
          {:error, error} = Python.eval(shared, "x", %{x: object})
          assert error.message == "variable x: this object belongs to another interpreter"
          of_main = object!(shared, "Thing('b')")
          {:error, error} = Python.eval(python, "x", %{x: of_main})
          assert error.message == "variable x: this object belongs to another interpreter"
        end
      end

      test "is not found by what was no object", %{python: python} do
        for resource <- [nil, make_ref(), self()] do
          object = %Python.Object{resource: resource, type: "int"}

          assert {:error, %Python.Error{type: "TypeError", message: message}} =
                   Python.eval(python, "x", %{x: object})

          assert message == "variable x: this Reactor.Python.Object is of no interpreter here"
        end
      end
    end
  end
end
