defmodule Reactor.BertRpc.Options do
  @moduledoc false

  # What a server of BERT-RPC is started with. Reactor.BertRpc documents the options.

  alias Reactor.BertRpc.{Callback, Exposed}
  alias Reactor.ConfigError

  @max 4_294_967_295
  @most_in_packet 64 * 1_024 * 1_024
  @most_in_stream 1_024 * 1_024 * 1_024 * 1_024

  @expected %{
    expose:
      "a list of names and modules, as [calc: MyCalc] or [calc: {MyCalc, [:add, sub: 2]}], with functions that are exported",
    timeout: "a number of milliseconds from 1 to #{@max}, or :infinity",
    max_packet: "a number of bytes from 1 to #{@most_in_packet}",
    max_stream: "a number of bytes from 0 to #{@most_in_stream}",
    max_casts: "an integer from 1 to 10000",
    max_heap: "a number of bytes from 1048576, or :infinity",
    callbacks: "true, false or a list of addresses, as \"localhost:9999\""
  }

  @names Map.keys(@expected)

  defstruct expose: %{},
            timeout: 5_000,
            max_packet: 16 * 1_024 * 1_024,
            max_stream: 64 * 1_024 * 1_024,
            max_casts: 16,
            max_heap: 256 * 1_024 * 1_024,
            callbacks: false

  @type t :: %__MODULE__{
          expose: Exposed.t(),
          timeout: timeout,
          max_packet: pos_integer,
          max_stream: non_neg_integer,
          max_casts: pos_integer,
          max_heap: pos_integer | :infinity,
          callbacks: Callback.allowed()
        }

  @doc "The options of the listener, among those of `use Reactor.BertRpc`. Raises ConfigError if one of the others is wrong."
  @spec listener(keyword) :: keyword
  def listener(options) do
    %{max_packet: max_packet} = new!(options)

    # What is somewhat too large is received, so that an error can be answered; what is more ends the connection.
    options
    |> Keyword.drop(@names)
    |> Keyword.merge(packet: 4, packet_size: min(2 * max_packet, @most_in_packet))
  end

  @spec new!(keyword) :: t
  def new!(options) do
    unless Keyword.keyword?(options) and options[:expose],
      do: raise(error(:expose, options[:expose]))

    options
    |> Keyword.take(@names)
    |> Enum.reduce(%__MODULE__{}, fn {name, value}, found ->
      case value(name, value) do
        {:ok, value} -> Map.put(found, name, value)
        :error -> raise error(name, value)
      end
    end)
  end

  @doc "What an option may be, in words."
  @spec expected(atom) :: String.t()
  def expected(name), do: Map.fetch!(@expected, name)

  defp error(name, value),
    do: %ConfigError{option: name, value: value, expected: expected(name)}

  @doc "The value of one option, as the struct has it."
  @spec value(atom, term) :: {:ok, term} | :error
  def value(:expose, list) when is_list(list), do: expose(list, %{})
  def value(:timeout, :infinity), do: {:ok, :infinity}
  def value(:timeout, n) when n in 1..@max, do: {:ok, n}
  def value(:max_packet, n) when n in 1..@most_in_packet, do: {:ok, n}
  def value(:max_stream, n) when n in 0..@most_in_stream, do: {:ok, n}
  def value(:max_casts, n) when n in 1..10_000, do: {:ok, n}
  def value(:max_heap, :infinity), do: {:ok, :infinity}
  def value(:max_heap, n) when is_integer(n) and n >= 1_048_576, do: {:ok, n}
  def value(:callbacks, choice) when is_boolean(choice), do: {:ok, choice}

  def value(:callbacks, list) when is_list(list),
    do: if(Enum.all?(list, &is_binary/1), do: {:ok, list}, else: :error)

  def value(_name, _value), do: :error

  defp expose([{name, what} | rest], found) when is_atom(name) or is_binary(name) do
    with {:ok, module, functions} <- exposed(what),
         do: expose(rest, Map.put(found, to_string(name), {module, functions}))
  end

  defp expose([], found) when found != %{}, do: {:ok, found}
  defp expose(_other, _found), do: :error

  defp exposed(module) when is_atom(module) do
    with {:ok, exports} <- exports(module), do: {:ok, module, table(exports)}
  end

  defp exposed({module, chosen}) when is_atom(module) and is_list(chosen) do
    with {:ok, exports} <- exports(module),
         functions = Enum.flat_map(chosen, &choose(&1, exports)),
         true <- chosen != [] and not Enum.member?(functions, :error) do
      {:ok, module, table(functions)}
    else
      _wrong -> :error
    end
  end

  defp exposed(_other), do: :error

  defp choose({name, arity}, exports),
    do: if({name, arity} in exports, do: [{name, arity}], else: [:error])

  defp choose(name, exports) do
    case for {^name, _arity} = function <- exports, do: function do
      [] -> [:error]
      functions -> functions
    end
  end

  # Without what compilers and behaviours add.
  defp exports(module) do
    if module not in [nil, true, false] and Code.ensure_loaded?(module) do
      exports = module.module_info(:exports)

      {:ok,
       Enum.reject(exports, fn {name, arity} ->
         name == :module_info or {name, arity} in [child_spec: 1, behaviour_info: 1] or
           String.starts_with?(Atom.to_string(name), ["__", "MACRO-", "-"])
       end)}
    else
      :error
    end
  end

  defp table(functions),
    do: Map.new(functions, fn {name, arity} -> {{Atom.to_string(name), arity}, name} end)
end
