defmodule Reactor.Transport.TCP do
  @moduledoc """
  The transport on OTP's `:gen_tcp`: sockets are its ports.

  It serves where a socket must be one that other OTP libraries accept, and to compare the native
  transport with. A stopping server tells its handlers that no more input comes by shutting down the
  reading side of their sockets.

  With `packet: :line` a line longer than `:packet_size`, or than 64 KiB if that is 0, comes in
  pieces, where the native transport fails with `:emsgsize` above `:packet_size`.
  """

  @behaviour Reactor.Transport

  alias Reactor.Listener

  @max_packet_size 64 * 1024 * 1024
  @line_buffer 64 * 1024

  @impl true
  def listen(%Listener{} = listener) do
    options =
      [
        :binary,
        family(listener.ip),
        ip: listener.ip,
        backlog: listener.backlog,
        reuseaddr: listener.reuseaddr
      ] ++ to_inet(listener.options)

    :gen_tcp.listen(listener.port, options)
  end

  @impl true
  def address(listening_socket), do: :inet.sockname(listening_socket)

  @impl true
  def accept(listening_socket), do: :gen_tcp.accept(listening_socket)

  @impl true
  def drain(listening_socket), do: :gen_tcp.close(listening_socket)

  # A port is linked to its owner. Only those of this listener: a handler may have dialed others.
  @impl true
  def drain_handler(handler, %Listener{port: port}) do
    with {:links, links} <- Process.info(handler, :links) do
      for socket <- links,
          is_port(socket),
          match?({:ok, {_ip, ^port}}, :inet.sockname(socket)) do
        :gen_tcp.shutdown(socket, :read)
      end
    end

    :ok
  end

  @impl true
  def close_listener(listening_socket), do: :gen_tcp.close(listening_socket)

  @impl true
  def connect(address, port, options, timeout) do
    :gen_tcp.connect(address, port, [:binary, family(address)] ++ to_inet(options), timeout)
  end

  @impl true
  def recv(socket, length, timeout) do
    case :gen_tcp.recv(socket, length, timeout) do
      # What gen_tcp says the second time.
      {:error, :enotconn} -> {:error, :closed}
      result -> result
    end
  end

  @impl true
  def send(socket, data), do: :gen_tcp.send(socket, data)

  @impl true
  def setopts(socket, options), do: :inet.setopts(socket, to_inet(options))

  @impl true
  def getopts(socket) do
    with {:ok, options} <- :inet.getopts(socket, Reactor.Socket.Options.names()) do
      {:ok, Map.new(options, &from_inet/1)}
    end
  end

  @impl true
  def controlling_process(socket, pid), do: :gen_tcp.controlling_process(socket, pid)

  @impl true
  def local(socket), do: :inet.sockname(socket)

  @impl true
  def remote(socket), do: :inet.peername(socket)

  @impl true
  def shutdown(socket, how), do: :gen_tcp.shutdown(socket, how)

  @impl true
  def close(socket), do: :gen_tcp.close(socket)

  defp family(ip) when tuple_size(ip) == 4, do: :inet
  defp family(ip) when tuple_size(ip) == 8, do: :inet6

  defp from_inet({:packet, 0}), do: {:packet, :raw}
  defp from_inet({:packet_size, @max_packet_size}), do: {:packet_size, 0}
  defp from_inet(option), do: option

  defp to_inet(options), do: buffer(options) ++ Enum.flat_map(options, &option/1)

  # gen_tcp cuts a line at the end of its buffer, which by default is no longer than a packet on the wire.
  defp buffer(%{packet: :line, packet_size: size}) when size > 0, do: [buffer: size]
  defp buffer(%{packet: :line}), do: [buffer: @line_buffer]
  defp buffer(_options), do: []

  defp option({:recbuf, nil}), do: []
  defp option({:sndbuf, nil}), do: []
  defp option({:packet_size, 0}), do: [packet_size: @max_packet_size]
  defp option(option), do: [option]
end
