defmodule Reactor.BertRpc.Chunks do
  @moduledoc false

  # Streams: packets that are bytes and no terms, up to one that is empty.

  alias Reactor.{Connection, Socket}

  @largest 1_024 * 1_024

  defmodule Broken do
    @moduledoc false

    # The connection cannot be used any more: nobody knows what comes next on it.
    defexception [:reason]

    @impl true
    def message(%{reason: reason}), do: "a stream is broken off: #{inspect(reason)}"
  end

  @typedoc "A stream that comes in; the flag says whether its end has come."
  @type t :: %{connection: Connection.t(), max: non_neg_integer, state: :counters.counters_ref()}

  @spec new(Connection.t(), max_bytes :: non_neg_integer) :: t
  def new(connection, max),
    do: %{connection: connection, max: max, state: :counters.new(2, [])}

  @doc """
  The chunks, as they come. Only one process at a time may take them. Raises `Broken` when the connection ends, or
  when there is more than allowed.
  """
  @spec enumerable(t) :: Enumerable.t()
  def enumerable(chunks) do
    Stream.resource(
      fn -> chunks end,
      fn chunks ->
        case next(chunks, :infinity) do
          {:ok, chunk} -> {[chunk], chunks}
          :end -> {:halt, chunks}
          {:error, reason} -> raise Broken, reason: reason
        end
      end,
      fn _chunks -> :ok end
    )
  end

  @doc "Takes what is left of it."
  @spec skip(t) :: :ok | {:error, term}
  def skip(chunks) do
    case next(chunks, :infinity) do
      {:ok, _chunk} -> skip(chunks)
      :end -> :ok
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "The next chunk."
  @spec next(t, timeout) :: {:ok, binary} | :end | {:error, term}
  def next(%{state: state} = chunks, timeout) do
    if :counters.get(state, 1) == 1, do: :end, else: take(chunks, timeout)
  end

  defp take(%{state: state, max: max} = chunks, timeout) do
    case Socket.recv(chunks.connection, 0, timeout) do
      {:ok, ""} ->
        :counters.put(state, 1, 1)
        :end

      {:ok, chunk} ->
        :counters.add(state, 2, byte_size(chunk))
        if :counters.get(state, 2) > max, do: {:error, :too_large}, else: {:ok, chunk}

      {:error, reason} ->
        {:error, reason}
    end
  end

  @doc "Sends a stream, and its end."
  @spec send(Connection.t(), Enumerable.t()) :: :ok | {:error, term}
  def send(connection, enumerable) do
    sent =
      Enum.reduce_while(enumerable, :ok, fn chunk, :ok ->
        case send_chunk(connection, chunk) do
          :ok -> {:cont, :ok}
          error -> {:halt, error}
        end
      end)

    with :ok <- sent, do: Socket.send(connection, "")
  end

  # An empty one would be the end.
  defp send_chunk(_connection, ""), do: :ok

  defp send_chunk(connection, <<chunk::binary-size(@largest), rest::binary>>) do
    with :ok <- Socket.send(connection, chunk), do: send_chunk(connection, rest)
  end

  defp send_chunk(connection, chunk) when is_binary(chunk), do: Socket.send(connection, chunk)
  defp send_chunk(_connection, _other), do: {:error, :not_a_binary}
end
