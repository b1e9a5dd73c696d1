defmodule Reactor.Python.Object do
  @moduledoc """
  A Python object that Elixir holds, whatever it is: a generator, a connection to a database, a model.

  `Reactor.Python.eval/4` and `Reactor.Python.call/5` return one when they are asked to, with
  `return: :object`. Given to Python again, alone or within other terms, it is that very object. What is done with it is
  done there, in code that has it as a variable:

      iex> {:ok, context} = Reactor.Python.start_context(setup: "import collections")
      iex> {:ok, counter} = Reactor.Python.eval(context, "collections.Counter()", %{}, return: :object)
      iex> counter
      #Reactor.Python.Object<collections.Counter>
      iex> Reactor.Python.eval(context, "counter.update(words)", %{counter: counter, words: ["a", "b", "a"]})
      {:ok, nil}
      iex> Reactor.Python.eval(context, "counter", %{counter: counter})
      {:ok, %{"a" => 2, "b" => 1}}
      iex> Reactor.Python.stop_context(context)
      :ok

  It belongs to the context that it came from. Other contexts of the same interpreter, which are those with
  `isolation: :shared`, may be given it as long as that context lives; an interpreter of its own shares its objects with
  nobody. Where it is not valid it is an error that says so.

  Python keeps the object until no process has this struct any more, which Erlang's garbage collection finds
  out. The context then lets go of it, on its own thread, and lets go of all when it ends.

  Its fields are its own. Only the name of the object's type can be seen, not its text, which may hold
  what is nobody's business.
  """

  @enforce_keys [:resource, :type]
  defstruct [:resource, :type]

  @type t :: %__MODULE__{resource: reference, type: String.t()}

  defimpl Inspect do
    def inspect(object, _options), do: "#Reactor.Python.Object<#{object.type}>"
  end
end
