defmodule Reactor.Python.Conversion do
  @moduledoc false

  # What a caller chooses about the values of one call, as the native side takes it.

  defstruct binaries: :auto, return: :value

  @type t :: %__MODULE__{binaries: :auto | :text | :bytes, return: :value | :object}

  @doc "The names of its options."
  @spec options() :: [atom]
  def options, do: [:binaries, :return]

  @doc "Takes them from a call's options. Raises `ArgumentError` for a value that none of them has."
  @spec new!(keyword) :: t
  def new!(options) do
    %__MODULE__{
      binaries: choice!(options, :binaries, [:auto, :text, :bytes]),
      return: choice!(options, :return, [:value, :object])
    }
  end

  defp choice!(options, name, [default | _] = known) do
    value = Keyword.get(options, name, default)

    if value not in known do
      known = Enum.map_join(known, " or ", &inspect/1)
      raise ArgumentError, "#{name} must be #{known}, got: #{inspect(value, limit: 10)}"
    end

    value
  end
end
