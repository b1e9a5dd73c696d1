defmodule Reactor.Transport.SSL.Draining do
  @moduledoc false

  # Which listening sockets of :ssl drain, so that a handler that comes for more input learns of it. A
  # connection knows the process that keeps the options of the listening socket it came from; no two
  # listening sockets have the same one, though they may share a port. Where a release of OTP
  # does not show it, the port has to do.

  # The table that stands for the listening socket: the mark is void when that is gone.
  @type table :: :ets.tid()

  @opaque key :: pid | {:port, :inet.port_number()}

  @doc "What a listening socket is marked by."
  @spec keys(:ssl.sslsocket()) :: [key]
  def keys(listening_socket) do
    {:ok, {_ip, port}} = :ssl.sockname(listening_socket)
    List.wrap(tracker(listening_socket)) ++ [{:port, port}]
  end

  @spec mark([key], table) :: :ok
  def mark(keys, table) do
    sweep()
    for key <- keys, do: :persistent_term.put({__MODULE__, key}, table)
    :persistent_term.put(__MODULE__, true)
  end

  @spec clear([key]) :: :ok
  def clear(keys), do: Enum.each(keys, &:persistent_term.erase({__MODULE__, &1}))

  # What was killed could not clear its mark.
  defp sweep do
    for {{__MODULE__, _key} = mark, table} <- :persistent_term.get(),
        :ets.info(table) == :undefined,
        do: :persistent_term.erase(mark)
  end

  @doc "Asked for each receive: until a server of this VM has drained it costs next to nothing."
  @spec draining?(:ssl.sslsocket()) :: boolean
  def draining?(socket) do
    :persistent_term.get(__MODULE__, false) and marked?(key(socket))
  end

  defp marked?(key) do
    table = :persistent_term.get({__MODULE__, key}, nil)
    table != nil and :ets.info(table) != :undefined
  end

  defp key(socket) do
    with nil <- tracker(socket),
         {:ok, {_ip, port}} <- :ssl.sockname(socket) do
      {:port, port}
    end
  end

  # Where it is in the record differs between OTP releases.
  defp tracker({:option_tracker, pid}) when is_pid(pid), do: pid
  defp tracker(term) when is_tuple(term), do: term |> Tuple.to_list() |> tracker()
  defp tracker([first | rest]), do: tracker(first) || tracker(rest)
  defp tracker(_other), do: nil
end
