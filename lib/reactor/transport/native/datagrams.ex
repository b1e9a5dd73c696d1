defmodule Reactor.Transport.Native.Datagrams do
  @moduledoc false

  # What can be done with a datagram socket, `{:udp, handle}`, which a listener with `protocol: :udp` gave to
  # one process. The functions are those of Reactor.Transport for one connection, and two of its own.

  alias Reactor.Native

  @type socket :: {:udp, reference}

  @spec recv_from(socket, timeout) ::
          {:ok, Reactor.Transport.address(), binary} | {:error, Reactor.Transport.reason()}
  def recv_from({:udp, handle}, timeout) do
    case Native.datagram_recv(handle) do
      id when is_integer(id) -> received(id, handle, timeout)
      result -> result
    end
  end

  # The answer names the socket by its number.
  defp received(id, handle, timeout) do
    receive do
      {:"$reactor_datagram", ^id, peer, data} -> {:ok, peer, data}
      {:"$reactor_recv_error", ^id, reason} -> {:error, reason}
    after
      timeout ->
        case Native.datagram_recv_cancel(handle) do
          :ok -> {:error, :timeout}
          # It was faster than the cancelling.
          :sent -> received(id, handle, :infinity)
        end
    end
  end

  @spec send_to(socket, Reactor.Transport.address(), iodata) ::
          :ok | {:error, Reactor.Transport.reason()}
  def send_to({:udp, handle} = socket, {ip, port} = peer, data) do
    case Native.datagram_send(handle, ip, port, data) do
      :again -> send_again(socket, peer, data, patience(handle))
      result -> result
    end
  end

  # There was no room for it: it is sent when there is.
  defp send_again({:udp, handle} = socket, {ip, port} = peer, data, deadline) do
    with :ok <- room(socket, deadline) do
      case Native.datagram_send(handle, ip, port, data) do
        :again -> send_again(socket, peer, data, deadline)
        result -> result
      end
    end
  end

  defp room({:udp, handle} = socket, deadline) do
    receive do
      {:"$reactor_sent", ^socket, result} -> result
    after
      left(deadline) ->
        case Native.datagram_send_cancel(handle) do
          :ok -> {:error, :timeout}
          :sent -> room(socket, :infinity)
        end
    end
  end

  defp patience(handle) do
    case Native.datagram_send_timeout(handle) do
      :infinity -> :infinity
      timeout -> now() + timeout
    end
  end

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(deadline - now(), 0)

  defp now, do: System.monotonic_time(:millisecond)

  # --- as for a connection ----------------------------------------------------------------------

  # A datagram has an address, which these do not say or ask for.
  @spec recv(socket, non_neg_integer, timeout) :: {:error, atom}
  def recv(socket, _length, _timeout), do: refuse(socket, :eopnotsupp)

  @spec send(socket, iodata) :: {:error, atom}
  def send(socket, _data), do: refuse(socket, :edestaddrreq)

  @spec file(socket, Path.t(), non_neg_integer, non_neg_integer | :all) :: {:error, atom}
  def file(socket, _path, _offset, _length), do: refuse(socket, :eopnotsupp)

  @spec shutdown(socket, :read | :write | :read_write) :: {:error, atom}
  def shutdown(socket, _how), do: refuse(socket, :eopnotsupp)

  defp refuse(socket, reason) do
    with {:ok, _address} <- local(socket), do: {:error, reason}
  end

  @spec remote(socket) :: {:error, atom}
  def remote(socket), do: refuse(socket, :enotconn)

  @spec local(socket) :: {:ok, Reactor.Transport.address()} | {:error, atom}
  def local({:udp, handle}), do: Native.datagram_local(handle)

  @spec setopts(socket, map) :: :ok | {:error, atom}
  def setopts({:udp, handle}, options) do
    Native.datagram_setopts(handle, Map.take(options, [:active, :recbuf, :sndbuf, :send_timeout]))
  end

  @spec getopts(socket) :: {:ok, map} | {:error, atom}
  def getopts({:udp, handle}), do: Native.datagram_getopts(handle)

  @spec statistics(socket) :: {:ok, Reactor.Transport.statistics()} | {:error, atom}
  def statistics({:udp, handle}), do: Native.datagram_statistics(handle)

  @spec controlling_process(socket, pid) :: :ok | {:error, atom}
  def controlling_process({:udp, handle} = socket, pid) do
    case Native.datagram_getopts(handle) do
      {:ok, %{active: false}} -> Native.datagram_controlling_process(handle, pid)
      {:ok, %{active: active}} -> hand_over(socket, pid, active)
      {:error, reason} -> {:error, reason}
    end
  end

  # Nothing may arrive while it changes hands, and what has arrived goes with it.
  defp hand_over({:udp, handle} = socket, pid, active) do
    with :ok <- setopts(socket, %{active: false}) do
      left = forward(socket, pid, active)

      case Native.datagram_controlling_process(handle, pid) do
        :ok ->
          if left == false, do: :ok, else: setopts(socket, %{active: left})

        {:error, reason} ->
          setopts(socket, %{active: active})
          {:error, reason}
      end
    end
  end

  defp forward(socket, pid, active) do
    receive do
      {:udp, ^socket, _peer, _data} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, if(active == :once, do: false, else: active))

      {:udp_error, ^socket, _reason} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, active)

      {:udp_closed, ^socket} = message ->
        Kernel.send(pid, message)
        false

      {:udp_passive, ^socket} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, false)
    after
      0 -> active
    end
  end

  @spec close(socket) :: :ok
  def close({:udp, handle}), do: Native.datagram_close(handle)

  @spec peer_credentials(socket) :: {:error, :eopnotsupp}
  def peer_credentials(_socket), do: {:error, :eopnotsupp}

  @spec negotiated_protocol(socket) :: nil
  def negotiated_protocol(_socket), do: nil

  @spec peer_certificate(socket) :: {:error, :no_peercert}
  def peer_certificate(_socket), do: {:error, :no_peercert}
end
