defmodule Reactor.Logger do
  @moduledoc """
  Writes what a server tells (`Reactor.Telemetry`) to `Logger`, a line for each event.

      Reactor.Logger.attach(:info)

      [info] MyApp.Echo listens on 0.0.0.0:8080
      [warning] MyApp.Echo on port 8080: connection 17 from 192.0.2.7:51034 was cut by its idle_timeout after 60.0 s, 12 bytes in, 0 bytes out

  It needs no `:telemetry`, and changes nothing for those who use that.

  | level | logged |
  |---|---|
  | `:error` | handlers that ended abnormally |
  | `:warning` | and limits that are reached, clients that are refused, connections that a deadline cut, drains that had to cut connections |
  | `:info` | and servers that start, stop, are suspended, resumed or drained; children of ports that start and end |
  | `:debug` | and connections that open and close, the load of loops and contexts, calls of ports |

  Without it, and so at no level of it a second time, these are logged:

    * failures to accept, each time it is tried again, or once if no file descriptor is left
    * Python's exceptions, with their tracebacks
    * the profile of each handler, if the server has `profile: true`
    * TLS handshakes that fail, and what `c:Reactor.Behaviour.start/1` returned as `{:error, reason}`
    * by the VM itself: the whole error of an Elixir handler that raised. The line from here adds its connection.

  Lines have the metadata `event` (the name), `listener` (the module), `port`, and for a connection
  `connection` (its id) and `remote`; those of a failure `reason`. Neither a line nor its metadata
  has anything of what was received or sent: of an exception only its name and place.
  """

  require Logger

  alias Reactor.{Address, ConfigError, Python, Telemetry}

  @type level :: :error | :warning | :info | :debug

  # Each has those of a lower number too.
  @levels %{error: 0, warning: 1, info: 2, debug: 3}

  @deadlines [:first_byte_timeout, :idle_timeout, :stall_timeout, :max_lifetime, :min_rate]

  @doc """
  Logs events of this level and of more serious ones, of all servers, from now on.

  It holds until `detach/0` or another `attach/1`, and may be called before any server runs.
  What `Logger` is configured to leave out is left out. Raises `Reactor.ConfigError` for
  anything but a level.

      iex> Reactor.Logger.attach(:warning)
      :ok
      iex> Reactor.Logger.level()
      :warning
      iex> Reactor.Logger.detach()
      :ok

      iex> Reactor.Logger.attach(:verbose)
      ** (Reactor.ConfigError) option :level must be :error, :warning, :info or :debug, got: :verbose
  """
  @spec attach(level) :: :ok
  def attach(level \\ :info)

  def attach(level) when is_map_key(@levels, level) do
    :persistent_term.put(__MODULE__, level)
    Telemetry.refresh()
    :ok
  end

  def attach(level) do
    raise ConfigError,
      option: :level,
      value: level,
      expected: ":error, :warning, :info or :debug"
  end

  @doc """
  Logs no events any more.

      iex> Reactor.Logger.detach()
      :ok
  """
  @spec detach() :: :ok
  def detach do
    :persistent_term.put(__MODULE__, nil)
    Telemetry.refresh()
    :ok
  end

  @doc """
  The level that is attached, or `nil`.
  """
  @spec level() :: level | nil
  def level, do: :persistent_term.get(__MODULE__, nil)

  @doc false
  @spec log(Telemetry.event(), map, map) :: :ok
  def log([:reactor | name] = event, measurements, metadata) do
    level = level_of(name, measurements, metadata)

    if level && @levels[level] <= @levels[level()] do
      Logger.log(
        level,
        fn -> text(name, measurements, metadata) end,
        log_metadata(event, metadata)
      )
    end

    :ok
  end

  # nil: it is in the log without this.
  defp level_of([:accept, :error], _, _), do: nil
  defp level_of([:python, :exception], _, _), do: nil
  defp level_of([:python, :stuck], _, _), do: nil
  defp level_of([:connection, :profile], _, _), do: nil
  defp level_of([:handler, :exit], _, _), do: :error
  defp level_of([:listener, :saturated], _, _), do: :warning
  defp level_of([:connection, :rejected], _, _), do: :warning
  defp level_of([:drain, :stop], %{cut: cut}, _) when cut > 0, do: :warning

  defp level_of([:connection, :stop], _, %{reason: reason}) when reason in @deadlines,
    do: :warning

  defp level_of([:listener, _], _, _), do: :info
  defp level_of([:drain, _], _, _), do: :info
  defp level_of([:port, :call], _, _), do: :debug
  defp level_of([:port, _], _, _), do: :info
  defp level_of(_name, _, _), do: :debug

  defp log_metadata(event, metadata) do
    [
      event: event,
      listener: metadata[:module],
      port: metadata[:port],
      connection: metadata[:id],
      remote: metadata[:remote] && Address.to_text(metadata.remote),
      reason: metadata[:reason] && outline(metadata.reason)
    ]
    |> Enum.filter(fn {_key, value} -> value != nil end)
  end

  # --- one line each --------------------------------------------------------------------------

  defp text([:listener, :start], _, metadata) do
    "#{inspect(metadata.module)} listens on #{Address.to_text({metadata.ip, metadata.port})}"
  end

  defp text([:listener, :stop], %{duration: duration}, metadata) do
    "#{server(metadata)} stopped after #{time(duration)}"
  end

  defp text([:listener, :suspend], _, metadata) do
    "#{server(metadata)} is suspended: it accepts nothing, its connections go on"
  end

  defp text([:listener, :resume], _, metadata), do: "#{server(metadata)} accepts again"

  defp text([:listener, :saturated], _, %{reason: reason, limit: limit} = metadata) do
    "#{server(metadata)} has reached its #{reason} of #{inspect(limit)}"
  end

  defp text([:drain, :start], %{connections: n}, metadata) do
    "#{server(metadata)} drains: #{connections(n)} may take #{patience(metadata.timeout)}"
  end

  defp text([:drain, :stop], %{connections: n, finished: finished, cut: cut} = drain, metadata) do
    "#{server(metadata)} is drained after #{time(drain.duration)}: " <>
      "#{connections(n)}, #{finished} finished, #{cut} cut"
  end

  defp text([:connection, :start], _, metadata), do: "#{connection(metadata)} opened"

  defp text([:connection, :stop], closed, %{reason: reason} = metadata) do
    how =
      if reason in @deadlines,
        do: "was cut by its #{reason}",
        else: "closed (#{outline(reason)})"

    "#{connection(metadata)} #{how} after #{time(closed.duration)}, " <>
      "#{closed.received} bytes in, #{closed.sent} bytes out"
  end

  defp text([:connection, :rejected], %{count: n}, %{reason: reason} = metadata) do
    "#{server(metadata)} refused #{connections(n)}: #{outline(reason)}"
  end

  defp text([:handler, :exit], _, %{kind: kind, reason: reason} = metadata) do
    "#{connection(metadata)}: its handler #{inspect(metadata.pid)} ended abnormally, " <>
      "#{kind} #{outline(reason)}#{place(metadata.stacktrace)}"
  end

  defp text([:python, :load], load, metadata) do
    "#{server(metadata)}: context #{metadata.context} made #{load.calls} calls in #{load.turns} turns: " <>
      "#{time(load.callback_time)} in Python, at most #{time(load.longest_turn)}; " <>
      "#{time(load.gil_wait)} waiting for the GIL, at most #{time(load.longest_gil_wait)}; lag #{time(load.lag)}"
  end

  defp text([:port, :start], _, metadata),
    do: "#{child(metadata)} was started (process #{inspect(metadata.os_pid)})"

  defp text([:port, :stop], %{duration: duration}, metadata),
    do: "#{child(metadata)} ended (#{outline(metadata.reason)}) after #{time(duration)}"

  defp text([:port, :restart], %{delay: delay}, metadata),
    do: "#{child(metadata)} will be started again in #{delay} ms (#{outline(metadata.reason)})"

  defp text([:port, :call], %{duration: duration}, metadata) do
    "port #{metadata.pool}: #{inspect(metadata.function)} took #{time(duration)} (#{outline(metadata.result)})"
  end

  defp text([:loop, :load], load, metadata) do
    "event loop #{metadata.loop}: #{load.turns} turns, busy for #{time(load.busy_time)}, " <>
      "at most #{time(load.longest_turn)}"
  end

  defp text(name, _, metadata), do: "#{server(metadata)}: #{inspect(name)}"

  defp server(%{module: module, ip: {:local, _path} = address}),
    do: "#{inspect(module)} on #{Address.to_text(address)}"

  defp server(%{port: nil, name: name}), do: "Python context #{Python.Directory.text(name)}"
  defp server(%{module: module, port: port}), do: "#{inspect(module)} on port #{port}"

  defp connection(%{id: nil} = metadata), do: "#{server(metadata)}: a connection"

  defp connection(%{id: id, remote: remote} = metadata) do
    "#{server(metadata)}: connection #{id} from #{Address.to_text(remote)}"
  end

  defp child(%{pool: pool, child: child}), do: "port #{pool}: child #{child}"

  defp connections(1), do: "1 connection"
  defp connections(n), do: "#{n} connections"

  defp patience(:infinity), do: "as long as they like"
  defp patience(ms), do: "#{ms} ms"

  defp time(native) do
    case System.convert_time_unit(native, :native, :microsecond) do
      us when us < 10_000 -> "#{us} µs"
      us when us < 10_000_000 -> "#{div(us, 1_000)} ms"
      us -> "#{div(us, 100_000) / 10} s"
    end
  end

  # What kind of reason it is, and no more: one may hold what the peer sent.
  defp outline(reason) when is_atom(reason), do: inspect(reason)
  defp outline(%{__exception__: true, __struct__: name}), do: inspect(name)

  defp outline({:exit, status}) when is_integer(status), do: "{:exit, #{status}}"

  defp outline(reason) when is_tuple(reason) and tuple_size(reason) > 0 do
    case elem(reason, 0) do
      name when is_atom(name) -> "{#{inspect(name)}, ...}"
      _other -> "{...}"
    end
  end

  defp outline(_reason), do: "..."

  defp place([{module, function, arguments, location} | _]) do
    arity = if is_list(arguments), do: length(arguments), else: arguments
    line = Exception.format_file_line(location[:file], location[:line])

    " in " <>
      String.trim_trailing("#{Exception.format_mfa(module, function, arity)} #{line}", ":")
  end

  defp place(_none), do: ""
end
