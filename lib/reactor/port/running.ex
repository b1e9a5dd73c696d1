defmodule Reactor.Port.Running do
  @moduledoc false

  # The process of the operating system that a child is, with who guards it and who reads what it prints.

  alias Reactor.Port.{Guard, Options, Output, Program}

  # For its last lines to be read, in ms.
  @last_lines 500

  @enforce_keys [:port, :guard]
  defstruct [:port, :os_pid, :guard, :output, :output_path]

  @type t :: %__MODULE__{
          port: port,
          os_pid: pos_integer | nil,
          guard: pid,
          output: pid | nil,
          output_path: Path.t() | nil
        }

  @doc "The longest that `finish/1` takes, in ms."
  @spec longest(Options.t()) :: pos_integer
  def longest(options), do: Guard.longest(options) + 2 * @last_lines

  @doc "Starts it. The port is the caller's, its other processes are under `tasks`."
  @spec start(Supervisor.supervisor(), Options.t()) :: {:ok, t} | {:error, term}
  def start(tasks, options) do
    with {:ok, path, output} <- output(tasks, options) do
      case Program.open(options, path) do
        {:ok, port, os_pid} ->
          if output, do: Output.started(output, os_pid)
          guard = Guard.start(tasks, os_pid, options)

          {:ok,
           %__MODULE__{
             port: port,
             os_pid: os_pid,
             guard: guard,
             output: output,
             output_path: path
           }}

        {:error, reason} ->
          if output, do: Output.started(output, :failed)
          clean(path)
          {:error, reason}
      end
    end
  end

  # Only our side of Python connects to it.
  defp output(_tasks, %{script: nil}), do: {:ok, nil, nil}

  defp output(tasks, options) do
    metadata = [port: Options.label(options), target: "python"]
    Output.start(tasks, options.start_timeout, metadata)
  end

  @doc "Kills it. Its exit status comes to the port."
  @spec kill(t) :: term
  def kill(running), do: Guard.kill(running.guard)

  @doc "It has ended: its exit status has come."
  @spec ended(t) :: term
  def ended(running) do
    close(running.port)
    Guard.gone(running.guard)
    clean(running.output_path)
  end

  @doc "Its port has closed by itself, so its exit status will not come. It need not have ended."
  @spec lost(t) :: term
  def lost(running) do
    Guard.lost(running.guard)
    clean(running.output_path)
  end

  @doc "Has it end in order, or else without, and returns when it is gone and its last lines are read."
  @spec finish(t) :: term
  def finish(running) do
    close(running.port)
    Guard.finish(running.guard)
    await_last_lines(running.output)
    clean(running.output_path)
  end

  defp close(port) do
    Port.close(port)
  rescue
    # It has ended.
    ArgumentError -> true
  end

  defp await_last_lines(nil), do: :ok

  defp await_last_lines(output) do
    monitor = Process.monitor(output)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @last_lines -> :ok
    end
  end

  defp clean(nil), do: :ok
  defp clean(path), do: Output.clean(path)
end
