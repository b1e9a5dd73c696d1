defmodule Reactor.Port.Plain do
  @moduledoc false

  # The plainest protocol, see docs/port.md: a call is a tuple of the function's name and its arguments, an answer
  # the bare term, and the answers come in the order of the calls. What failed is answered by a tuple of two texts,
  # of which the first is the name of an error.

  alias Reactor.Port.{External, Wire}
  alias Reactor.Python

  @behaviour Wire

  @impl true
  def correlation, do: :order

  @impl true
  def request(_kind, function, args, _options, limits)
      when is_atom(function) or is_binary(function),
      do: Wire.encode(List.to_tuple([function | args]), 1, limits.max_frame)

  def request(_kind, function, _args, _options, _limits), do: {:error, {:bad_function, function}}

  @impl true
  def frames(_kind, _id, body), do: [[131, body]]

  @impl true
  def next_id(id), do: id + 1

  @impl true
  def read(frame, _part, _options), do: {:answer, :next, frame}

  @impl true
  def result(frame, function, limits) do
    case External.decode(frame, max_size: limits.max_frame) do
      {:ok, {type, text}} when is_binary(type) and is_binary(text) -> text(type, text, function)
      result -> result
    end
  end

  defp text("Error", _text, function), do: {:error, {:undefined, function}}

  defp text("TypeError", "function_clause" = text, _function),
    do: {:error, {:bad_arguments, text}}

  defp text(type, text, _function) do
    if String.ends_with?(type, "Error"),
      do: {:error, Python.Error.exception(type: type, message: text)},
      else: {:ok, {type, text}}
  end
end
