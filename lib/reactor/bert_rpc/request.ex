defmodule Reactor.BertRpc.Request do
  @moduledoc false

  # A request of ours: its options, and its packets.

  alias Reactor.ConfigError
  alias Reactor.BertRpc.{Callback, Packet}

  @type t :: {:call | :cast, module :: atom, function :: atom, args :: list}

  @expected %{
    timeout: "a number of milliseconds up to 4294967295, or :infinity",
    validation: "a binary",
    callback: ~s({"host:port", module, function, args})
  }

  @doc "The options of a request. Raises `ArgumentError` for one that does not exist, or has a wrong value."
  @spec options!(keyword, [atom]) :: keyword
  def options!(options, known) do
    if not Keyword.keyword?(options),
      do:
        raise(
          ArgumentError,
          "options must be a keyword list, got: #{inspect(options, limit: 10)}"
        )

    for {name, value} <- options do
      if name not in known,
        do: raise(ArgumentError, Exception.message(ConfigError.unknown(name, known)))

      if not option?(name, value),
        do:
          raise(
            ArgumentError,
            "#{name} must be #{@expected[name]}, got: #{inspect(value, limit: 10)}"
          )
    end

    options
  end

  defp option?(:timeout, timeout), do: timeout == :infinity or timeout in 0..4_294_967_295
  defp option?(:validation, token), do: token == nil or is_binary(token)
  defp option?(:callback, nil), do: true

  defp option?(:callback, {service, module, function, args})
       when is_binary(service) and is_atom(module) and is_atom(function) and is_list(args),
       do: Callback.address(service) != :error and not List.improper?(args)

  defp option?(:callback, _other), do: false
  defp option?(:stream, _enumerable), do: true

  @doc "The packets of a request, with what info packets say of it. Each may have `max` bytes."
  @spec packets(t, keyword, max :: pos_integer) ::
          {:ok, [binary]} | {:error, {:too_large, map} | {:unencodable, String.t()}}
  def packets({_kind, _module, _function, args} = request, options, max) do
    if List.improper?(args),
      do: {:error, {:unencodable, "the arguments are an improper list"}},
      else: all_packets(request, options, max)
  end

  defp all_packets(request, options, max) do
    infos =
      if(options[:validation], do: [validation(options[:validation])], else: []) ++
        if(options[:callback], do: [callback(options[:callback])], else: []) ++
        if(options[:stream], do: [{:info, :stream, []}], else: [])

    encode(infos ++ [request], max, [])
  end

  defp validation(token), do: {:info, :cache, [validation: token]}

  defp callback({service, module, function, args}),
    do: {:info, :callback, [{:service, service}, {:mfa, module, function, args}]}

  defp encode([packet | rest], max, found) do
    case Packet.encode(packet) do
      {:ok, data} when byte_size(data) <= max -> encode(rest, max, [data | found])
      {:ok, data} -> {:error, {:too_large, %{size: byte_size(data), max: max}}}
      error -> error
    end
  end

  defp encode([], _max, found), do: {:ok, Enum.reverse(found)}
end
