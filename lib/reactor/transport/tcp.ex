defmodule Reactor.Transport.TCP do
  @moduledoc """
  The transport on OTP's `:gen_tcp`: sockets are its ports.

  It serves where a socket must be one that other OTP libraries accept, and to compare the native
  transport with. A stopping server tells its handlers that no more input comes by shutting down the
  reading side of their sockets.

  It differs from the native transport in that

    * with `packet: :line` a line longer than `:packet_size`, or than 64 KiB if that is 0, comes in
      pieces of that size, where the native transport fails with `:emsgsize`;
    * a connection whose peer has ended the stream is closed: there is no answering after that;
    * it has no deadlines, and applies `:send_timeout` to data only, not to a file that the owner sends.
  """

  @behaviour Reactor.Transport

  alias Reactor.Listener
  alias Reactor.Transport.{FileCopy, Inet}

  @impl true
  def listen(%Listener{} = listener) do
    options = Inet.listen_options(listener) ++ to_inet(listener.options)

    :gen_tcp.listen(listener.port, options)
  end

  # What a listening socket has, those that it accepts get.
  @impl true
  def update(listening_socket, %Listener{options: options}),
    do: setopts(listening_socket, options)

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
    :gen_tcp.connect(address, port, [:binary, Inet.family(address)] ++ to_inet(options), timeout)
  end

  @impl true
  def recv(socket, length, timeout) do
    case :gen_tcp.recv(socket, length, timeout) do
      # What gen_tcp says the second time.
      {:error, :enotconn} -> {:error, :closed}
      result -> result
    end
  end

  # A packet that its header cannot count gen_tcp would send all the same, and the peer would lose its way.
  @impl true
  def send(socket, data) do
    size = IO.iodata_length(data)

    if size <= 255 or counts?(:inet.getopts(socket, [:packet]), size) do
      socket |> :gen_tcp.send(data) |> Inet.closed()
    else
      {:error, :emsgsize}
    end
  end

  defp counts?({:ok, [packet: 1]}, _size), do: false
  defp counts?({:ok, [packet: 2]}, size), do: size <= 0xFFFF
  defp counts?(_other, _size), do: true

  @impl true
  def file(socket, path, offset, length) do
    with {:ok, file} <- FileCopy.open(path) do
      result = send_file(file, socket, offset, length)
      :file.close(file)
      Inet.closed(result)
    end
  end

  # To sendfile that would be everything.
  defp send_file(_file, _socket, _offset, 0), do: {:ok, 0}

  defp send_file(file, socket, offset, length) do
    case :file.sendfile(file, socket, offset, if(length == :all, do: 0, else: length), []) do
      # gen_tcp does it for the owner alone.
      {:error, :not_owner} -> FileCopy.send(file, offset, length, &:gen_tcp.send(socket, &1))
      result -> result
    end
  end

  @impl true
  def setopts(socket, options), do: socket |> :inet.setopts(to_inet(options)) |> Inet.closed()

  @impl true
  def getopts(socket) do
    case :inet.getopts(socket, Inet.names()) do
      # Some were left out: of a closed socket all.
      {:ok, []} -> {:error, :closed}
      {:ok, options} -> {:ok, Inet.to_options(options)}
      {:error, reason} -> Inet.closed({:error, reason})
    end
  end

  @impl true
  def statistics(socket) do
    case :inet.getstat(socket, Inet.counters()) do
      {:ok, counters} -> {:ok, Inet.to_statistics(counters)}
      {:error, reason} -> Inet.closed({:error, reason})
    end
  end

  @impl true
  def controlling_process(socket, pid), do: :gen_tcp.controlling_process(socket, pid)

  @impl true
  def local(socket), do: socket |> :inet.sockname() |> Inet.closed()

  @impl true
  def remote(socket), do: socket |> :inet.peername() |> Inet.closed()

  @impl true
  def peer_credentials(_socket), do: {:error, :eopnotsupp}

  @impl true
  def shutdown(socket, how), do: socket |> :gen_tcp.shutdown(how) |> Inet.closed()

  @impl true
  def close(socket), do: :gen_tcp.close(socket)

  @impl true
  def negotiated_protocol(_socket), do: nil

  @impl true
  def peer_certificate(_socket), do: {:error, :no_peercert}

  defp to_inet(options), do: Inet.line_buffer(options) ++ Inet.from_options(options)
end
