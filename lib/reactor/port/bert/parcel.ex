defmodule Reactor.Port.Bert.Parcel do
  @moduledoc false

  # Packets of BERT-RPC that belong together: a request or an answer, the info packets in front of it, and the chunks of the
  # stream behind it. A pipe carries all requests and answers of a direction one after the other, so a stream is put
  # together before it goes out, and is taken whole before it counts: else whoever is slow to make or to take one would hold up
  # everybody, and a function that takes one and calls the other side meanwhile would wait for ever.

  alias Reactor.BertRpc.Packet

  # Of one request or answer: there are three kinds.
  @most_infos 16

  # The longest chunk that is sent.
  @chunk 1_024 * 1_024

  @enforce_keys [:packet]
  defstruct [:packet, infos: [], chunks: nil]

  @typedoc "`chunks` is `nil` where there is no stream."
  @type t :: %__MODULE__{
          packet: binary,
          infos: [binary],
          chunks: [binary] | :too_large | nil
        }

  @typedoc "What came of a parcel that is not whole yet: its info packets, or what there is up to its stream."
  @type part :: [{command :: String.t(), binary}] | {kind, t, bytes :: non_neg_integer}

  @type kind :: :call | :cast | :answer

  @doc "Takes a packet. `kept` is `[]`, or what was returned for the one before."
  @spec take(binary, part, %{
          :max_frame => pos_integer,
          :max_stream => non_neg_integer,
          optional(atom) => term
        }) ::
          {:more, part} | {kind, t} | :error
  def take("", {kind, parcel, _size}, _limits), do: {kind, in_order(parcel)}

  def take(chunk, {kind, parcel, size}, %{max_stream: max}) do
    size = size + byte_size(chunk)
    # All of it comes in any case. It is not kept.
    chunks =
      if parcel.chunks == :too_large or size > max,
        do: :too_large,
        else: [chunk | parcel.chunks]

    {:more, {kind, %{parcel | chunks: chunks}, min(size, max + 1)}}
  end

  def take(packet, infos, %{max_frame: max}) do
    case Packet.kind(packet, max) do
      {:info, _command} when length(infos) >= @most_infos -> :error
      {:info, command} -> {:more, [{command, packet} | infos]}
      kind when kind in [:call, :cast] -> begun(kind, packet, infos)
      :reply -> begun(:answer, packet, infos)
      _no_stream -> {:answer, parcel(packet, infos)}
    end
  end

  defp begun(kind, packet, infos) do
    if List.keymember?(infos, "stream", 0),
      do: {:more, {kind, %{parcel(packet, infos) | chunks: []}, 0}},
      else: {kind, parcel(packet, infos)}
  end

  defp parcel(packet, infos),
    do: %__MODULE__{packet: packet, infos: infos |> Enum.map(&elem(&1, 1)) |> Enum.reverse()}

  defp in_order(%{chunks: chunks} = parcel) when is_list(chunks),
    do: %{parcel | chunks: Enum.reverse(chunks)}

  defp in_order(parcel), do: parcel

  @doc "How many bytes all of it has."
  @spec size(t) :: non_neg_integer
  def size(%{packet: packet, infos: infos, chunks: chunks}) do
    stream = if is_list(chunks), do: chunks, else: []
    IO.iodata_length([packet, infos, stream])
  end

  @doc "The packets of a stream that is sent, its end too. `max_stream` is how much there may be of it, in bytes."
  @spec chunks(Enumerable.t() | nil, %{
          :max_frame => pos_integer,
          :max_stream => non_neg_integer,
          optional(atom) => term
        }) ::
          {:ok, [binary]} | {:error, {:too_large, map} | {:unencodable, String.t()}}
  def chunks(nil, _limits), do: {:ok, []}

  def chunks(stream, %{max_frame: max_frame, max_stream: max}) do
    longest = min(@chunk, max_frame)

    stream
    |> Enum.reduce_while({[], 0}, fn
      chunk, {chunks, size} when is_binary(chunk) and size + byte_size(chunk) <= max ->
        {:cont, {split(chunk, longest, chunks), size + byte_size(chunk)}}

      chunk, _found when is_binary(chunk) ->
        {:halt, {:error, {:too_large, %{max: max}}}}

      _other, _found ->
        {:halt, {:error, {:unencodable, "a stream is of binaries, and not of other terms"}}}
    end)
    |> case do
      {:error, reason} -> {:error, reason}
      {chunks, _size} -> {:ok, Enum.reverse(chunks, [""])}
    end
  end

  # An empty one would be the end.
  defp split("", _longest, chunks), do: chunks

  defp split(chunk, longest, chunks) when byte_size(chunk) <= longest, do: [chunk | chunks]

  defp split(chunk, longest, chunks) do
    {first, rest} = :erlang.split_binary(chunk, longest)
    split(rest, longest, [first | chunks])
  end
end
