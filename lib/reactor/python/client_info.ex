defmodule Reactor.Python.ClientInfo do
  @moduledoc false

  # What a caller says of a descriptor that it hands over, as the native side takes it: a map with text for
  # keys, and for values only what Python has too.

  # In Erlang's external format, in bytes. It is kept as long as the connection.
  @largest 65_536
  # Lists, tuples and maps within each other; the native side has a bound of its own above this.
  @deepest 32

  @doc """
  Makes it of a map. Keys, and atoms among the values, become text; so do lists of printable ASCII
  characters, and at `:addr` the addresses of `:inet`. A binary that is not UTF-8 becomes Python's bytes.

  Raises `ArgumentError` for what Python cannot be given.
  """
  @spec new!(term) :: %{String.t() => term}
  def new!(info) when is_map(info) and not is_struct(info) do
    if :erlang.external_size(info) > @largest do
      refuse("takes at most #{@largest} bytes of external format", info)
    end

    Map.new(info, fn {key, value} ->
      key = key!(key)
      {key, key |> address(value) |> value!(key, @deepest)}
    end)
  end

  def new!(info), do: refuse("is a map, as %{addr: \"127.0.0.1\", port: 5000, type: :tcp}", info)

  defp key!(key) when is_atom(key), do: Atom.to_string(key)

  defp key!(key) when is_binary(key) do
    if String.valid?(key), do: key, else: refuse("has keys in UTF-8", key)
  end

  defp key!(key) do
    if text?(key), do: List.to_string(key), else: refuse("has atoms or strings as keys", key)
  end

  defp address("addr", {:local, path}) when is_binary(path), do: path

  defp address("addr", value) when tuple_size(value) in [4, 8] do
    case :inet.ntoa(value) do
      {:error, :einval} -> value
      text -> List.to_string(text)
    end
  end

  defp address(_key, value), do: value

  defp value!(_value, key, 0), do: refuse("is not nested deeper than #{@deepest} times", key)
  defp value!(value, _key, _depth) when is_boolean(value) or is_nil(value), do: value
  defp value!(value, _key, _depth) when is_atom(value), do: Atom.to_string(value)
  defp value!(value, _key, _depth) when is_binary(value) or is_float(value), do: value

  defp value!(value, _key, _depth)
       when is_integer(value) and value in -0x8000_0000_0000_0000..0x7FFF_FFFF_FFFF_FFFF,
       do: value

  defp value!(value, key, depth) when is_tuple(value) do
    value |> Tuple.to_list() |> Enum.map(&value!(&1, key, depth - 1)) |> List.to_tuple()
  end

  defp value!(value, key, depth) when is_map(value) and not is_struct(value) do
    Map.new(value, fn {inner, value} -> {key!(inner), value!(value, key, depth - 1)} end)
  end

  defp value!(value, key, depth) when is_list(value) do
    cond do
      text?(value) -> List.to_string(value)
      List.improper?(value) -> refuse("has no improper lists", key)
      true -> Enum.map(value, &value!(&1, key, depth - 1))
    end
  end

  defp value!(_value, key, _depth) do
    refuse("has nil, booleans, integers of 64 bits, floats, text, lists, tuples and maps", key)
  end

  defp text?(value), do: value != [] and is_list(value) and List.ascii_printable?(value)

  # Not the value: it may be somebody's secret.
  @spec refuse(String.t(), term) :: no_return
  defp refuse(expected, at) do
    where =
      if is_binary(at), do: " (see #{inspect(at, limit: 10, printable_limit: 40)})", else: ""

    raise ArgumentError, "the info of a descriptor that is handed over #{expected}#{where}"
  end
end
