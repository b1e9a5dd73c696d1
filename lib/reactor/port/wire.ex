defmodule Reactor.Port.Wire do
  @moduledoc false

  # What a protocol between a port and its child has to know. `request/3` and `result/3` run in the process that
  # calls, `serve/2` in one that is made for it, the others in that of the child.

  alias Reactor.Port.{Frames, Options}

  @typedoc "A body, as far as it is encoded by the caller: of `protocol: :bert` the packets."
  @type body :: iodata

  @type id :: non_neg_integer

  @typedoc "An answer as it came, for `result/3`."
  @type answer :: term

  @typedoc "How long a frame may be, and what is sent as a stream, in bytes."
  @type limits :: %{
          :max_frame => pos_integer,
          :max_stream => non_neg_integer,
          optional(atom) => term
        }

  @typedoc "What the child asks for, as it came, for `serve/2`."
  @type request :: term

  @typedoc "What `serve/2` has done, and what is left to do after the answer."
  @type served :: {:answer | :error, body} | {:answer, body, later :: fun}

  @typedoc "What is kept of a frame for those after it; `[]` at first."
  @type part :: list | tuple

  @doc "How answers find their calls, in both directions: by the number that comes with them, or by their order."
  @callback correlation() :: :id | :order

  @doc "Encodes a call. `options` are those of the call that are not for every protocol."
  @callback request(:call | :cast, function :: term, args :: list, options :: keyword, limits) ::
              {:ok, body} | {:error, term}

  @doc "The frames of a body, without their lengths."
  @callback frames(:call | :cast | :answer | :error, id, body) :: [iodata]

  @doc "The id after this one."
  @callback next_id(id) :: id

  @doc "What a frame is; the id is `:next` where it is the order that counts. After `:more` comes what belongs to it."
  @callback read(binary, part, Options.t()) ::
              {:answer, id | :next, answer}
              | {:call | :cast, id | nil, request}
              | {:more, part}
              | :hello
              | :error

  @doc "What an answer means to who called `function`."
  @callback result(answer, function :: term, limits) :: {:ok, term} | {:error, term}

  @doc """
  Does what the child asks for, and returns the body of the answer. It runs in a process of its own. What is left to do is run in
  another one, which no answer waits for, and has to end by itself.
  """
  @callback serve(request, Options.t()) :: served

  @doc "The body of the error that answers what cannot be served, or has been ended."
  @callback refusal(:overloaded | {:exit, term}) :: body

  @doc "How many bytes a request keeps, where requests wait for each other."
  @callback size(request) :: non_neg_integer

  # Of a protocol in which a child asks for nothing, and of one in which all that it asks for runs at once.
  @optional_callbacks serve: 2, refusal: 1, size: 1

  @doc "Encodes a term without its version byte, as a body is. `overhead` is what comes to it in a frame, in bytes."
  @spec encode(term, overhead :: non_neg_integer, max_frame :: pos_integer | :infinity) ::
          {:ok, body} | {:error, {:too_large, map}}
  def encode(term, overhead, max_frame) do
    # As OTP 26 and newer do without being asked.
    <<131, body::binary>> = :erlang.term_to_binary(term, minor_version: 2)
    with :ok <- Frames.check(byte_size(body) + overhead, max_frame), do: {:ok, body}
  end
end
