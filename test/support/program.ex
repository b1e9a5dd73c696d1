defmodule Reactor.Program do
  @moduledoc false

  # A program in an OS process of its own that is talked to in lines: a crowd of clients in Python, or a
  # server in a VM of its own. It answers each command with one line, `= key=value key=value ...`;
  # every other line is its log, which is shown when an answer does not come. The end of its
  # standard input is its end.

  import ExUnit.Assertions

  # Open files, for more than 2,000 connections: what the VM that runs the tests may have is often less.
  @many 8_192

  @load Path.expand("load", __DIR__)

  @enforce_keys [:port, :os_pid, :name]
  defstruct [:port, :os_pid, :name]

  @doc "The directory of their Python protocols."
  def protocols, do: Path.join(@load, "protocols")

  @doc "Starts a crowd of clients, which may have so many open files."
  def clients(script, arguments, open_files \\ @many) do
    python = System.find_executable(System.get_env("PYO3_PYTHON", "python3"))
    run(script, open_files, [python, path(script) | text(arguments)])
  end

  @doc """
  Starts a VM that runs a script with this application in its path, and may have so many open files.
  """
  def vm(script, open_files \\ @many, arguments) do
    ebin = Path.join(:code.lib_dir(:reactor), "ebin")
    elixir = System.find_executable("elixir")
    run(script, open_files, [elixir, "-pa", ebin, path(script) | text(arguments)])
  end

  @doc "Sends a command and returns its answer, a map of numbers, or of lists of them."
  def ask(%{port: port} = program, command, timeout \\ 60_000) do
    true = Port.command(port, command <> "\n")
    answer(program, timeout)
  end

  @doc "Waits for the answer to a command, or for the line that a program begins with."
  def answer(program, timeout \\ 60_000) do
    await(program, System.monotonic_time(:millisecond) + timeout, [])
  end

  @doc "Ends a program, and waits until it is gone."
  def stop(%{port: port, os_pid: os_pid}) do
    Port.close(port)
    assert Reactor.TransportCase.eventually(fn -> not File.exists?("/proc/#{os_pid}/stat") end)
  end

  @doc "The CPU time that it has used so far, user and system, in ms."
  def cpu_ms(%{os_pid: os_pid}) do
    # The name, in parentheses, may hold anything: fields are counted from behind it.
    fields = "/proc/#{os_pid}/stat" |> File.read!() |> String.split(")") |> List.last()
    [user, system] = fields |> String.split() |> Enum.slice(11, 2)
    # In ticks of 10 ms, on every Linux.
    10 * (String.to_integer(user) + String.to_integer(system))
  end

  defp run(name, open_files, command) do
    port =
      Port.open({:spawn_executable, System.find_executable("sh")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 100_000,
        args: ["-c", "ulimit -n #{open_files} && exec \"$@\"", "sh" | command]
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %__MODULE__{port: port, os_pid: os_pid, name: name}
  end

  defp await(%{port: port} = program, deadline, log) do
    receive do
      {^port, {:data, {:eol, "=" <> answer}}} ->
        parse(answer)

      {^port, {:data, {_eol, line}}} ->
        await(program, deadline, [log, line, "\n"])

      {^port, {:exit_status, status}} ->
        flunk("#{program.name} ended with status #{status}:\n#{log}")
    after
      max(deadline - System.monotonic_time(:millisecond), 0) ->
        flunk("#{program.name} did not answer:\n#{log}")
    end
  end

  defp parse(answer) do
    for pair <- String.split(answer), into: %{} do
      [key, value] = String.split(pair, "=")
      {String.to_atom(key), value(value)}
    end
  end

  defp value(text) do
    if text =~ ",",
      do: text |> String.split(",", trim: true) |> Enum.map(&number/1),
      else: number(text)
  end

  defp number(text) do
    case Integer.parse(text) do
      {number, ""} -> number
      _ -> String.to_float(text)
    end
  end

  defp path(script), do: Path.join(@load, script)

  defp text(arguments) do
    Enum.map(arguments, fn
      text when is_binary(text) -> text
      term -> inspect(term, limit: :infinity)
    end)
  end
end
