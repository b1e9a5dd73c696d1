defmodule Reactor.Port.Bert do
  @moduledoc false

  # BERT-RPC over a port: see Reactor.BertRpc for what it is. The one pipe carries both directions: `call`, `cast` and `info`
  # are requests, the rest are answers, which come in the order of the requests. A cast has one, too.

  alias Reactor.BertRpc.{
    Answer,
    Callback,
    Error,
    Exposed,
    Handler,
    Infos,
    Packet,
    Reply,
    Request
  }

  alias Reactor.Port.{Bert.Parcel, Wire}

  @behaviour Wire

  # Of a function that is called without one.
  @module :port

  # How long a callback may take where `:timeout` is longer, in ms.
  @longest_callback 60_000

  # Its codes of the type `server`.
  @no_module 1
  @no_function 2

  @impl true
  def correlation, do: :order

  @impl true
  def request(kind, {module, function}, args, options, limits)
      when is_atom(module) and is_atom(function) do
    with {:ok, packets} <-
           Request.packets({kind, module, function, args}, options, limits.max_frame),
         {:ok, chunks} <- Parcel.chunks(options[:stream], limits),
         do: {:ok, packets ++ chunks}
  end

  def request(kind, function, args, options, limits) when is_atom(function),
    do: request(kind, {@module, function}, args, options, limits)

  def request(_kind, function, _args, _options, _limits), do: {:error, {:bad_function, function}}

  @impl true
  def frames(_kind, _id, packets), do: packets

  @impl true
  def next_id(id), do: id + 1

  @impl true
  def read(frame, part, options) do
    case Parcel.take(frame, part, options) do
      {:answer, parcel} -> {:answer, :next, parcel}
      {kind, parcel} when kind in [:call, :cast] -> {kind, nil, parcel}
      more_or_error -> more_or_error
    end
  end

  # --- what Elixir calls ----------------------------------------------------------------------

  @impl true
  def result(parcel, function, limits) do
    with {:ok, reply} <- reply(parcel, function, limits), do: {:ok, reply.value}
  end

  @doc "What an answer says, with what else it says about the result."
  @spec reply(Parcel.t(), function :: term, Wire.limits()) :: {:ok, Reply.t()} | {:error, term}
  def reply(%Parcel{packet: packet} = parcel, function, limits) do
    case Packet.answer(packet, limits.max_frame) do
      {:ok, {:reply, value}} -> replied(parcel, value, limits)
      {:ok, {:noreply}} -> replied(parcel, nil, limits)
      {:ok, {:error, error}} -> failed(error, function)
      {:ok, {:info, _, _}} -> {:error, {:undecodable, "it is no answer of BERT-RPC"}}
      error -> error
    end
  end

  defp replied(%{chunks: :too_large}, _value, limits),
    do: {:error, {:too_large, %{max: limits.max_stream}}}

  defp replied(%{chunks: chunks, infos: infos}, value, limits) do
    value = if chunks, do: IO.iodata_to_binary(chunks), else: value

    Enum.reduce_while(infos, {:ok, %Reply{value: value}}, fn info, {:ok, reply} ->
      case Packet.answer(info, limits.max_frame) do
        {:ok, {:info, command, options}} -> {:cont, {:ok, Reply.add(reply, command, options)}}
        error -> {:halt, error}
      end
    end)
  end

  defp failed(%Error{type: :server, code: code}, function)
       when code in [@no_module, @no_function],
       do: {:error, {:undefined, function}}

  defp failed(error, _function), do: {:error, error}

  # --- what the other side calls --------------------------------------------------------------

  @impl true
  def serve(%Parcel{} = parcel, options) do
    infos = Enum.reduce(parcel.infos, %Infos{}, &add(&1, &2, options))
    request = Packet.request(parcel.packet, options.max_frame)

    case Exposed.meant(request, infos, options.expose, options.callbacks) do
      {:ok, kind, call} -> serve(kind, call, parcel.chunks, infos, options)
      {:error, error} -> {:answer, fitting([Answer.encode({:error, error})], options.max_frame)}
    end
  end

  defp add(packet, infos, options) do
    case Packet.request(packet, options.max_frame) do
      {:ok, {:info, command, said}} -> Infos.add(infos, command, said)
      {:error, error} -> %{infos | error: error}
    end
  end

  defp serve(_kind, _call, :too_large, _infos, options),
    do: {:answer, refused("the stream has more than #{options.max_stream} bytes")}

  defp serve(kind, {module, function, args}, chunks, infos, options) do
    args = if chunks, do: args ++ [chunks], else: args
    outcome = Handler.call(module, function, args)
    answer(kind, outcome, infos, options)
  end

  # In order, as all answers are: when it is over. Its callback is not waited for: a service that is slow, or silent, would
  # hold up all that comes behind.
  defp answer(:cast, outcome, %{callback: callback}, options) do
    noreply = [Answer.encode({:noreply})]

    case outcome do
      {:ok, value} when callback != nil ->
        {:answer, noreply, fn -> call_back(callback, value, options.timeout) end}

      _no_callback_or_failed ->
        {:answer, noreply}
    end
  end

  defp answer(:call, outcome, infos, options), do: {:answer, answered(outcome, infos, options)}

  # Looking up a name, and a value that is made late, have no time of their own.
  defp call_back({service, _, _, _} = callback, value, timeout) do
    # An atom is more than any number.
    timeout = min(timeout, @longest_callback)
    make = fn -> Handler.call(Callback, :make, [callback, {:ok, value}, timeout]) end
    task = Task.async(make)

    with nil <- Task.yield(task, timeout),
         nil <- Task.shutdown(task, :brutal_kill),
         do: Callback.failed(service, "it took longer than #{timeout} ms")
  end

  defp answered(outcome, infos, options) do
    {packets, stream} = Answer.packets(outcome, infos.validation, options.max_frame)

    case Handler.call(Parcel, :chunks, [stream, options]) do
      {:ok, {:ok, chunks}} ->
        fitting(packets, options.max_frame) ++ chunks

      {:ok, {:error, {:too_large, %{max: max}}}} ->
        refused("the stream has more than #{max} bytes")

      {:ok, {:error, {:unencodable, text}}} ->
        refused(text)

      {:error, error} ->
        fitting([Answer.encode({:error, error})], options.max_frame)
    end
  end

  # An error may have a long text, and a cache a long token.
  defp fitting(packets, max) do
    case Enum.find(packets, &(byte_size(&1) > max)) do
      nil -> packets
      packet -> refused("the answer has #{byte_size(packet)} bytes, #{max} are allowed")
    end
  end

  defp refused(text), do: [Answer.encode({:error, %Error{type: :server, detail: text}})]

  @impl true
  def size(parcel), do: Parcel.size(parcel)

  @impl true
  def refusal(:overloaded), do: refused("too many requests wait")
  # The reason is in the log: it may tell what is not for others.
  def refusal({:exit, _reason}), do: refused("the function was ended")
end
