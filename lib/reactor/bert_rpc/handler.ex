defmodule Reactor.BertRpc.Handler do
  @moduledoc false

  # Runs a function that is exposed, in a process of its own with a time and a heap that are limited. A second
  # process watches over it, so that it ends also when the connection's process is killed meanwhile.

  require Logger

  alias Reactor.BertRpc.{Chunks, Error, Options}

  @typedoc "What was asked for, and who does what with the outcome, in the new process."
  @type work :: fun

  @doc "Runs it, and returns what it returned, or that it took too long or too much memory."
  @spec run(work, Options.t()) :: {:ok, term} | {:error, Error.t()}
  def run(work, options) do
    reply = make_ref()
    owner = self()
    started = System.monotonic_time(:millisecond)
    {pid, monitor} = start(fn -> Kernel.send(owner, {reply, work.()}) end, options)

    receive do
      {^reply, outcome} ->
        Process.demonitor(monitor, [:flush])
        {:ok, outcome}

      {:DOWN, ^monitor, :process, ^pid, _killed} ->
        {:error, ended(System.monotonic_time(:millisecond) - started, options)}
    end
  end

  @doc "Runs it beside; the caller is told `:DOWN` when it is over."
  @spec start(work, Options.t()) :: {pid, reference}
  def start(work, options) do
    owner = self()
    {pid, monitor} = :erlang.spawn_opt(work, [:monitor | heap(options.max_heap)])
    spawn(fn -> watch(owner, pid, options.timeout) end)
    {pid, monitor}
  end

  defp heap(:infinity), do: []

  defp heap(bytes) do
    size = div(bytes, :erlang.system_info(:wordsize))
    [max_heap_size: %{size: size, kill: true, error_logger: true}]
  end

  defp watch(owner, pid, timeout) do
    of_owner = Process.monitor(owner)
    of_work = Process.monitor(pid)

    receive do
      {:DOWN, ^of_work, _, _, _} -> :ok
      {:DOWN, ^of_owner, _, _, _} -> Process.exit(pid, :kill)
    after
      timeout -> Process.exit(pid, :kill)
    end
  end

  defp ended(elapsed, %{timeout: timeout}) when elapsed >= timeout do
    %Error{type: :server, class: "Timeout", detail: "it took longer than #{timeout} ms"}
  end

  defp ended(_elapsed, _options) do
    %Error{type: :server, class: "Killed", detail: "it was ended, or took too much memory"}
  end

  @doc """
  Calls a function. What it raises is an error that says no more than where: messages and arguments may hold what
  is not for others, so they are in the log alone, the latter not even there.
  """
  @spec call(module, atom, list) :: {:ok, term} | {:error, Error.t()}
  def call(module, function, args) do
    {:ok, apply(module, function, args)}
  rescue
    error in Error -> {:error, error}
    broken in Chunks.Broken -> reraise broken, __STACKTRACE__
    exception -> {:error, failed(inspect(exception.__struct__), exception, __STACKTRACE__)}
  catch
    :throw, _value -> {:error, failed("Throw", "a throw that nobody caught", __STACKTRACE__)}
    :exit, _reason -> {:error, failed("Exit", "an exit", __STACKTRACE__)}
  end

  defp failed(class, exception, stacktrace) do
    text = if is_binary(exception), do: exception, else: Exception.message(exception)
    backtrace = Enum.map(stacktrace, &place/1)

    Logger.error(fn ->
      ["BERT-RPC: a function failed: ", class, ": ", text | Enum.map(backtrace, &["\n    " | &1])]
    end)

    %Error{
      class: class,
      detail: "the function failed, see the server's log",
      backtrace: backtrace
    }
  end

  # Of a function clause that does not fit the arguments are there in place of the arity.
  defp place({module, function, args, location}) when is_list(args),
    do: place({module, function, length(args), location})

  defp place({module, function, arity, location}),
    do: String.trim(Exception.format_stacktrace_entry({module, function, arity, location}))

  defp place(_other), do: "?"
end
