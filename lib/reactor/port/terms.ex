defmodule Reactor.Port.Terms do
  @moduledoc false

  # The external term format. What comes from outside creates no atom here, and is not expanded.

  @doc "Encodes a term without the version byte, as the body of a frame."
  @spec encode(term) :: {:ok, iodata}
  def encode(term) do
    <<131, body::binary>> = :erlang.term_to_binary(term, minor_version: 2)
    {:ok, body}
  end

  @doc "Decodes a term that came from outside, with its version byte."
  @spec decode(binary) :: {:ok, term} | {:error, {:undecodable, String.t()}}
  def decode(<<131, 80, _::binary>>), do: {:error, {:undecodable, "it is compressed"}}

  def decode(data) do
    {term, used} = :erlang.binary_to_term(data, [:safe, :used])

    if used == byte_size(data),
      do: {:ok, term},
      else: {:error, {:undecodable, "bytes follow the term"}}
  rescue
    ArgumentError ->
      {:error, {:undecodable, "it is no term, or has an atom that does not exist here"}}
  end
end
