defmodule Reactor.BertRpc.Answer do
  @moduledoc false

  # The packets that a function's outcome is answered with.

  alias Reactor.BertRpc.{Error, Handler, Packet, Reply}

  @doc """
  The packets of an outcome, and the stream that follows them. `token` is that of what the client has kept, and
  `max` how many bytes a reply may have.
  """
  @spec packets({:ok, term} | {:error, Error.t()}, token :: binary | nil, max :: pos_integer) ::
          {[binary], Enumerable.t() | nil}
  def packets({:error, error}, _token, _max), do: {[encode({:error, error})], nil}

  def packets({:ok, %Reply{cache: cache} = reply}, token, max) do
    if token != nil and cache[:validation] == token,
      do: {[encode({:info, :valid, []}), encode({:noreply})], nil},
      else: result(reply, if(cache == [], do: [], else: [encode({:info, :cache, cache})]), max)
  end

  def packets({:ok, value}, _token, max), do: result(%Reply{value: value}, [], max)

  defp result(%Reply{stream: nil} = reply, hints, max) do
    with {:ok, value} <- value(reply),
         {:ok, data} <- Packet.encode({:reply, value}),
         true <- byte_size(data) <= max or {:too_large, byte_size(data)} do
      {hints ++ [data], nil}
    else
      {:failed, error} ->
        packets({:error, error}, nil, max)

      {:error, {:unencodable, text}} ->
        packets({:error, %Error{type: :server, detail: text}}, nil, max)

      {:too_large, size} ->
        detail = "the reply has #{size} bytes, #{max} are allowed"
        packets({:error, %Error{type: :server, detail: detail}}, nil, max)
    end
  end

  defp result(%Reply{stream: stream}, hints, _max),
    do: {hints ++ [encode({:info, :stream, []}), encode({:reply, []})], stream}

  defp value(%Reply{value: value}) when is_function(value, 0) do
    with {:error, error} <- Handler.call(:erlang, :apply, [value, []]), do: {:failed, error}
  end

  defp value(%Reply{value: value}), do: {:ok, value}

  @doc "The bytes of a packet. One that BERT has nothing for becomes an error that says so."
  @spec encode(term) :: binary
  def encode(packet) do
    case Packet.encode(packet) do
      {:ok, data} ->
        data

      # Only an error's own fields can be at fault, and a cache's token.
      {:error, {:unencodable, text}} ->
        encode({:error, %Error{type: :server, detail: text}})
    end
  end
end
