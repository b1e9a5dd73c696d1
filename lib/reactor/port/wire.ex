defmodule Reactor.Port.Wire do
  @moduledoc false

  # What a protocol between a port and its child has to know. `request/3` and `result/3` run in the process that
  # calls, the others in that of the child.

  @typedoc "A body, as far as it is encoded by the caller."
  @type body :: iodata

  @type id :: non_neg_integer

  @typedoc "An answer as it came, for `result/3`."
  @type answer :: term

  @doc "How answers find their calls: by the number that comes with them, or by their order."
  @callback correlation() :: :id | :order

  @doc "Encodes a call."
  @callback request(:call | :cast, function :: term, args :: list) :: {:ok, body} | {:error, term}

  @doc "The bytes of a frame, without its length."
  @callback frame(:call | :cast | :answer | :error, id, body) :: iodata

  @doc "How many bytes `frame/3` adds to a body at most."
  @callback overhead() :: non_neg_integer

  @doc "The id after this one."
  @callback next_id(id) :: id

  @doc "What a frame is; the id of an answer is `:next` where it is the order that counts."
  @callback read(binary) ::
              {:answer, id | :next, answer}
              | {:call, id, binary}
              | {:cast, binary}
              | :hello
              | :nothing
              | :error

  @doc "What an answer means to who called `function`. It may expand to so many bytes."
  @callback result(answer, function :: term, max :: pos_integer) :: {:ok, term} | {:error, term}

  @doc "Encodes a term without its version byte, as a body is."
  @spec encode(term) :: {:ok, body}
  def encode(term) do
    # As OTP 26 and newer do without being asked.
    <<131, body::binary>> = :erlang.term_to_binary(term, minor_version: 2)
    {:ok, body}
  end
end
