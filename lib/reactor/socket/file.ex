defmodule Reactor.Socket.File do
  @moduledoc false

  # Reactor.Socket.file/3: what is asked for is checked here, and done by the transport.

  alias Reactor.{ConfigError, Transport}

  @options [:offset, :length]

  @expected_path "the path of a file, which is text without a NUL byte"

  @spec send(Transport.socket(), term, term) ::
          {:ok, non_neg_integer} | {:error, Transport.reason() | ConfigError.t()}
  def send(socket, path, options) do
    transport = Transport.of(socket)
    path = path(path)

    with {:ok, offset, length} <- validate(options),
         :ok <- without_header(transport, socket) do
      transport.file(socket, path, offset, length)
    end
  end

  defp path(path) do
    text = if is_list(path), do: text(path), else: path

    if is_binary(text) and text != "" and not String.contains?(text, <<0>>) do
      text
    else
      raise ArgumentError, "expected #{@expected_path}, got: #{inspect(path)}"
    end
  end

  defp text(list) do
    :unicode.characters_to_binary(list)
  rescue
    ArgumentError -> nil
  end

  defp validate(options) do
    if Keyword.keyword?(options) do
      Enum.reduce_while(options, {:ok, 0, :all}, &option/2)
    else
      {:error, error(:options, options, "a keyword list")}
    end
  end

  defp option({:offset, offset}, {:ok, _default, length})
       when is_integer(offset) and offset >= 0 do
    {:cont, {:ok, offset, length}}
  end

  defp option({:length, length}, {:ok, offset, _default})
       when length == :all or (is_integer(length) and length >= 0) do
    {:cont, {:ok, offset, length}}
  end

  defp option({:offset, value}, _valid) do
    {:halt, {:error, error(:offset, value, "a number of bytes, 0 or more")}}
  end

  defp option({:length, value}, _valid) do
    {:halt, {:error, error(:length, value, "a number of bytes, 0 or more, or :all")}}
  end

  defp option({name, _value}, _valid), do: {:halt, {:error, ConfigError.unknown(name, @options)}}

  defp error(option, value, expected) do
    %ConfigError{option: option, value: value, expected: expected}
  end

  # A header would have to go before the bytes, and count them.
  defp without_header(transport, socket) do
    case transport.getopts(socket) do
      {:ok, %{packet: packet}} when packet in [1, 2, 4] -> {:error, :einval}
      {:ok, _options} -> :ok
      {:error, reason} -> {:error, reason}
    end
  end
end
