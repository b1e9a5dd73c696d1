defmodule Reactor.Socket.Options do
  @moduledoc """
  The options of one connection, and their defaults.

  They are accepted by `Reactor.start/2` (for every connection that the listener accepts), by
  `Reactor.connect/3`, and by `Reactor.Socket.options/2` at any time later. Sizes are in bytes, up to
  2147483647, times in milliseconds, from 1 to 4294967295 (49 days).

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
  | `:send_timeout` | ms or `:infinity` | `:infinity` | how long a send may wait for room; then it is `{:error, :timeout}` |
  | `:send_timeout_close` | boolean | `false` | close the connection when a send has timed out |

  ## Deadlines

  A deadline cuts a connection whose peer keeps the server waiting. It runs only while the server does
  wait for the peer: a handler that computes for an hour is not cut.

  | option | value | default | the connection is cut when |
  |---|---|---|---|
  | `:first_byte_timeout` | ms or `:infinity` | `:infinity` | nothing at all was received so long after it was accepted, though the owner wants to read |
  | `:idle_timeout` | ms or `:infinity` | `:infinity` | the owner wants to read, and for so long nothing came or went |
  | `:stall_timeout` | ms or `:infinity` | `:infinity` | something is queued to be written, and for so long the peer took nothing of it |
  | `:max_lifetime` | ms or `:infinity` | `:infinity` | it was accepted, or dialed, so long ago, whatever it does |
  | `:min_rate` | `{bytes, per_ms}` or `nil` | `nil` | in `per_ms` of waiting for the peer fewer than `bytes` moved; reading and writing count each for itself |

  The owner wants to read while it waits in `Reactor.Socket.recv/3` or is active. With `active: true` that is
  always: the deadlines for reading then run while nothing comes, whatever the owner is doing. Of a cut connection
  whoever waits is told `{:error, :timeout}`, and an active owner `{:tcp_error, socket, :timeout}` and
  `{:tcp_closed, socket}`; every later call answers `{:error, :closed}`. A send timeout is something
  else: it is about one call, and the connection stays unless `:send_timeout_close` is set.

  The peer's kernel takes what it is sent in steps, of up to half its buffer, while its program reads little by
  little. A `:stall_timeout`, and the time of a `:min_rate`, should be seconds rather than milliseconds.

  Only the transport `:native` has deadlines. With another one they are an error unless they have their
  default.
  """

  alias Reactor.{ConfigError, Transport}

  @defaults %{
    active: false,
    packet: :raw,
    packet_size: 0,
    nodelay: true,
    keepalive: false,
    recbuf: nil,
    sndbuf: nil,
    high_watermark: 65_536,
    low_watermark: 32_768,
    send_timeout: :infinity,
    send_timeout_close: false,
    first_byte_timeout: :infinity,
    idle_timeout: :infinity,
    stall_timeout: :infinity,
    max_lifetime: :infinity,
    min_rate: nil
  }

  # Those that a datagram socket has.
  @datagrams [:active, :recbuf, :sndbuf, :send_timeout]

  @deadlines [:first_byte_timeout, :idle_timeout, :stall_timeout, :max_lifetime, :min_rate]

  @max_packet_size 64 * 1024 * 1024

  # What a timer of the emulator takes.
  @max_time 4_294_967_295

  # What the kernel takes, and those who count what is queued.
  @max_bytes 2_147_483_647

  @bytes "a number of bytes from 1 to 2147483647"

  @milliseconds "a number of milliseconds from 1 to 4294967295, or :infinity"

  @expected %{
    active: "true, false, :once or an integer from 1 to 32767",
    packet: ":raw, :line, 1, 2 or 4",
    packet_size: "a number of bytes from 0 (no limit but 64 MiB) to 67108864",
    nodelay: "true or false",
    keepalive: "true or false",
    recbuf: @bytes <> ", or nil",
    sndbuf: @bytes <> ", or nil",
    high_watermark: @bytes,
    low_watermark: @bytes,
    send_timeout: @milliseconds,
    send_timeout_close: "true or false",
    first_byte_timeout: @milliseconds,
    idle_timeout: @milliseconds,
    stall_timeout: @milliseconds,
    max_lifetime: @milliseconds,
    min_rate: "{bytes, per_ms}, two integers from 1 to 4294967295, or nil"
  }

  @names Map.keys(@defaults)

  @type active :: boolean | :once | 1..32_767
  @type packet :: :raw | :line | 1 | 2 | 4

  @typedoc "In milliseconds."
  @type time :: pos_integer | :infinity

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
          | {:send_timeout, time}
          | {:send_timeout_close, boolean}
          | {:first_byte_timeout, time}
          | {:idle_timeout, time}
          | {:stall_timeout, time}
          | {:max_lifetime, time}
          | {:min_rate, {bytes :: pos_integer, per_ms :: pos_integer} | nil}

  @typedoc "Options that were validated, by name."
  @type t :: %{optional(atom) => term}

  @doc "The names of all options."
  @spec names() :: [atom]
  def names, do: @names

  @doc "The names of the options that only the transport `:native` has."
  @spec deadlines() :: [atom]
  def deadlines, do: @deadlines

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
  def validate(options) when is_list(options) or is_map(options) do
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

  def validate(options), do: {:error, error(:options, options, "a keyword list")}

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

  @doc """
  Checks that a transport, given as its module, has the options.

      iex> {:error, error} =
      ...>   Reactor.Socket.Options.supported(%{idle_timeout: 5_000}, Reactor.Transport.TCP)
      iex> Exception.message(error)
      "option :idle_timeout must be :infinity with transport :tcp (:native has it), got: 5000"
  """
  @spec supported(t, module) :: :ok | {:error, ConfigError.t()}
  def supported(_options, Transport.Native), do: :ok

  def supported(options, Transport.Native.Datagrams) do
    case Enum.find(@names -- @datagrams, &(Map.get(options, &1, @defaults[&1]) != @defaults[&1])) do
      nil ->
        :ok

      name ->
        expected = "#{inspect(@defaults[name])} with protocol :udp, whose data is no stream"
        {:error, error(name, options[name], expected)}
    end
  end

  def supported(options, transport) do
    case Enum.find(@deadlines, &(Map.get(options, &1, @defaults[&1]) != @defaults[&1])) do
      nil ->
        :ok

      name ->
        expected =
          "#{inspect(@defaults[name])} with transport #{inspect(Transport.name(transport))} " <>
            "(:native has it)"

        {:error, error(name, options[name], expected)}
    end
  end

  defguardp is_time(value) when value in 1..@max_time
  defguardp is_bytes(value) when value in 1..@max_bytes

  defp valid?(:active, value) when is_boolean(value) or value == :once, do: true
  defp valid?(:active, value) when value in 1..32_767, do: true
  defp valid?(:packet, value) when value in [:raw, :line, 1, 2, 4], do: true
  defp valid?(:packet_size, value) when value in 0..@max_packet_size, do: true
  defp valid?(:nodelay, value) when is_boolean(value), do: true
  defp valid?(:keepalive, value) when is_boolean(value), do: true
  defp valid?(:recbuf, value) when value == nil or is_bytes(value), do: true
  defp valid?(:sndbuf, value) when value == nil or is_bytes(value), do: true
  defp valid?(:high_watermark, value) when is_bytes(value), do: true
  defp valid?(:low_watermark, value) when is_bytes(value), do: true
  defp valid?(:send_timeout, value) when value == :infinity or is_time(value), do: true
  defp valid?(:send_timeout_close, value) when is_boolean(value), do: true
  defp valid?(:first_byte_timeout, value) when value == :infinity or is_time(value), do: true
  defp valid?(:idle_timeout, value) when value == :infinity or is_time(value), do: true
  defp valid?(:stall_timeout, value) when value == :infinity or is_time(value), do: true
  defp valid?(:max_lifetime, value) when value == :infinity or is_time(value), do: true
  defp valid?(:min_rate, nil), do: true
  defp valid?(:min_rate, {bytes, per_ms}) when is_time(bytes) and is_time(per_ms), do: true
  defp valid?(_name, _value), do: false

  defp error(name, value, expected) do
    %ConfigError{option: name, value: value, expected: expected}
  end
end
