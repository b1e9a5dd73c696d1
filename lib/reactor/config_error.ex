defmodule Reactor.ConfigError do
  @moduledoc """
  An option that a listener, a connection or a client cannot be started with.

  Its fields are the `:option`'s name, what was `:expected`, and the `:value` given, or `:"(hidden)"` in place
  of one that may hold a password. For a name
  that does not exist, `:expected` is `nil` and `:nearest` is the known name most like it, if one is.

      iex> {:error, error} = Reactor.start(MyApp.Echo, prot: 8080)
      iex> Exception.message(error)
      "unknown option :prot, did you mean :port?"

      iex> {:error, error} = Reactor.start(MyApp.Echo, port: 80_800)
      iex> {error.option, error.value}
      {:port, 80_800}
  """

  defexception [:option, :value, :expected, :nearest]

  @type t :: %__MODULE__{
          option: term,
          value: term,
          expected: String.t() | nil,
          nearest: atom
        }

  @impl true
  def message(%{expected: nil, nearest: nil} = error) do
    "unknown option #{inspect(error.option)}"
  end

  def message(%{expected: nil} = error) do
    "unknown option #{inspect(error.option)}, did you mean #{inspect(error.nearest)}?"
  end

  def message(error) do
    value = inspect(error.value, limit: 10, printable_limit: 100)
    "option #{inspect(error.option)} must be #{error.expected}, got: #{value}"
  end

  @doc false
  # The error for a wrong value. What may hold a password is not shown: an error goes into logs.
  @spec hiding(atom, term, String.t()) :: t
  def hiding(option, value, expected) do
    value = if secret?(option, value), do: :"(hidden)", else: value
    %__MODULE__{option: option, value: value, expected: expected}
  end

  # All options in one are one of these; false and the like are none.
  defp secret?(option, value) when option in [:secure, :options], do: not is_atom(value)
  defp secret?(name, value) when name in [:env, :setup], do: value not in [nil, []]
  # Somebody has put a module and its options in one.
  defp secret?(:module, value), do: not is_atom(value)
  defp secret?(_option, _value), do: false

  @doc """
  The error for an option that is not among `known`.
  """
  @spec unknown(term, [atom]) :: t
  def unknown(option, known) do
    name = if is_atom(option), do: Atom.to_string(option), else: inspect(option)
    nearest = Enum.max_by(known, &String.jaro_distance(Atom.to_string(&1), name))

    if String.jaro_distance(Atom.to_string(nearest), name) > 0.7 do
      %__MODULE__{option: option, nearest: nearest}
    else
      %__MODULE__{option: option}
    end
  end
end
