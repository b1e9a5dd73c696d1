defmodule Reactor.Systemd do
  @moduledoc """
  Sockets that systemd has opened for this VM, as sd_listen_fds(3) specifies.

  A service with a socket unit is started when somebody connects, or at boot with its port open already; the
  port stays open while the service is restarted, and may be one that only root can open. A server takes such a
  socket with `fd: {:systemd, name}`, where the name is that of `FileDescriptorName=` in the socket unit (by
  default the unit's own, as `"echo.socket"`), or with `fd: {:systemd, index}`, counted from 0:

      # echo.socket
      [Socket]
      ListenStream=443
      FileDescriptorName=https

      # in the application
      children = [{MyApp.Echo, fd: {:systemd, "https"}}]

  systemd says what there is in the environment: `LISTEN_PID`, the process that it is for; `LISTEN_FDS`, how many
  descriptors there are, from 3 on; and `LISTEN_FDNAMES`, their names, separated by colons. The variables
  are read each time that somebody asks, and never changed.
  """

  alias Reactor.ConfigError

  @first 3
  # More than a process can have open.
  @many 1_048_576

  @typedoc "One socket: its descriptor, its name, and its place among them, from 0."
  @type passed :: %{fd: pos_integer, name: String.t(), index: non_neg_integer}

  @typedoc """
    * `:none` - no socket was passed: `LISTEN_FDS` or `LISTEN_PID` is not set, or there are 0
    * `{:other_process, pid}` - they were passed to another process, and the environment was inherited from it
    * `{:invalid, variable, value}` - a variable that is not as it is specified
  """
  @type reason ::
          :none | {:other_process, pos_integer} | {:invalid, String.t(), String.t()}

  @doc """
  The sockets that were passed to this VM, in order. One without a name is called `"unknown"`.

  They stay open, and are nobody's: a server works with a descriptor of its own for the same socket.
  """
  @spec listen_fds() :: {:ok, [passed, ...]} | {:error, reason}
  def listen_fds do
    with {:ok, pid} <- number("LISTEN_PID", 1..4_294_967_295),
         :ok <- mine(pid),
         {:ok, count} <- number("LISTEN_FDS", 0..@many),
         {:ok, names} <- names(count) do
      {:ok,
       for {name, index} <- Enum.with_index(names) do
         %{fd: @first + index, name: name, index: index}
       end}
    end
  end

  defp number(variable, range) do
    case System.get_env(variable) do
      nil -> {:error, :none}
      value -> number(variable, range, value, Integer.parse(value))
    end
  end

  defp number(variable, range, value, parsed) do
    with {number, ""} <- parsed, true <- number in range do
      {:ok, number}
    else
      _no_number -> {:error, {:invalid, variable, value}}
    end
  end

  defp mine(pid) do
    if Integer.to_string(pid) == System.pid(), do: :ok, else: {:error, {:other_process, pid}}
  end

  defp names(0), do: {:error, :none}

  defp names(count) do
    case System.get_env("LISTEN_FDNAMES") do
      nil ->
        {:ok, List.duplicate("unknown", count)}

      value ->
        names = String.split(value, ":")

        if length(names) == count,
          do: {:ok, names},
          else: {:error, {:invalid, "LISTEN_FDNAMES", value}}
    end
  end

  @doc false
  # The descriptor that a listener's option means.
  @spec fetch(String.t() | non_neg_integer) :: {:ok, pos_integer} | {:error, ConfigError.t()}
  def fetch(wanted) do
    with {:ok, passed} <- listen_fds(),
         [%{fd: fd}] <- Enum.filter(passed, &(wanted in [&1.name, &1.index])) do
      {:ok, fd}
    else
      {:error, reason} -> refused(wanted, "this VM was passed none: #{text(reason)}")
      [] -> refused(wanted, "there are: #{list()}")
      _several -> refused(wanted, "several have this name, take an index; there are: #{list()}")
    end
  end

  defp refused(wanted, text) do
    expected = "a socket that systemd has passed (#{text})"
    {:error, %ConfigError{option: :fd, value: {:systemd, wanted}, expected: expected}}
  end

  defp list do
    {:ok, passed} = listen_fds()
    Enum.map_join(passed, ", ", &"#{&1.index} #{inspect(&1.name)}")
  end

  defp text(:none), do: "LISTEN_PID and LISTEN_FDS are not set"
  defp text({:other_process, pid}), do: "LISTEN_PID is #{pid}, this is #{System.pid()}"

  defp text({:invalid, variable, value}) do
    "#{variable} is #{inspect(value, printable_limit: 100)}"
  end
end
