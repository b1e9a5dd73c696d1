defmodule Reactor.Listener.Place do
  @moduledoc false

  # Where a listener listens: which of its options go together, and who may connect to a path.

  alias Reactor.{Address, ConfigError, Listener, Transport}

  import Reactor.Listener.Options, only: [error: 3, native: 4]

  # What a listener has that nobody else opens for it, and that is its own to choose.
  @place [:ip, :port, :ipv6_v6only, :unix, :reuseport, :num_listen_sockets]

  # The number that means no change, for the kernel, is left out.
  @max_id 4_294_967_294

  @doc """
  Validates where a listener is to listen, before it does: from then on its address is the one that was
  bound.
  """
  @spec validate(Listener.t()) :: :ok | {:error, ConfigError.t()}
  def validate(listener) do
    with :ok <- offered(listener),
         :ok <- inherited(listener),
         :ok <- shared(listener),
         :ok <- local(listener) do
      families(listener)
    end
  end

  defp offered(%{ip: {:local, _path} = ip, transport: transport})
       when transport in [Transport.TCP, Transport.SSL],
       do: native(:ip, ip, "an IPv4 or IPv6 address", transport)

  defp offered(%{fd: fd, transport: transport}) when fd != nil,
    do: native(:fd, fd, "left out", transport)

  defp offered(%{reuseport: true, transport: transport}),
    do: native(:reuseport, true, "false", transport)

  defp offered(%{num_listen_sockets: n, transport: transport}) when n > 1,
    do: native(:num_listen_sockets, n, "1", transport)

  defp offered(_listener), do: :ok

  defp inherited(%{fd: nil}), do: :ok

  defp inherited(listener) do
    case Enum.find(@place, &(Map.fetch!(listener, &1) != Map.fetch!(%Listener{module: nil}, &1))) do
      nil ->
        :ok

      name ->
        expected = "left out with :fd, whose socket is open already"
        {:error, error(name, Map.fetch!(listener, name), expected)}
    end
  end

  defp shared(%{reuseport: false, num_listen_sockets: n}) when n > 1 do
    {:error, error(:reuseport, false, "true where :num_listen_sockets is above 1")}
  end

  defp shared(%{reuseport: true, ip: {:local, _path}}) do
    {:error, error(:reuseport, true, "false for a Unix socket, whose path only one can have")}
  end

  defp shared(_listener), do: :ok

  defp local(%{ip: {:local, _path}, port: port}) when port != 0 do
    {:error, error(:port, port, "0, or left out, for a Unix socket")}
  end

  defp local(%{unix: []}), do: :ok

  defp local(%{ip: ip, unix: unix}) do
    cond do
      Address.abstract?(ip) ->
        {:error,
         error(:unix, unix, "left out for an abstract name, to which everybody may connect")}

      match?({:local, _path}, ip) ->
        :ok

      true ->
        {:error, error(:unix, unix, "left out where :ip is not {:local, path}")}
    end
  end

  defp families(%{ipv6_v6only: only, ip: ip}) when only != nil and tuple_size(ip) != 8 do
    expected = ~s(left out where :ip is not an IPv6 address, as "::")
    {:error, error(:ipv6_v6only, only, expected)}
  end

  defp families(_listener), do: :ok

  @doc "Validates who may connect to the path of a Unix socket."
  @spec access(keyword) :: {:ok, keyword} | {:error, ConfigError.t()}
  def access(options), do: access(options, options)

  defp access([], options), do: {:ok, options}
  defp access([{:mode, mode} | rest], all) when mode in 0..0o777, do: access(rest, all)

  defp access([{name, id} | rest], all) when name in [:owner, :group] and id in 0..@max_id,
    do: access(rest, all)

  defp access([{name, id} | rest], all) when name in [:owner, :group] and is_binary(id) do
    if id != "" and String.valid?(id) and not String.contains?(id, <<0>>),
      do: access(rest, all),
      else: wrong_access(name, id)
  end

  defp access([{name, value} | _rest], _all) when name in [:mode, :owner, :group],
    do: wrong_access(name, value)

  defp access([{name, _value} | _rest], _all),
    do: {:error, ConfigError.unknown(name, [:mode, :owner, :group])}

  defp wrong_access(:mode, value) do
    {:error, error(:mode, value, "permissions from 0o000 to 0o777, in :unix")}
  end

  defp wrong_access(name, value) do
    {:error, error(name, value, "a name or a number from 0 to #{@max_id}, in :unix")}
  end
end
