defmodule Reactor.Address do
  @moduledoc false

  # Where a socket is: `{ip, port}`, or `{:local, path}` for a Unix socket, as :inet writes it. A path that
  # begins with a NUL byte is an abstract name, which Linux has; an empty one is of a client that was
  # never bound.

  alias Reactor.Transport

  # What the kernel has room for; a path has a NUL byte at its end.
  @name 108
  @path @name - 1

  @doc """
  The address of a Unix socket, from a path as users give it, which becomes absolute; or what it has to be.
  """
  @spec local(term) :: {:ok, {:local, binary}} | {:error, String.t()}
  def local(path) when is_list(path) do
    local(List.to_string(path))
  rescue
    _no_text -> {:error, expected()}
  end

  def local(<<0, _, _::binary>> = name) when byte_size(name) <= @name, do: {:ok, {:local, name}}

  def local(<<0, _, _::binary>> = name) do
    {:error, "{:local, name} with a name of at most #{@name} bytes (it has #{byte_size(name)})"}
  end

  def local(path) when is_binary(path) and path != "" do
    cond do
      String.contains?(path, <<0>>) -> {:error, expected()}
      byte_size(Path.expand(path)) <= @path -> {:ok, {:local, Path.expand(path)}}
      true -> {:error, too_long(Path.expand(path))}
    end
  end

  def local(_other), do: {:error, expected()}

  defp expected, do: "{:local, path} with a path, or with a NUL byte and an abstract name"

  defp too_long(path) do
    "{:local, path} with a path of at most #{@path} bytes (it has #{byte_size(path)} when absolute)"
  end

  @doc "True for the address of a Unix socket that has no place in the file system."
  @spec abstract?(term) :: boolean
  def abstract?({:local, <<0, _::binary>>}), do: true
  def abstract?(_other), do: false

  @doc "What a descriptor has as its `:ip`, and as its `:port`."
  @spec split(Transport.address()) ::
          {:inet.ip_address() | {:local, binary}, :inet.port_number()}
  def split({:local, _path} = address), do: {address, 0}
  def split({ip, port}), do: {ip, port}

  @doc "As in a URL, IPv6 in brackets; a path, or an abstract name with an @, as Linux shows it."
  @spec to_text(Transport.address() | {{:local, binary}, 0} | nil) :: String.t()
  def to_text(nil), do: "an unknown address"
  def to_text({:local, ""}), do: "a local client"
  def to_text({:local, <<0, name::binary>>}), do: "@" <> text(name)
  def to_text({:local, path}), do: text(path)
  def to_text({{:local, _path} = address, _port}), do: to_text(address)
  def to_text({ip, port}) when tuple_size(ip) == 8, do: "[#{:inet.ntoa(ip)}]:#{port}"
  def to_text({ip, port}), do: "#{:inet.ntoa(ip)}:#{port}"

  # A name is any bytes, and a line is to stay one.
  defp text(name) do
    if String.printable?(name) and not String.contains?(name, ["\n", "\r"]),
      do: name,
      else: inspect(name)
  end
end
