defmodule Reactor.BertRpc.Server do
  @moduledoc false

  # One connection of a server of BERT-RPC: reads a request, answers it, and goes on.
  #
  # Requests are answered one after the other, since nothing in an answer says which request it is for. Casts are run
  # beside, as many as `:max_casts` says; who sends more waits, as the connection is not read meanwhile. The
  # connection's process stays until they are over, so a server that drains waits for them.

  alias Reactor.{Connection, Socket}

  alias Reactor.BertRpc.{
    Answer,
    Callback,
    Chunks,
    Error,
    Exposed,
    Handler,
    Infos,
    Options,
    Packet
  }

  @spec serve(Connection.t(), Options.t()) :: :ok
  def serve(connection, options) do
    loop(%{connection: connection, options: options, infos: %Infos{}, casts: []})
  end

  defp loop(%{connection: connection, options: options} = state) do
    with {:ok, data} <- Socket.recv(connection),
         {:ok, state} <- request(read(data, options), state) do
      loop(state)
    else
      {:error, _closed} -> finish(state.casts)
    end
  end

  defp finish(casts) do
    for monitor <- casts, do: receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
    :ok
  end

  defp read(data, %{max_packet: max}) when byte_size(data) > max do
    detail = "the packet has #{byte_size(data)} bytes, #{max} are allowed"
    {:error, %Error{type: :protocol, code: 1, detail: detail}}
  end

  defp read(data, %{max_packet: max}), do: Packet.request(data, max)

  # ---- requests ----

  # An info packet is about the request after it, and what is wrong with it is answered then.
  defp request({:ok, {:info, command, options}}, state),
    do: {:ok, %{state | infos: Infos.add(state.infos, command, options)}}

  defp request(request, %{infos: infos, options: options} = state) do
    chunks = if infos.stream, do: Chunks.new(state.connection, options.max_stream)
    state = %{state | infos: %Infos{}}

    case Exposed.meant(request, infos, options.expose, options.callbacks) do
      {:ok, :call, call} -> call(call, infos, chunks, state)
      {:ok, :cast, call} -> cast(call, infos, chunks, state)
      {:error, error} -> refuse(error, chunks, state)
    end
  end

  defp refuse(error, chunks, state) do
    with :ok <- if(chunks, do: Chunks.skip(chunks), else: :ok),
         :ok <- answer(state.connection, {:error, error}),
         do: {:ok, state}
  end

  # ---- calls ----

  defp call({module, function, args}, infos, chunks, state) do
    %{connection: connection, options: options} = state
    begun = :atomics.new(1, [])

    work = fn ->
      with {:ok, outcome} <- work(module, function, args, chunks) do
        :atomics.put(begun, 1, 1)
        reply(connection, outcome, infos.validation, options)
      end
    end

    case Handler.run(work, options) do
      {:ok, :ok} -> {:ok, state}
      {:ok, {:error, reason}} -> {:error, reason}
      {:error, error} -> killed(error, chunks, :atomics.get(begun, 1), state)
    end
  end

  # An answer that has begun, perhaps a stream, cannot become an error any more.
  defp killed(_error, _chunks, 1, state), do: cut(state.connection)

  defp killed(error, nil, 0, state) do
    with :ok <- answer(state.connection, {:error, error}), do: {:ok, state}
  end

  # In the middle of a stream nobody knows where the next request is.
  defp killed(error, _chunks, 0, state) do
    _ = answer(state.connection, {:error, error})
    cut(state.connection)
  end

  # What comes of a function, when all that was sent to it has been taken from the connection.
  defp work(module, function, args, chunks) do
    args = if chunks, do: args ++ [Chunks.enumerable(chunks)], else: args
    outcome = Handler.call(module, function, args)
    with :ok <- if(chunks, do: Chunks.skip(chunks), else: :ok), do: {:ok, outcome}
  rescue
    broken in Chunks.Broken -> {:error, broken.reason}
  end

  defp reply(connection, outcome, token, options) do
    {packets, stream} = Answer.packets(outcome, token, options.max_packet)

    with :ok <- put(packets, connection),
         do: if(stream, do: stream(connection, stream), else: :ok)
  end

  defp put([packet | rest], connection),
    do: with(:ok <- Socket.send(connection, packet), do: put(rest, connection))

  defp put([], _connection), do: :ok

  # Once it has begun, an error cannot be answered any more: the connection ends without the stream's end.
  defp stream(connection, stream) do
    case Handler.call(Chunks, :send, [connection, stream]) do
      {:ok, sent} -> sent
      {:error, _logged} -> cut(connection)
    end
  end

  defp cut(connection) do
    Socket.close(connection)
    {:error, :closed}
  end

  # ---- casts ----

  defp cast({module, function, args}, infos, nil, state) do
    state = room(state)

    with :ok <- answer(state.connection, {:noreply}) do
      work = fn ->
        outcome = Handler.call(module, function, args)
        Callback.make(infos.callback, outcome, state.options.timeout)
      end

      {_pid, monitor} = Handler.start(work, state.options)
      {:ok, %{state | casts: [monitor | state.casts]}}
    end
  end

  # Nothing else can be read before its stream.
  defp cast({module, function, args}, infos, chunks, state) do
    work = fn ->
      with {:ok, outcome} <- work(module, function, args, chunks),
           do: Callback.make(infos.callback, outcome, state.options.timeout)
    end

    with :ok <- answer(state.connection, {:noreply}) do
      case Handler.run(work, state.options) do
        {:ok, :ok} -> {:ok, state}
        _broken -> {:error, :closed}
      end
    end
  end

  # Forgets the casts that are over, and waits for one where there are too many.
  defp room(%{casts: casts, options: %{max_casts: max}} = state) do
    wait = if length(casts) >= max, do: :infinity, else: 0

    receive do
      {:DOWN, monitor, :process, _pid, _reason} ->
        room(%{state | casts: List.delete(casts, monitor)})
    after
      wait -> state
    end
  end

  defp answer(connection, packet), do: Socket.send(connection, Answer.encode(packet))
end
