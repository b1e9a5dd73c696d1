defmodule Reactor.Port.External do
  @moduledoc false

  # Terms in the external format that come from outside: from a child behind a port, or from a client of BERT-RPC.
  #
  # No atom is ever made of them, since atoms stay for ever. A compressed term is looked at before it is expanded: what it
  # expands to is in its header, and the emulator sets aside as much and takes no more. Functions are refused unless
  # they are asked for, because to call one is to run what somebody else chose; one also hides in a
  # struct with an enumerable's protocol.

  @max_size 64 * 1_024 * 1_024

  @typedoc """
  `:max_size` is how many bytes the term may have in the external format, compressed or not (64 MiB).
  `:functions` says whether there may be functions in it (false).
  """
  @type limit :: {:max_size, pos_integer} | {:functions, boolean}

  @doc "Decodes a term with its version byte. The text says what is wrong, and nothing of what is in the data."
  @spec decode(binary, [limit]) :: {:ok, term} | {:error, {:undecodable, String.t()}}
  def decode(data, limits \\ []) do
    with :ok <- check(data, Keyword.get(limits, :max_size, @max_size)),
         {:ok, term} <- read(data) do
      if Keyword.get(limits, :functions, false) or not function_in?(term),
        do: {:ok, term},
        else: undecodable("there is a function in it")
    end
  end

  defp check(data, max) when byte_size(data) > max,
    do: undecodable("it has #{byte_size(data)} bytes, #{max} are allowed")

  defp check(<<131, 80, size::32, _deflated::binary>>, max) when size > max,
    do: undecodable("it expands to #{size} bytes, #{max} are allowed")

  defp check(_data, _max), do: :ok

  defp read(data) do
    {term, used} = :erlang.binary_to_term(data, [:safe, :used])

    if used == byte_size(data),
      do: {:ok, term},
      else: undecodable("#{byte_size(data) - used} bytes follow the term")
  rescue
    ArgumentError -> undecodable("it is no term, or has an atom in it that does not exist here")
  end

  # Recursion that is as deep as the term: the emulator has no other stack than its heap.
  defp function_in?(list) when is_list(list), do: function_in_list?(list)
  defp function_in?(tuple) when is_tuple(tuple), do: function_in_list?(Tuple.to_list(tuple))
  defp function_in?(map) when is_map(map), do: function_in_list?(:maps.to_list(map))
  defp function_in?(term), do: is_function(term)

  defp function_in_list?([item | rest]), do: function_in?(item) or function_in_list?(rest)
  defp function_in_list?([]), do: false
  defp function_in_list?(tail), do: function_in?(tail)

  defp undecodable(text), do: {:error, {:undecodable, text}}
end
