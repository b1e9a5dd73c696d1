defmodule Reactor.Transport.Native do
  @moduledoc """
  The transport on this package's event loops.

  A loop is a thread that reads only while somebody wants data: a process in `recv`, or an owner
  in active mode. A send is tried at once, in the caller; what the kernel does not take is queued,
  up to the high-water mark. Every function but those that wait returns without blocking a scheduler.
  """

  @behaviour Reactor.Transport

  import Kernel, except: [send: 2]

  alias Reactor.{Listener, Native}

  @impl true
  def listen(%Listener{} = listener) do
    Native.listen(
      Map.merge(listener.options, %{
        ip: listener.ip,
        port: listener.port,
        backlog: listener.backlog,
        reuseaddr: listener.reuseaddr
      })
    )
  end

  @impl true
  def address(listening_socket), do: Native.listener_address(listening_socket)

  @impl true
  def accept(listening_socket) do
    case Native.accept(listening_socket) do
      :wait ->
        receive do
          {:"$reactor_accept", ^listening_socket, socket} -> {:ok, socket}
          {:"$reactor_accept_error", ^listening_socket, reason} -> {:error, reason}
        end

      result ->
        result
    end
  end

  @impl true
  def drain(listening_socket), do: Native.listener_drain(listening_socket)

  # The loops know which connections are idle.
  @impl true
  def drain_handler(_handler, _listener), do: :ok

  @impl true
  def close_listener(listening_socket), do: Native.listener_close(listening_socket)

  @impl true
  def connect(address, port, options, timeout) do
    case Native.connect(Map.merge(options, %{address: address, port: port})) do
      {:wait, socket} -> connected(socket, timeout)
      {:error, reason} -> {:error, reason}
    end
  end

  defp connected(socket, timeout) do
    receive do
      {:"$reactor_connect", ^socket, :ok} -> {:ok, socket}
      {:"$reactor_connect", ^socket, {:error, reason}} -> {:error, reason}
    after
      timeout ->
        Native.close(socket)
        flush_connect(socket)
        {:error, :timeout}
    end
  end

  # The answer may have been sent before the close; after it none is.
  defp flush_connect(socket) do
    receive do
      {:"$reactor_connect", ^socket, _result} -> :ok
    after
      0 -> :ok
    end
  end

  @impl true
  def recv(socket, length, timeout) do
    case Native.recv(socket, length) do
      id when is_integer(id) -> received(id, socket, timeout)
      result -> result
    end
  end

  # The answer names the socket by its number.
  defp received(id, socket, timeout) do
    receive do
      {:"$reactor_data", ^id, data} -> {:ok, data}
      {:"$reactor_recv_error", ^id, reason} -> {:error, reason}
    after
      timeout ->
        case Native.recv_cancel(socket) do
          :ok -> {:error, :timeout}
          # The data was faster than the cancelling: it must not be lost, or arrive as a stray message.
          :sent -> received(id, socket, :infinity)
        end
    end
  end

  @impl true
  def send(socket, data) do
    case Native.send(socket, data) do
      :wait ->
        sent(socket)

      :again ->
        with :ok <- sent(socket) do
          send(socket, data)
        end

      result ->
        result
    end
  end

  defp sent(socket) do
    receive do
      {:"$reactor_sent", ^socket, result} -> result
    end
  end

  @impl true
  def setopts(socket, options), do: Native.setopts(socket, options)

  @impl true
  def getopts(socket), do: Native.getopts(socket)

  # As gen_tcp does it: nothing may arrive while the socket changes hands, and what has arrived goes with it.
  @impl true
  def controlling_process(socket, pid) do
    case Native.getopts(socket) do
      {:ok, %{active: false}} ->
        Native.controlling_process(socket, pid)

      {:ok, %{active: active}} ->
        with :ok <- Native.setopts(socket, %{active: false}) do
          hand_over(socket, pid, active)
        end

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp hand_over(socket, pid, active) do
    still_active = forward(socket, pid, active)

    case Native.controlling_process(socket, pid) do
      :ok ->
        activate(socket, still_active)

      {:error, reason} ->
        activate(socket, active)
        {:error, reason}
    end
  end

  # A message of :once that was on its way has used it up.
  defp forward(socket, pid, active) do
    receive do
      {:tcp, ^socket, _data} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, if(active == :once, do: false, else: active))

      {:tcp_error, ^socket, _reason} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, active)

      {:tcp_closed, ^socket} = message ->
        Kernel.send(pid, message)
        false

      {:tcp_passive, ^socket} = message ->
        Kernel.send(pid, message)
        forward(socket, pid, false)
    after
      0 -> active
    end
  end

  defp activate(_socket, false), do: :ok
  defp activate(socket, active), do: Native.setopts(socket, %{active: active})

  @impl true
  def local(socket), do: Native.local(socket)

  @impl true
  def remote(socket), do: Native.remote(socket)

  @impl true
  def shutdown(socket, how), do: Native.shutdown(socket, how)

  @impl true
  def close(socket), do: Native.close(socket)
end
