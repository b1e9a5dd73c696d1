defmodule Reactor.Bert do
  @moduledoc """
  BERT: terms for programs in other languages, see the guide on BERT-RPC.

  BERT is Erlang's external term format, with integers, floats, atoms, binaries, lists and tuples. What
  some language has no atom for, or Erlang no type, is a tuple that begins with `bert`:

  | Elixir | BERT |
  |---|---|
  | `nil`, `true`, `false` | `{bert, nil}`, `{bert, true}`, `{bert, false}` |
  | map | `{bert, dict, [{key, value}]}` |
  | `DateTime` (UTC) | `{bert, time, megaseconds, seconds, microseconds}` |
  | `Regex` | `{bert, regex, source, options}` |

      iex> {:ok, data} = Reactor.Bert.encode(%{"name" => nil})
      iex> :erlang.binary_to_term(data)
      {:bert, :dict, [{"name", {:bert, nil}}]}
      iex> Reactor.Bert.decode(data)
      {:ok, %{"name" => nil}}
  """

  alias Reactor.Port.External

  # An option of PCRE's, and its modifier here. What else Elixir adds to a modifier is no other expression.
  @modifiers [
    caseless: "i",
    multiline: "m",
    dotall: "s",
    extended: "x",
    unicode: "u",
    firstline: "f",
    ungreedy: "U"
  ]

  @doc """
  Encodes a term.

  It uses the tags of the BERT specification alone, so floats are text in it. An atom that Latin-1 does not have
  is none of these, and goes out as Erlang writes it.

  `{:error, {:unencodable, text}}` says what BERT has nothing for: pids, functions, bit strings, other structs, tuples
  that begin with `:bert`.

      iex> Reactor.Bert.encode([1, self()])
      {:error, {:unencodable, "BERT has nothing for a pid"}}
  """
  @spec encode(term) :: {:ok, binary} | {:error, {:unencodable, String.t()}}
  def encode(term) do
    {:ok, term |> to_bert() |> :erlang.term_to_binary(minor_version: 0)}
  catch
    {:unencodable, _text} = reason -> {:error, reason}
  end

  @doc """
  Decodes a term. Options: `:max_size`, the most bytes it may have, 64 MiB unless given.

  No atom is created: one that does not exist here is an error. So are functions, keys of a `dict` that come twice,
  and complex types that BERT does not have. All errors are `{:error, {:undecodable, text}}`.

  An expression from outside is compiled, and may take for ever to match: do not match it without a limit.
  """
  @spec decode(binary, max_size: pos_integer) ::
          {:ok, term} | {:error, {:undecodable, String.t()}}
  def decode(data, options \\ []) do
    with {:ok, term} <- External.decode(data, options), do: {:ok, from_bert(term)}
  catch
    {:undecodable, _text} = reason -> {:error, reason}
  end

  # ---- to BERT ----

  defp to_bert(term) when term in [nil, true, false], do: {:bert, term}
  defp to_bert(term) when is_atom(term) or is_number(term) or is_binary(term), do: term
  defp to_bert(list) when is_list(list), do: list_to_bert(list)

  defp to_bert(tuple) when is_tuple(tuple) and tuple_size(tuple) > 0 and elem(tuple, 0) == :bert,
    do: throw({:unencodable, "a tuple must not begin with :bert"})

  defp to_bert(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> list_to_bert() |> List.to_tuple()

  defp to_bert(%DateTime{} = time) do
    micros = DateTime.to_unix(time, :microsecond)
    seconds = Integer.floor_div(micros, 1_000_000)

    {:bert, :time, Integer.floor_div(seconds, 1_000_000), Integer.mod(seconds, 1_000_000),
     Integer.mod(micros, 1_000_000)}
  end

  defp to_bert(%Regex{} = regex),
    do: {:bert, :regex, Regex.source(regex), pcre(Regex.opts(regex))}

  defp to_bert(%module{}), do: unencodable("a struct of #{inspect(module)}")

  defp to_bert(map) when is_map(map),
    do: {:bert, :dict, for({key, value} <- map, do: {to_bert(key), to_bert(value)})}

  defp to_bert(term) when is_bitstring(term), do: unencodable("a bit string")
  defp to_bert(term) when is_pid(term), do: unencodable("a pid")
  defp to_bert(term) when is_port(term), do: unencodable("a port")
  defp to_bert(term) when is_reference(term), do: unencodable("a reference")
  defp to_bert(term) when is_function(term), do: unencodable("a function")

  defp list_to_bert([item | rest]), do: [to_bert(item) | list_to_bert(rest)]
  defp list_to_bert([]), do: []
  defp list_to_bert(_tail), do: unencodable("an improper list")

  @spec unencodable(String.t()) :: no_return
  defp unencodable(what), do: throw({:unencodable, "BERT has nothing for #{what}"})

  # Newer releases of Elixir have a list where older ones have modifiers.
  if is_list(Regex.opts(~r//)) do
    defp pcre(options),
      do: for({option, _modifier} <- @modifiers, option in options, do: option)
  else
    defp pcre(modifiers),
      do: for({option, modifier} <- @modifiers, modifiers =~ modifier, do: option)
  end

  # ---- from BERT ----

  defp from_bert({:bert, term}) when term in [nil, true, false], do: term
  defp from_bert({:bert, :dict, pairs}) when is_list(pairs), do: dict(pairs, %{})

  defp from_bert({:bert, :time, mega, seconds, micros})
       when is_integer(mega) and is_integer(seconds) and is_integer(micros) do
    case DateTime.from_unix((mega * 1_000_000 + seconds) * 1_000_000 + micros, :microsecond) do
      {:ok, time} -> time
      {:error, _reason} -> undecodable("a time is out of range")
    end
  end

  defp from_bert({:bert, :regex, source, options}) when is_binary(source) and is_list(options) do
    with modifiers when is_list(modifiers) <- modifiers(options, []),
         {:ok, regex} <- Regex.compile(source, Enum.join(modifiers)) do
      regex
    else
      _error -> undecodable("a regular expression cannot be compiled")
    end
  end

  defp from_bert(tuple)
       when is_tuple(tuple) and tuple_size(tuple) > 0 and elem(tuple, 0) == :bert,
       do: undecodable("a tuple that begins with bert is none of BERT's types")

  defp from_bert([item | rest]), do: [from_bert(item) | from_bert(rest)]

  defp from_bert(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> from_bert() |> List.to_tuple()

  # A map is not BERT, but what else should it be?
  defp from_bert(map) when is_map(map),
    do: Map.new(:maps.to_list(map), fn {key, value} -> {from_bert(key), from_bert(value)} end)

  defp from_bert(term), do: term

  defp dict([{key, value} | rest], map) do
    key = from_bert(key)
    if is_map_key(map, key), do: undecodable("a key of a dict comes twice")
    dict(rest, Map.put(map, key, from_bert(value)))
  end

  defp dict([], map), do: map
  defp dict(_other, _map), do: undecodable("a dict is a list of pairs")

  defp modifiers([option | rest], found) do
    case Keyword.fetch(@modifiers, option) do
      {:ok, modifier} -> modifiers(rest, [modifier | found])
      :error -> :error
    end
  end

  defp modifiers([], found), do: found
  defp modifiers(_tail, _found), do: :error

  @spec undecodable(String.t()) :: no_return
  defp undecodable(text), do: throw({:undecodable, text})
end
