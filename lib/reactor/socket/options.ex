defmodule Reactor.Socket.Options do
  @moduledoc """
  The options of one connection, and their defaults.

  They are accepted by `Reactor.start/2` (for every connection that the listener accepts), by
  `Reactor.connect/3`, and by `Reactor.Socket.options/2` at any time later.

  | option | value | default | meaning |
  |---|---|---|---|
  | `:active` | `true`, `false`, `:once`, 1..32767 | `false` | send data to the owner as messages |
  | `:packet` | `:raw`, `:line`, `1`, `2`, `4` | `:raw` | framing: none, up to a newline, or a length header of so many bytes |
  | `:packet_size` | bytes | `0` | the largest packet accepted; 0 is 64 MiB |
  | `:nodelay` | boolean | `true` | send small segments at once |
  | `:keepalive` | boolean | `false` | probe a silent peer |
  | `:recbuf`, `:sndbuf` | bytes or `nil` | `nil` | the kernel's buffers; `nil` leaves them alone |
  | `:high_watermark` | bytes | 65536 | unsent bytes above which senders wait |
  | `:low_watermark` | bytes | 32768 | unsent bytes below which they go on |
  """

  alias Reactor.ConfigError

  @defaults %{
    active: false,
    packet: :raw,
    packet_size: 0,
    nodelay: true,
    keepalive: false,
    recbuf: nil,
    sndbuf: nil,
    high_watermark: 65_536,
    low_watermark: 32_768
  }

  @max_packet_size 64 * 1024 * 1024

  @expected %{
    active: "true, false, :once or an integer from 1 to 32767",
    packet: ":raw, :line, 1, 2 or 4",
    packet_size: "a number of bytes from 0 (no limit but 64 MiB) to 67108864",
    nodelay: "true or false",
    keepalive: "true or false",
    recbuf: "a positive number of bytes or nil",
    sndbuf: "a positive number of bytes or nil",
    high_watermark: "a positive number of bytes",
    low_watermark: "a positive number of bytes"
  }

  @names Map.keys(@defaults)

  @type active :: boolean | :once | 1..32_767
  @type packet :: :raw | :line | 1 | 2 | 4
  @type option ::
          {:active, active}
          | {:packet, packet}
          | {:packet_size, non_neg_integer}
          | {:nodelay, boolean}
          | {:keepalive, boolean}
          | {:recbuf, pos_integer | nil}
          | {:sndbuf, pos_integer | nil}
          | {:high_watermark, pos_integer}
          | {:low_watermark, pos_integer}

  @typedoc "Options that were validated, by name."
  @type t :: %{optional(atom) => term}

  @doc "The names of all options."
  @spec names() :: [atom]
  def names, do: @names

  @doc "Every option with its default."
  @spec defaults() :: t
  def defaults, do: @defaults

  @doc """
  Validates options, in any number.

      iex> Reactor.Socket.Options.validate(packet: :line)
      {:ok, %{packet: :line}}

      iex> {:error, error} = Reactor.Socket.Options.validate(packet: 3)
      iex> Exception.message(error)
      "option :packet must be :raw, :line, 1, 2 or 4, got: 3"
  """
  @spec validate([option] | t) :: {:ok, t} | {:error, ConfigError.t()}
  def validate(options) do
    Enum.reduce_while(options, {:ok, %{}}, fn
      {name, value}, {:ok, valid} ->
        case option(name, value) do
          :ok -> {:cont, {:ok, Map.put(valid, name, value)}}
          {:error, error} -> {:halt, {:error, error}}
        end

      other, _valid ->
        {:halt, {:error, ConfigError.unknown(other, @names)}}
    end)
  end

  @doc """
  Validates one option.
  """
  @spec option(term, term) :: :ok | {:error, ConfigError.t()}
  def option(name, value) do
    cond do
      valid?(name, value) -> :ok
      expected = @expected[name] -> {:error, error(name, value, expected)}
      true -> {:error, ConfigError.unknown(name, @names)}
    end
  end

  @doc """
  Validates what one option alone does not show: the low mark is not above the high one.
  """
  @spec together(t) :: :ok | {:error, ConfigError.t()}
  def together(%{low_watermark: low, high_watermark: high}) when low > high do
    {:error, error(:low_watermark, low, "no more than :high_watermark (#{high})")}
  end

  def together(_options), do: :ok

  defp valid?(:active, value) when is_boolean(value) or value == :once, do: true
  defp valid?(:active, value) when value in 1..32_767, do: true
  defp valid?(:packet, value) when value in [:raw, :line, 1, 2, 4], do: true
  defp valid?(:packet_size, value) when value in 0..@max_packet_size, do: true
  defp valid?(:nodelay, value) when is_boolean(value), do: true
  defp valid?(:keepalive, value) when is_boolean(value), do: true
  defp valid?(:recbuf, value) when value == nil or (is_integer(value) and value > 0), do: true
  defp valid?(:sndbuf, value) when value == nil or (is_integer(value) and value > 0), do: true
  defp valid?(:high_watermark, value) when is_integer(value) and value > 0, do: true
  defp valid?(:low_watermark, value) when is_integer(value) and value > 0, do: true
  defp valid?(_name, _value), do: false

  defp error(name, value, expected) do
    %ConfigError{option: name, value: value, expected: expected}
  end
end
