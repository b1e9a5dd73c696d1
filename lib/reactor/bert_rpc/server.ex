defmodule Reactor.BertRpc.Server do
  @moduledoc false

  # One connection of a server of BERT-RPC: reads a request, answers it, and goes on.
  #
  # Requests are answered one after the other, since nothing in an answer says which request it is for. Casts are run
  # beside, as many as `:max_casts` says; who sends more waits, as the connection is not read meanwhile. The
  # connection's process stays until they are over, so a server that drains waits for them.

  alias Reactor.{Connection, Socket}
  alias Reactor.BertRpc
  alias Reactor.BertRpc.{Chunks, Error, Handler, Options, Packet, Reply}

  @no_infos %{stream: false, callback: nil, validation: nil, error: nil}

  @spec serve(Connection.t(), Options.t()) :: :ok
  def serve(connection, options) do
    loop(%{connection: connection, options: options, infos: @no_infos, casts: []})
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
    do: {:ok, %{state | infos: info(command, options, state.infos)}}

  defp request(request, %{infos: infos} = state) do
    chunks = if infos.stream, do: Chunks.new(state.connection, state.options.max_stream)
    state = %{state | infos: @no_infos}

    case meant(request, infos, state.options) do
      {:ok, :call, call} -> call(call, infos, chunks, state)
      {:ok, :cast, call} -> cast(call, infos, chunks, state)
      {:error, error} -> refuse(error, chunks, state)
    end
  end

  defp meant({:ok, {:unreadable, module, function, text}}, _infos, options) do
    # Its arguments are not known, nor how many. Only a module that is not there is certain.
    case Options.find(options, module, function, 0) do
      :no_module -> {:error, missing(:no_module, module, function)}
      _maybe -> {:error, %Error{type: :protocol, code: 2, detail: text}}
    end
  end

  defp meant({:ok, {kind, module, function, args}}, infos, options) do
    arity = length(args) + if(infos.stream, do: 1, else: 0)

    with nil <- infos.error,
         {:ok, {in_module, name}} <- Options.find(options, module, function, arity),
         :ok <- allowed(kind, infos.callback, options) do
      {:ok, kind, {in_module, name, args}}
    else
      {:error, error} -> {:error, error}
      %Error{} = error -> {:error, error}
      what -> {:error, missing(what, module, function <> "/#{arity}")}
    end
  end

  defp meant({:error, error}, _infos, _options), do: {:error, error}

  defp missing(:no_module, module, _function) do
    %Error{type: :server, code: 1, detail: "module '#{short(module)}' not found"}
  end

  defp missing(:no_function, module, function) do
    detail = "function '#{short(function)}' not found on module '#{short(module)}'"
    %Error{type: :server, code: 2, detail: detail}
  end

  defp short(name), do: String.slice(name, 0, 100)

  defp refuse(error, chunks, state) do
    with :ok <- if(chunks, do: Chunks.skip(chunks), else: :ok),
         :ok <- answer(state.connection, {:error, error}),
         do: {:ok, state}
  end

  # ---- info ----

  defp info(:stream, [], infos), do: %{infos | stream: true}

  defp info(:cache, [{:validation, token}], infos) when is_binary(token),
    do: %{infos | validation: token}

  defp info(:callback, [{:service, service}, {:mfa, module, function, args}], infos)
       when is_binary(service) and is_atom(module) and is_atom(function) and is_list(args) do
    if BertRpc.Client.address(service) == :error or List.improper?(args),
      do: %{infos | error: wrong_info("callback")},
      else: %{infos | callback: {service, module, function, args}}
  end

  defp info(command, _options, infos) when command in [:stream, :cache, :callback],
    do: %{infos | error: wrong_info(Atom.to_string(command))}

  defp info(_command, _options, infos), do: %{infos | error: wrong_info("of this kind")}

  defp wrong_info(what),
    do: %Error{type: :server, detail: "an info packet #{what} is not understood here"}

  defp allowed(_kind, nil, _options), do: :ok

  defp allowed(:call, _callback, _options),
    do: {:error, %Error{type: :server, detail: "a callback is for a cast"}}

  defp allowed(:cast, {service, _, _, _}, %{callbacks: allowed}) do
    if allowed == true or (is_list(allowed) and service in allowed),
      do: :ok,
      else: {:error, %Error{type: :server, detail: "callbacks to this service are not allowed"}}
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

  defp reply(connection, {:error, error}, _token, _options),
    do: answer(connection, {:error, error})

  defp reply(connection, {:ok, %Reply{} = reply}, token, options) do
    if token != nil and reply.cache[:validation] == token do
      with :ok <- answer(connection, {:info, :valid, []}), do: answer(connection, {:noreply})
    else
      with {:ok, reply} <- value(reply),
           :ok <- hints(connection, reply.cache) do
        result(connection, reply, options)
      else
        {:failed, error} -> answer(connection, {:error, error})
        error -> error
      end
    end
  end

  defp reply(connection, {:ok, value}, _token, options),
    do: result(connection, %Reply{value: value}, options)

  defp value(%Reply{value: value} = reply) when is_function(value, 0) do
    case Handler.call(:erlang, :apply, [value, []]) do
      {:ok, value} -> {:ok, %{reply | value: value}}
      {:error, error} -> {:failed, error}
    end
  end

  defp value(reply), do: {:ok, reply}

  defp hints(_connection, []), do: :ok
  defp hints(connection, cache), do: answer(connection, {:info, :cache, cache})

  defp result(connection, %Reply{stream: nil, value: value}, options) do
    case Packet.encode({:reply, value}) do
      {:ok, data} when byte_size(data) <= options.max_packet ->
        Socket.send(connection, data)

      {:ok, data} ->
        detail = "the reply has #{byte_size(data)} bytes, #{options.max_packet} are allowed"
        answer(connection, {:error, %Error{type: :server, detail: detail}})

      {:error, {:unencodable, text}} ->
        answer(connection, {:error, %Error{type: :server, detail: text}})
    end
  end

  defp result(connection, %Reply{stream: stream}, _options) do
    with :ok <- answer(connection, {:info, :stream, []}),
         :ok <- answer(connection, {:reply, []}),
         do: stream(connection, stream)
  end

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
        call_back(infos.callback, outcome, state.options)
      end

      {_pid, monitor} = Handler.start(work, state.options)
      {:ok, %{state | casts: [monitor | state.casts]}}
    end
  end

  # Nothing else can be read before its stream.
  defp cast({module, function, args}, infos, chunks, state) do
    work = fn ->
      with {:ok, outcome} <- work(module, function, args, chunks),
           do: call_back(infos.callback, outcome, state.options)
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

  # Whatever comes of it: the specification has nobody to be told.
  defp call_back(nil, _outcome, _options), do: :ok

  defp call_back({service, module, function, args}, {:ok, value}, options) do
    {host, port} = BertRpc.Client.address(service)

    with {:ok, client} <- BertRpc.connect(host, port, timeout: options.timeout) do
      _ = BertRpc.cast(client, module, function, args ++ [plain(value)])
      BertRpc.close(client)
    end

    :ok
  end

  defp call_back(_callback, {:error, _logged}, _options), do: :ok

  defp plain(%Reply{value: value}) when is_function(value, 0), do: value.()
  defp plain(%Reply{value: value}), do: value
  defp plain(value), do: value

  defp answer(connection, packet) do
    case Packet.encode(packet) do
      {:ok, data} ->
        Socket.send(connection, data)

      # Only an error's own fields can be at fault.
      {:error, {:unencodable, text}} ->
        answer(connection, {:error, %Error{type: :server, detail: text}})
    end
  end
end
