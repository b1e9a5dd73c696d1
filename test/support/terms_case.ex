defmodule Reactor.TermsCase do
  @moduledoc false

  # For tests of what terms become in Python, and back: `use Reactor.TermsCase, isolation: isolation`. All tests
  # of a module have a context that knows the classes below.

  use ExUnit.CaseTemplate

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

  using options do
    quote do
      import Reactor.TermsCase

      alias Reactor.Python

      @isolation unquote(options[:isolation])

      setup_all do
        {:ok, python: start_context(@isolation)}
      end
    end
  end

  @doc "A context that lasts as long as the calling test, or its module."
  def start_context(isolation) do
    start_supervised!({Python, isolation: isolation, setup: @setup})
  end

  @doc "What the context answers."
  def eval(context, expression, variables \\ %{}, options \\ []) do
    Python.eval(context.python, expression, variables, options)
  end

  @doc "The value that the context answers with."
  def value!(context, expression, variables \\ %{}, options \\ []) do
    {:ok, value} = eval(context, expression, variables, options)
    value
  end

  @doc "Asserts that it answers with an error, and gives its type and its message."
  def error(context, expression, variables \\ %{}, options \\ []) do
    assert {:error, %Python.Error{type: type, message: message}} =
             eval(context, expression, variables, options)

    {type, message}
  end

  @doc "Asserts that a term comes back as it was, and what it is in Python."
  def assert_same(context, term, repr) do
    assert value!(context, "x", %{x: term}) === term
    assert value!(context, "repr(x)", %{x: term}) == repr
  end

  @doc "Likewise, of what type it is there."
  def assert_type(context, term, type) do
    assert value!(context, "x", %{x: term}) === term
    assert value!(context, "type(x) is #{type}", %{x: term}), "not #{type}: #{inspect(term)}"
  end
end
