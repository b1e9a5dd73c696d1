defmodule Reactor.BertRpc.Client do
  @moduledoc """
  A connection to a server of BERT-RPC, see `Reactor.BertRpc.connect/3`.
  """

  alias Reactor.{Connection, Socket}
  alias Reactor.BertRpc.{Chunks, Error, Packet, Reply, Request}

  @enforce_keys [:connection, :timeout, :max_packet, :max_stream]
  defstruct [:connection, :timeout, :max_packet, :max_stream]

  @type t :: %__MODULE__{
          connection: Connection.t(),
          timeout: timeout,
          max_packet: pos_integer,
          max_stream: non_neg_integer
        }

  @type request :: Request.t()

  @typep deadline :: integer | :infinity

  # So many bytes of requests may wait for their answers: as much as fits into the kernel's buffers on the way,
  # so that nobody waits for room while the other side waits for the answers to be read.
  @ahead 32 * 1_024

  @doc false
  @spec request(t, request, keyword) :: {:ok, Reply.t()} | {:error, term}
  def request(client, request, options) do
    deadline = deadline(Keyword.get(options, :timeout, client.timeout))

    with {:ok, packets} <- Request.packets(request, options, client.max_packet),
         :ok <- each(packets, &put(client, &1)),
         :ok <- send_stream(client, options[:stream]) do
      receive_answer(client, deadline, %Reply{}, false)
    end
  end

  @doc false
  @spec pipeline(t, [request], keyword) :: [{:ok, term} | {:error, term}]
  def pipeline(client, requests, options) do
    deadline = deadline(Keyword.get(options, :timeout, client.timeout))
    ahead(requests, :queue.new(), 0, [], {client, deadline})
  end

  # ---- sending ----

  defp each([data | rest], function), do: with(:ok <- function.(data), do: each(rest, function))
  defp each([], _function), do: :ok

  defp put(client, data), do: client.connection |> Socket.send(data) |> sent(client)

  defp send_stream(_client, nil), do: :ok

  defp send_stream(client, stream) do
    client.connection |> Chunks.send(stream) |> sent(client)
  rescue
    error ->
      # Its end is what the server waits for.
      Socket.close(client.connection)
      reraise error, __STACKTRACE__
  end

  # How much of it the server has got is not known.
  defp sent({:error, reason}, client), do: ended(client, reason)
  defp sent(:ok, _client), do: :ok

  # ---- answers ----

  @spec receive_answer(t, deadline, Reply.t(), boolean) :: {:ok, Reply.t()} | {:error, term}
  defp receive_answer(client, deadline, reply, stream?) do
    with {:ok, data} <- recv(client, deadline) do
      case Packet.answer(data, client.max_packet) do
        {:ok, {:info, :stream, []}} ->
          receive_answer(client, deadline, reply, true)

        {:ok, {:info, command, options}} ->
          receive_answer(client, deadline, Reply.add(reply, command, options), stream?)

        {:ok, {:reply, _value}} when stream? ->
          receive_stream(Chunks.new(client.connection, client.max_stream), client, deadline, [])

        {:ok, {:reply, value}} ->
          {:ok, %{reply | value: value}}

        {:ok, {:noreply}} ->
          {:ok, reply}

        {:ok, {:error, %Error{} = error}} ->
          {:error, error}

        # Its stream would be taken for the next answers.
        {:error, reason} when stream? ->
          ended(client, reason)

        {:error, reason} ->
          {:error, reason}
      end
    end
  end

  defp receive_stream(chunks, client, deadline, found) do
    case Chunks.next(chunks, left(deadline)) do
      {:ok, chunk} -> receive_stream(chunks, client, deadline, [found, chunk])
      :end -> {:ok, %Reply{value: IO.iodata_to_binary(found)}}
      {:error, :too_large} -> ended(client, {:too_large, %{max: client.max_stream}})
      {:error, reason} -> ended(client, reason)
    end
  end

  defp recv(client, deadline) do
    with {:error, reason} <- Socket.recv(client.connection, 0, left(deadline)),
         do: ended(client, reason)
  end

  # An answer that comes later would be taken for that of the next request.
  defp ended(client, reason) do
    Socket.close(client.connection)
    {:error, reason}
  end

  defp deadline(:infinity), do: :infinity
  defp deadline(timeout), do: System.monotonic_time(:millisecond) + timeout

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  # ---- ahead ----

  # Requests that are under way, with their sizes, and results, the last one first.
  defp ahead([], under_way, size, results, how) do
    case :queue.out(under_way) do
      {{:value, _size}, _rest} -> answer([], under_way, size, results, how)
      {:empty, _queue} -> Enum.reverse(results)
    end
  end

  defp ahead([request | rest] = requests, under_way, size, results, {client, _deadline} = how) do
    case Request.packets(request, [], client.max_packet) do
      # Its result is in its place, behind those of the requests before it.
      {:error, reason} ->
        ahead(rest, :queue.in({:error, reason}, under_way), size, results, how)

      {:ok, [data]} ->
        if size == 0 or size + byte_size(data) <= @ahead do
          case put(client, data) do
            :ok ->
              under_way = :queue.in(byte_size(data), under_way)
              ahead(rest, under_way, size + byte_size(data), results, how)

            {:error, reason} ->
              ahead(rest, :queue.in({:error, reason}, under_way), size, results, how)
          end
        else
          answer(requests, under_way, size, results, how)
        end
    end
  end

  defp answer(requests, under_way, size, results, {client, deadline} = how) do
    case :queue.out(under_way) do
      {{:value, {:error, reason}}, under_way} ->
        ahead(requests, under_way, size, [{:error, reason} | results], how)

      {{:value, sent}, under_way} ->
        result =
          with {:ok, reply} <- receive_answer(client, deadline, %Reply{}, false),
               do: {:ok, reply.value}

        ahead(requests, under_way, size - sent, [result | results], how)
    end
  end
end
