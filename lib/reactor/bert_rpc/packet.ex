defmodule Reactor.BertRpc.Packet do
  @moduledoc false

  # The packets of BERT-RPC, as terms and as bytes.

  alias Reactor.Bert
  alias Reactor.BertRpc.Error

  @types [:protocol, :server, :user, :proxy]

  @typedoc "What a client sends. Names are text: they may be of modules that there are not."
  @type request ::
          {:call | :cast, module :: String.t(), function :: String.t(), args :: list}
          | {:info, command :: term, options :: term}
          | {:unreadable, module :: String.t(), function :: String.t(), text :: String.t()}

  @type answer ::
          {:reply, term} | {:noreply} | {:info, atom, term} | {:error, Error.t()}

  @spec encode(term) :: {:ok, binary} | {:error, {:unencodable, String.t()}}
  def encode({:error, %Error{} = error}) do
    Bert.encode({:error, {error.type, error.code, error.class, error.detail, error.backtrace}})
  end

  def encode(packet), do: Bert.encode(packet)

  @doc """
  What a packet is, without decoding what is in it. `:error` is what is none of BERT-RPC, or larger than `max_size`.
  """
  @spec kind(binary, pos_integer) ::
          :call | :cast | :reply | :noreply | :failure | {:info, command :: String.t()} | :error
  def kind(<<131, 104, _arity, rest::binary>> = data, max_size) do
    case atom(rest) do
      {"info", rest} -> info_kind(atom(rest))
      {"call", _rest} -> :call
      {"cast", _rest} -> :cast
      {"reply", _rest} -> :reply
      {"noreply", _rest} -> :noreply
      {"error", _rest} -> :failure
      _other -> decoded_kind(data, max_size)
    end
  end

  def kind(data, max_size), do: decoded_kind(data, max_size)

  defp info_kind({command, _rest}), do: {:info, command}
  defp info_kind(:error), do: {:info, ""}

  # Of what is compressed, or written as nobody does.
  defp decoded_kind(data, max_size) do
    case Bert.decode(data, max_size: max_size) do
      {:ok, {:info, command, _options}} when is_atom(command) -> {:info, Atom.to_string(command)}
      {:ok, {:call, _, _, _}} -> :call
      {:ok, {:cast, _, _, _}} -> :cast
      {:ok, {:reply, _}} -> :reply
      {:ok, {:noreply}} -> :noreply
      {:ok, {:error, _}} -> :failure
      _other -> :error
    end
  end

  @doc "What a client has sent, or the error that it is answered with."
  @spec request(binary, pos_integer) :: {:ok, request} | {:error, Error.t()}
  def request(data, max_size) do
    case Bert.decode(data, max_size: max_size) do
      {:ok, {kind, module, function, args}}
      when kind in [:call, :cast] and is_atom(module) and is_atom(function) and is_list(args) ->
        if List.improper?(args),
          do: no_request(),
          else: {:ok, {kind, Atom.to_string(module), Atom.to_string(function), args}}

      {:ok, {:info, command, options}} ->
        {:ok, {:info, command, options}}

      {:ok, _other} ->
        no_request()

      {:error, {:undecodable, text}} ->
        unreadable(data, text)
    end
  end

  defp no_request do
    detail = "a request is {call, Module, Function, Arguments}, a cast, or an info packet"
    {:error, %Error{type: :protocol, code: 0, detail: detail}}
  end

  # The name of a module that there is not may be an atom that there is not: it is read as text.
  defp unreadable(data, text) do
    with <<131, 104, 4, rest::binary>> <- data,
         {kind, rest} when kind in ["call", "cast"] <- atom(rest),
         {module, rest} <- atom(rest),
         {function, _args} <- atom(rest) do
      {:ok, {:unreadable, module, function, text}}
    else
      _other -> {:error, %Error{type: :protocol, code: 2, detail: text}}
    end
  end

  defp atom(<<tag, size::16, name::binary-size(size), rest::binary>>) when tag in [100, 118],
    do: text(name, rest)

  defp atom(<<tag, size, name::binary-size(size), rest::binary>>) when tag in [115, 119],
    do: text(name, rest)

  defp atom(_other), do: :error

  # As it is used in an error, which is text.
  defp text(name, rest), do: if(String.valid?(name), do: {name, rest}, else: :error)

  @doc "What a server has answered."
  @spec answer(binary, pos_integer) :: {:ok, answer} | {:error, {:undecodable, String.t()}}
  def answer(data, max_size) do
    case Bert.decode(data, max_size: max_size) do
      {:ok, {:reply, value}} -> {:ok, {:reply, value}}
      {:ok, {:noreply}} -> {:ok, {:noreply}}
      {:ok, {:info, command, options}} -> {:ok, {:info, command, options}}
      {:ok, {:error, error}} -> error(error)
      {:ok, _other} -> no_answer()
      error -> if info?(data), do: {:ok, {:info, :unknown, []}}, else: error
    end
  end

  # An info packet with an atom that there is not, for one: the answer is what comes after it.
  defp info?(<<131, 104, 3, rest::binary>>), do: match?({"info", _}, atom(rest))
  defp info?(_data), do: false

  defp error({type, code, class, detail, backtrace})
       when type in @types and is_integer(code) and is_binary(class) and is_binary(detail) and
              is_list(backtrace) do
    if List.improper?(backtrace) or not Enum.all?(backtrace, &is_binary/1) do
      no_answer()
    else
      fields = [type: type, code: code, class: class, detail: detail, backtrace: backtrace]
      {:ok, {:error, struct!(Error, fields)}}
    end
  end

  defp error(_other), do: no_answer()

  defp no_answer, do: {:error, {:undecodable, "it is no answer of BERT-RPC"}}
end
