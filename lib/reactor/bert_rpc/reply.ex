defmodule Reactor.BertRpc.Reply do
  @moduledoc """
  A result, with what BERT-RPC can say about it.

    * `:value` - the result. Of a function that is exposed it may also be a function without arguments, which
      is called when the value is needed. Of a stream that was received, it is the bytes.
    * `:cache` - `[access: :public | :private, expiration: seconds]`, or with `validation: token` in place of
      `:expiration`; `[]` if nothing was said
    * `:valid` - what the client has cached, by the token that it sent, is the value
    * `:stream` - an enumerable of binaries, which are the value

  `Reactor.BertRpc.cached/2` and `Reactor.BertRpc.stream/1` make them, `Reactor.BertRpc.request/5` returns them.
  """

  defstruct value: nil, cache: [], valid: false, stream: nil

  @type cache :: [
          access: :public | :private,
          expiration: non_neg_integer,
          validation: binary
        ]

  @type t :: %__MODULE__{
          value: term,
          cache: cache,
          valid: boolean,
          stream: Enumerable.t() | nil
        }

  @doc false
  # What an info packet says of a reply that follows. Of what is to come nobody needs to know it.
  @spec add(t, command :: term, options :: term) :: t
  def add(reply, :valid, []), do: %{reply | valid: true}
  def add(reply, :cache, hints) when is_list(hints), do: %{reply | cache: cache(hints)}
  def add(reply, _command, _options), do: reply

  defp cache([{name, value} | rest]) when name in [:access, :expiration, :validation],
    do: [{name, value} | cache(rest)]

  defp cache([_unknown | rest]), do: cache(rest)
  defp cache(_end), do: []
end
