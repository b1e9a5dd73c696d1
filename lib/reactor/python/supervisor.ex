defmodule Reactor.Python.Supervisor do
  @moduledoc false

  # The Python contexts of one server, a process each. One that dies is started again;
  # the others go on accepting from the same listening socket.

  use Supervisor

  alias Reactor.{Native, Python, Server}
  alias Reactor.Python.Context

  # Of contexts that are processes: how often one may be started again, in seconds. What a client sends may
  # end a process each time, and the listener goes on all the same: what they wait before they start
  # again, below, keeps far below this.
  @process_restarts 20
  @process_seconds 5

  # Such a context that lived for so long is started again at once, in ms. The others wait: twice as long each
  # time, from 50 ms on, but never longer than a second.
  @settled 10_000
  @shortest_pause 50
  @longest_pause 1_000

  # How many contexts are asked at a time.
  @together 64

  @spec start_link(Server.board()) :: Supervisor.on_start()
  def start_link(board), do: Supervisor.start_link(__MODULE__, board)

  @doc "The processes of the contexts that run."
  @spec contexts(pid) :: [pid]
  def contexts(supervisor) do
    for {_id, pid, _type, _modules} <- Supervisor.which_children(supervisor), is_pid(pid), do: pid
  end

  @doc """
  Has `python` make the protocols of connections that come from now on, in each context. If one
  cannot, those that could go back to what `board` says, and its error is returned.
  """
  @spec swap(Server.board(), String.t()) :: :ok | {:error, Python.Error.t()}
  def swap(board, python) do
    with {:error, error} <- swap_all(board, python, []) do
      %{python: before} = Server.listener(board)
      # What was imported once is there; a context that ends meanwhile starts with it anyway.
      safely(fn ->
        for context <- Server.contexts(board), do: safely(fn -> Context.swap(context, before) end)
      end)

      {:error, error}
    end
  end

  # One that was started anew meanwhile has begun with what was there before.
  defp swap_all(board, python, asked) do
    case safely(fn -> board |> Server.contexts() |> Kernel.--(asked) end) do
      {:error, error} ->
        {:error, error}

      [] ->
        :ok

      contexts ->
        with :ok <- each(contexts, &Context.swap(&1, python)) do
          swap_all(board, python, contexts ++ asked)
        end
    end
  end

  @doc "Has each context accept from this listening socket."
  @spec serve(Server.board(), Native.listening_socket()) :: :ok | {:error, Python.Error.t()}
  def serve(board, socket) do
    with contexts when is_list(contexts) <- safely(fn -> Server.contexts(board) end) do
      each(contexts, &Context.serve(&1, socket))
    end
  end

  defp each(contexts, ask) do
    Enum.reduce_while(contexts, :ok, fn context, :ok ->
      case safely(fn -> ask.(context) end) do
        :ok -> {:cont, :ok}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
  end

  # A context may end, by a crash of its thread or a kill, before it answers.
  defp safely(ask) do
    ask.()
  catch
    :exit, _reason ->
      {:error, %Python.Error{type: "RuntimeError", message: "the context ended"}}
  end

  @doc """
  Gives a connection of the caller to one context after the other: see `Context.adopt/3`. One that hangs is passed
  over while there are others.

  Returns `{:error, :closed}` if the connection is closed, or if no context runs; and what else
  `Context.adopt/3` returns.
  """
  @spec adopt(Server.board(), Native.socket(), String.t()) :: :ok | {:error, Native.reason()}
  def adopt(board, socket, python) do
    %{contexts: n} = Server.listener(board)

    with {:error, :closed} <- adopt(board, socket, python, n, n, &Native.context_is_deaf/1) do
      adopt(board, socket, python, n, n, fn _context -> false end)
    end
  end

  defp adopt(_board, _socket, _python, _n, 0, _passed_over?), do: {:error, :closed}

  # One that has just died is passed over.
  defp adopt(board, socket, python, n, left, passed_over?) do
    turn = :ets.update_counter(board, :context_turn, {2, 1}, {:context_turn, 0})
    found = :ets.lookup(board, {:native_context, rem(turn, n) + 1})

    case ask(found, socket, python, passed_over?) do
      {:error, :closed} -> adopt(board, socket, python, n, left - 1, passed_over?)
      result -> result
    end
  end

  defp ask([], _socket, _python, _passed_over?), do: {:error, :closed}

  # One that died may not be stopped altogether yet.
  defp ask([{_, context, process}], socket, python, passed_over?) do
    if Process.alive?(process) and not passed_over?.(context),
      do: Context.adopt(context, socket, python),
      else: {:error, :closed}
  end

  @doc """
  Has contexts in processes of their own say what has gone through their connections, for whoever looks at
  these next. What a process that hangs has to say is left as it was.
  """
  @spec survey(Server.board()) :: :ok
  def survey(board) do
    board
    |> Server.contexts()
    |> Task.async_stream(&Context.survey/1, max_concurrency: @together, timeout: :infinity)
    |> Stream.run()
  catch
    # The server ends.
    :exit, _reason -> :ok
  end

  @doc "The Python of the first of the contexts that are processes; nil if none is there."
  @spec interpreter(Server.board()) :: map | nil
  def interpreter(board) do
    found =
      for [context] <- :ets.match(board, {{:native_context, :_}, :"$1", :_}),
          own = Native.context_interpreter(context),
          do: Map.delete(own, :os_pid)

    List.first(found)
  end

  @doc "Notes the native side of a context, whose process this is, for `adopt/3`."
  @spec put_context(Server.board(), pos_integer, Native.context()) :: true
  def put_context(board, index, context),
    do: :ets.insert(board, {{:native_context, index}, context, self()})

  @impl true
  def init(board) do
    Server.register(board, :contexts)
    %{contexts: n} = Server.listener(board)

    children =
      for index <- 1..n do
        Supervisor.child_spec({Context, {board, index}}, id: index)
      end

    Supervisor.init(children, [strategy: :one_for_one] ++ intensity(Server.listener(board)))
  end

  defp intensity(%{isolation: :process, contexts: n}),
    do: [max_restarts: @process_restarts * n, max_seconds: @process_seconds]

  defp intensity(_in_vm), do: []

  @doc """
  How long a context of the board waits before it starts, in ms, if it is a process and died too often: see
  `Reactor.Python.Pause`. The first time it is started again at once.
  """
  @spec pause(Server.board(), pos_integer) :: non_neg_integer
  def pause(board, index) do
    if Server.listener(board).isolation == :process do
      now = System.monotonic_time(:millisecond)
      deaths = deaths(:ets.lookup(board, {:context_deaths, index}), now)
      :ets.insert(board, {{:context_deaths, index}, deaths, now})
      if deaths > 1, do: pause_after(deaths), else: 0
    else
      0
    end
  end

  defp deaths([{_, deaths, since}], now) when now - since < @settled, do: deaths + 1
  # Its first start, or it was well for long.
  defp deaths([{_, _deaths, _since}], _now), do: 1
  defp deaths([], _now), do: 0

  defp pause_after(deaths),
    do: min(@shortest_pause * Integer.pow(2, min(deaths - 2, 10)), @longest_pause)
end
