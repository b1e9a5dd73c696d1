defmodule Reactor.Telemetry do
  # Each event: when it comes, its measurements, and its metadata beside that of the server. The
  # documentation below is made of this, and the tests compare what is emitted with it.

  @server [
    module: "the server's module; `Reactor.Python` for a context that belongs to no server",
    name: "the server's `:name`, or `nil`; the context's, which is text if it was given none",
    ip: "the address that it listens on; `{:local, path}` of a Unix socket, `nil` of a context",
    port: "the port that is really bound; 0 of a Unix socket, `nil` of a context"
  ]

  @connection [
    id: "the connection's number, `Reactor.Connection.id/1`",
    remote:
      "`{ip, port}` of the peer, `{:local, path}` of a Unix socket, or `nil` if it is not known"
  ]

  @child [
    pool:
      "the name of the `Reactor.Port`, as text; that of its script or command if it was given none",
    child: "the child's number in it, from 1",
    os_pid: "the number of its process, or `nil` of one that could not be started"
  ]

  @moment [monotonic_time: "when, as of `System.monotonic_time/0`"]
  @start [system_time: "when, as of `System.system_time/0`"] ++ @moment
  @stop [duration: "since the start"] ++ @moment
  @span [telemetry_span_context: "the same for the start and the stop"]

  @events [
    %{
      name: [:reactor, :listener, :start],
      when: "A server listens.",
      measurements: @start,
      metadata: @server ++ @span
    },
    %{
      name: [:reactor, :listener, :stop],
      when: "A server has stopped; its connections are gone.",
      measurements: @stop,
      metadata: @server ++ @span
    },
    %{
      name: [:reactor, :listener, :suspend],
      when: "`Reactor.suspend/1`, or a drain, has closed the listening socket.",
      measurements: @moment,
      metadata: @server
    },
    %{
      name: [:reactor, :listener, :resume],
      when: "`Reactor.resume/1` has it listen again.",
      measurements: @moment,
      metadata: @server
    },
    %{
      name: [:reactor, :listener, :saturated],
      when: """
      Clients have to wait, or are refused, because of a limit. Once per episode; an episode is over
      after a second without.
      """,
      measurements: @moment,
      metadata:
        @server ++
          [
            reason: "the limit: `:max_connections` or `:accept_rate`",
            limit: "its value"
          ]
    },
    %{
      name: [:reactor, :drain, :start],
      when: "A server begins to drain, since it stops or by `Reactor.drain/2`.",
      measurements: @start ++ [connections: "how many are open"],
      metadata: @server ++ @span ++ [timeout: "how long they have, in ms"]
    },
    %{
      name: [:reactor, :drain, :stop],
      when: "It is drained.",
      measurements:
        @stop ++
          [
            connections: "how many were open when it began, or came while it lasted",
            finished: "how many of them ended in time",
            cut: "how many were cut off"
          ],
      metadata: @server ++ @span
    },
    %{
      name: [:reactor, :connection, :start],
      when: "A connection is open.",
      measurements: @start,
      metadata: @server ++ @connection ++ @span
    },
    %{
      name: [:reactor, :connection, :stop],
      when: "A connection is closed.",
      measurements:
        @stop ++
          [
            received: "bytes",
            sent: "bytes; with `:tcp` and `:ssl` both are 0 of one that its handler closed itself"
          ],
      metadata:
        @server ++
          @connection ++
          @span ++
          [
            reason: """
            `:local` (closed by its handler), `:remote` (the peer ended it), `:reset`,
            `:owner_down` (its handler died), `:context_died` (the process that its Python protocol was in), `:exception` (its Python protocol raised),
            `:callback_timeout` (a callback took too long), `:moved`,
            `:drained` and `:cut` (by a drain; a datagram socket is `:drained` by a suspend too), or the deadline that cut it:
            `:first_byte_timeout`, `:idle_timeout`, `:stall_timeout`, `:max_lifetime`, `:min_rate`;
            with TLS also `:handshake` (both sides did not agree, or the client went away),
            `:handshake_timeout`, `:tls_alert` (what came was no TLS, or was tampered with) and
            `:truncated` (the peer ended the stream without saying so in TLS);
            `:proxy` and `:proxy_timeout` (a trusted peer did not send a good PROXY header, or not in time);
            else what the operating system said, or why its handshake by `:ssl` failed
            """
          ]
    },
    %{
      name: [:reactor, :connection, :rejected],
      when: """
      Clients were closed at once, because of a limit. For each reason at most once a second, with
      how many there were.
      """,
      measurements: @moment ++ [count: "connections"],
      metadata:
        @server ++
          [reason: "`:max_connections`, `:max_connections_per_ip`, `:emfile` or `:enfile`"]
    },
    %{
      name: [:reactor, :connection, :profile],
      when: """
      A handler has ended, and the server has `profile: true`. Of one that failed, its work and memory
      are not known, and left out.
      """,
      measurements:
        @moment ++
          [
            duration: "how long the handler lived",
            run_time: "how long it ran in that time",
            reductions: "its work, as the VM counts it",
            memory: "bytes that its process had at the end",
            garbage_collections: "how many"
          ],
      metadata: @server ++ @connection
    },
    %{
      name: [:reactor, :accept, :error],
      when: """
      Accepting failed, and is tried again. Once per episode, however often it is tried.
      """,
      measurements: @moment,
      metadata: @server ++ [reason: "`:emfile`, `:enfile` and the like, or why `accept/1` failed"]
    },
    %{
      name: [:reactor, :handler, :exit],
      when: """
      An Elixir handler ended other than `:normal` or by a shutdown. Of one that was killed from outside
      `id` and `remote` may be `nil`.
      """,
      measurements: @moment,
      metadata:
        @server ++
          @connection ++
          [
            pid: "its process",
            kind: "`:error`, `:throw` or `:exit`",
            reason: "the exception, or what was thrown or exited with",
            stacktrace: "where; `[]` for an exit"
          ]
    },
    %{
      name: [:reactor, :python, :exception],
      when: "A Python protocol raised; its connection is closed.",
      measurements: @moment,
      metadata:
        @server ++
          @connection ++
          [
            callback: "the method, as `\"data_received\"`, or `\"factory\"`",
            kind: "`:error`",
            reason: "a `t:Reactor.Python.Error.t/0`, with the traceback",
            stacktrace: "`[]`"
          ]
    },
    %{
      name: [:reactor, :python, :stuck],
      when: """
      A callback of a Python protocol goes on though it was interrupted, half a second after its
      `:callback_timeout`: it waits outside of Python, or catches everything. Once per callback. Its context serves
      nobody else until it returns.
      """,
      measurements: @moment ++ [duration: "since it was called"],
      metadata:
        @server ++
          [
            id: "the number of its connection, or `nil`",
            callback: "the method, as `\"data_received\"`"
          ]
    },
    %{
      name: [:reactor, :python, :load],
      when:
        "About once a second for each Python context that is busy: what it did since the last.",
      measurements:
        @moment ++
          [
            turns: "times that it took the GIL",
            calls: "callbacks",
            callback_time: "time in Python",
            longest_turn:
              "the longest time in Python before the other connections had their turn",
            gil_wait: "time that it waited for the GIL",
            longest_gil_wait: "the longest such wait",
            busy_time: "time that its loop did not spend waiting for something to happen",
            lag:
              "the longest turn of its loop, with reads, the wait for the GIL, callbacks and writes: so long " <>
                "what came may have waited to be seen"
          ],
      metadata: @server ++ [context: "its name, as `\"echo:EchoProtocol/1\"`"]
    },
    %{
      name: [:reactor, :port, :start],
      when: "A child of a `Reactor.Port` was started.",
      measurements: @start,
      metadata: @child ++ @span
    },
    %{
      name: [:reactor, :port, :stop],
      when: "It has ended.",
      measurements: @stop,
      metadata:
        @child ++
          @span ++
          [
            reason:
              "`:shutdown` (its port was stopped), `{:exit, status}`, `:closed`, `:hang`, `:bad_frame` or `:start_timeout`"
          ]
    },
    %{
      name: [:reactor, :port, :restart],
      when: "One that has ended, or could not be started, will be started again.",
      measurements: @moment ++ [delay: "ms until then"],
      metadata: @child ++ [reason: "why: as of the stop, or an error of the start"]
    },
    %{
      name: [:reactor, :port, :call],
      when: "A call has its result. It comes from the process that calls.",
      measurements: @moment ++ [duration: "how long it took"],
      metadata: [
        pool: "the name of the `Reactor.Port`, as text",
        function: "what was called",
        result: "`:ok`, `:exception` where the function raised, or the atom that names the error"
      ]
    },
    %{
      name: [:reactor, :loop, :load],
      when: "About once a second for each event loop that is busy: what it did since the last.",
      measurements:
        @moment ++
          [
            turns: "times that it polled and found something to do",
            busy_time: "time that was not spent waiting",
            longest_turn: "the longest time before the other connections had their turn: its lag"
          ],
      metadata: [loop: "its name"]
    }
  ]

  # How one of them is written below.
  describe = fn event ->
    item = fn {key, text} ->
      "`:#{key}` - " <> (text |> String.trim() |> String.replace("\n", " "))
    end

    list = fn
      [] -> " none"
      keys -> "\n" <> Enum.map_join(keys, "\n", &("      * " <> item.(&1)))
    end

    """
    ### `#{inspect(event.name)}`

    #{String.trim(event.when)}

      * measurements:#{list.(event.measurements)}
      * metadata:#{list.(event.metadata -- @server)}
    """
  end

  @moduledoc """
  What a server tells of itself while it runs.

  Events go to `:telemetry` if that application runs, and to `Reactor.Logger` if it is attached.
  Reactor does not depend on `:telemetry`. Without either, nothing is measured and nothing is sent.

      :telemetry.attach("traffic", [:reactor, :connection, :stop], &MyApp.Metrics.traffic/4, nil)

      def traffic(_event, %{sent: sent, duration: duration}, %{port: port, reason: reason}, _config)

  Whether `:telemetry` runs is looked at when a server starts, see `refresh/0`. With
  `config :reactor, telemetry: false` no event goes there.

  ## How they come

  Times are in `:native` units, unless it says otherwise. Spans are as those of `:telemetry.span/3`.

  The loops collect what happens to connections, and each server has a process that emits it: in order,
  a moment later, and not on the connections' time. A slow event handler therefore delays events and
  nothing else. If that process falls far behind, events of connections are dropped, and a
  warning with their number is logged. A handler that fails disturbs no server.

  Every event but `[:reactor, :loop, :load]` and those of a port has the metadata of its server:

  #{Enum.map_join(@server, "\n", fn {key, text} -> "  * `:#{key}` - #{text}" end)}

  ## Events

  #{Enum.map_join(@events, "\n", describe)}
  """

  require Logger

  alias Reactor.Native

  @type event :: [atom, ...]

  @doc """
  The names of all events.

      iex> [:reactor, :connection, :stop] in Reactor.Telemetry.events()
      true

  So `:telemetry.attach_many("all", Reactor.Telemetry.events(), handler, nil)` gets everything.
  """
  @spec events() :: [event]
  def events, do: unquote(Enum.map(@events, & &1.name))

  @doc false
  @spec keys(event) :: %{measurements: [atom], metadata: [atom]}
  for %{name: name, measurements: measurements, metadata: metadata} <- @events do
    def keys(unquote(name)) do
      %{
        measurements: unquote(Keyword.keys(measurements)),
        metadata: unquote(Keyword.keys(metadata))
      }
    end
  end

  @doc """
  Whether events go anywhere: `:telemetry` was there at the last look, or `Reactor.Logger` is attached.

  It costs next to nothing.

      iex> is_boolean(Reactor.Telemetry.enabled?())
      true
  """
  @spec enabled?() :: boolean
  def enabled?, do: telemetry?() or Reactor.Logger.level() != nil

  @doc """
  Looks whether `:telemetry` runs now, and has events sent to it if so, and no more if it was stopped.

  Every start of a server does this: it is only to be called if `:telemetry` is started, or stopped, later
  than all servers. Returns what `enabled?/0` then does.

      iex> Reactor.Telemetry.refresh() == Reactor.Telemetry.enabled?()
      true
  """
  @spec refresh() :: boolean
  def refresh do
    :persistent_term.put(__MODULE__, if(look(), do: :telemetry))
    switch(enabled?())
  end

  # Two may do this at the same time: the last one to write looks at what is true then.
  defp switch(on?) do
    Native.reporting(on?)
    if enabled?() == on?, do: on?, else: switch(not on?)
  end

  defp look do
    Application.get_env(:reactor, :telemetry, true) and
      Code.ensure_loaded?(:telemetry) and function_exported?(:telemetry, :execute, 3) and runs?()
  end

  # Of an application that is there and does not run, every event would be a warning in the log.
  defp runs? do
    case :application.get_application(:telemetry) do
      {:ok, application} -> List.keymember?(Application.started_applications(), application, 0)
      :undefined -> true
    end
  end

  defp telemetry?, do: telemetry() != nil

  # The module, if it is there: it need not be when this is compiled.
  defp telemetry, do: :persistent_term.get(__MODULE__, nil)

  @doc false
  # Never fails: whoever has something to tell must not end because of who listens.
  @spec execute(event, map, map) :: :ok
  def execute(event, measurements, metadata) do
    if telemetry = telemetry() do
      safely(event, fn -> telemetry.execute(event, measurements, metadata) end)
    end

    if Reactor.Logger.level() do
      safely(event, fn -> Reactor.Logger.log(event, measurements, metadata) end)
    end

    :ok
  end

  # :telemetry detaches a handler that fails; this is for what else can go wrong on the way.
  defp safely(event, emit) do
    emit.()
  catch
    kind, _reason_with_metadata ->
      Logger.error("Reactor: the event #{inspect(event)} was lost, emitting it failed (#{kind})")
  end

  @doc false
  # Begins a span, and returns what its end needs.
  @spec start(event, map, map) :: {integer, reference}
  def start(prefix, measurements, metadata) do
    now = System.monotonic_time()
    context = make_ref()
    times = %{monotonic_time: now, system_time: now + System.time_offset()}
    metadata = Map.put(metadata, :telemetry_span_context, context)
    execute(prefix ++ [:start], Map.merge(measurements, times), metadata)
    {now, context}
  end

  @doc false
  @spec stop(event, {integer, reference}, map, map) :: :ok
  def stop(prefix, {started, context}, measurements, metadata) do
    now = System.monotonic_time()
    times = %{monotonic_time: now, duration: now - started}
    metadata = Map.put(metadata, :telemetry_span_context, context)
    execute(prefix ++ [:stop], Map.merge(measurements, times), metadata)
  end

  @doc false
  @spec native(nanoseconds :: integer) :: integer
  def native(nanoseconds), do: System.convert_time_unit(nanoseconds, :nanosecond, :native)
end
