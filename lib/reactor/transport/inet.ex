defmodule Reactor.Transport.Inet do
  @moduledoc false

  # The options of a connection in the words of :inet, for the transports that stand on it: gen_tcp's
  # and ssl's.

  alias Reactor.{Listener, Socket}

  @max_packet_size 64 * 1024 * 1024
  @line_buffer 64 * 1024

  # The driver keeps it in 31 bits.
  @max_send_timeout 2_147_483_647

  # Those that only the native transport has.
  @foreign Socket.Options.deadlines()

  # What :inet is asked for.
  @names Socket.Options.names() -- @foreign

  @statistics [
    recv_oct: :received,
    send_oct: :sent,
    recv_cnt: :reads,
    send_cnt: :writes,
    send_pend: :queued
  ]

  @spec names() :: [atom]
  def names, do: @names

  @spec family(:inet.ip_address() | {:local, binary}) :: :inet | :inet6 | :local
  def family({:local, _path}), do: :local
  def family(ip) when tuple_size(ip) == 4, do: :inet
  def family(ip) when tuple_size(ip) == 8, do: :inet6

  @doc "What a listening socket is opened with, without the options of its connections."
  @spec listen_options(Listener.t()) :: [term]
  def listen_options(listener) do
    [
      :binary,
      family(listener.ip),
      ip: listener.ip,
      backlog: listener.backlog,
      reuseaddr: listener.reuseaddr
    ] ++ families(listener)
  end

  defp families(%{ipv6_v6only: nil}), do: []
  defp families(%{ipv6_v6only: only}), do: [ipv6_v6only: only]

  @doc "Options as `:inet` takes them. `nil` leaves alone what the kernel chooses."
  @spec from_options(Socket.Options.t()) :: keyword
  def from_options(options), do: Enum.flat_map(options, &from_option/1)

  defp from_option({:recbuf, nil}), do: []
  defp from_option({:sndbuf, nil}), do: []
  defp from_option({:packet, :raw}), do: [packet: 0]
  defp from_option({:packet_size, 0}), do: [packet_size: @max_packet_size]

  defp from_option({:send_timeout, ms}) when is_integer(ms) do
    [send_timeout: min(ms, @max_send_timeout)]
  end

  defp from_option({name, _value}) when name in @foreign, do: []
  defp from_option(option), do: [option]

  @doc """
  What else gen_tcp needs for lines: it cuts one at the end of its buffer, which by default is no longer than
  a packet on the wire.
  """
  @spec line_buffer(Socket.Options.t()) :: keyword
  def line_buffer(%{packet: :line, packet_size: size}) when size > 0, do: [buffer: size]
  def line_buffer(%{packet: :line}), do: [buffer: @line_buffer]
  def line_buffer(_options), do: []

  @doc "What `:inet` said of `names/0`, with the rest as it always is."
  @spec to_options(keyword) :: Socket.Options.t()
  def to_options(options) do
    # Of a Unix socket :inet leaves nodelay out: nothing is delayed there.
    Enum.into(options, Map.take(Socket.Options.defaults(), [:nodelay | @foreign]), &to_option/1)
  end

  defp to_option({:packet, 0}), do: {:packet, :raw}
  defp to_option({:packet_size, @max_packet_size}), do: {:packet_size, 0}
  defp to_option(option), do: option

  @doc "The names of the counters that `to_statistics/1` takes."
  @spec counters() :: [atom]
  def counters, do: Keyword.keys(@statistics)

  @spec to_statistics(keyword) :: Reactor.Transport.statistics()
  def to_statistics(counters) do
    Enum.into(counters, %{age: nil}, fn {name, n} -> {@statistics[name], n} end)
  end

  @doc "A result of a call on a socket that may be closed: `:inet` finds it invalid, or not connected."
  @spec closed(result) :: result when result: term
  def closed({:error, reason}) when reason in [:einval, :enotconn, :epipe, :econnreset] do
    {:error, :closed}
  end

  def closed(result), do: result
end
