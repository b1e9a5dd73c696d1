defmodule Reactor.Port.Output do
  @moduledoc false

  # What a child prints goes to Logger, a line at a time. Its stdout and stderr are two connections to a Unix socket
  # of ours, and not the port's pipes: so what it printed last is read also when it has crashed, what C or a program that
  # it starts prints comes too, and who prints faster than Logger takes it has to wait, and nobody else.

  require Logger

  # Of a line: what is longer becomes several.
  @longest 16 * 1_024

  # What a path of a Unix socket may have.
  @longest_path 100

  @streams [stdout: :info, stderr: :warning]

  @doc "Listens, for one child. Returns the path, and who reads, under `tasks`."
  @spec start(Supervisor.supervisor(), timeout, keyword) ::
          {:ok, Path.t(), pid} | {:error, {:output, term}}
  def start(tasks, timeout, metadata) do
    with {:ok, directory} <- directory(),
         path = Path.join(directory, "output"),
         {:ok, listener} <- listen(path) do
      {:ok, reader} = Task.Supervisor.start_child(tasks, fn -> serve(timeout, metadata) end)
      :ok = :gen_tcp.controlling_process(listener, reader)
      send(reader, {:listener, listener, directory})
      {:ok, path, reader}
    else
      {:error, reason} -> {:error, {:output, reason}}
    end
  end

  @doc "The child runs, or does not."
  @spec started(pid, pos_integer | nil | :failed) :: term
  def started(reader, os_pid), do: send(reader, {:started, os_pid})

  @doc "Removes what is left of the socket, if the child did not come so far as to connect."
  @spec clean(Path.t()) :: term
  def clean(path), do: path |> Path.dirname() |> File.rm_rf()

  # Of this user alone, since whoever connects can write into the log.
  defp directory do
    name = "reactor-" <> Base.encode32(:crypto.strong_rand_bytes(10), case: :lower)
    parents = [System.tmp_dir() || "/tmp", "/tmp"]
    parent = Enum.find(parents, "/tmp", &(byte_size(&1) + byte_size(name) < @longest_path - 10))
    directory = Path.join(parent, name)

    with :ok <- File.mkdir(directory),
         :ok <- File.chmod(directory, 0o700),
         do: {:ok, directory}
  end

  defp listen(path) do
    :gen_tcp.listen(0, [
      :binary,
      ifaddr: {:local, path},
      active: false,
      packet: :line,
      buffer: @longest,
      recbuf: @longest
    ])
  end

  defp serve(timeout, metadata) do
    receive do
      {:listener, listener, directory} ->
        try do
          receive do
            {:started, :failed} -> []
            {:started, os_pid} -> {accept(listener, timeout), os_pid}
          end
        after
          :gen_tcp.close(listener)
          File.rm_rf(directory)
        end
    end
    |> case do
      [] ->
        :ok

      {streams, os_pid} ->
        # Whoever ends it waits for a moment: what a child says last, when it cannot start, is read to its end.
        Process.flag(:trap_exit, true)
        read(streams, Keyword.put(metadata, :os_pid, os_pid))
    end
  end

  # It connects in this order, and both before its script begins.
  defp accept(listener, timeout) do
    Enum.reduce_while(@streams, %{}, fn stream, streams ->
      case :gen_tcp.accept(listener, timeout) do
        {:ok, socket} ->
          :inet.setopts(socket, active: :once)
          {:cont, Map.put(streams, socket, stream)}

        {:error, _timeout} ->
          {:halt, streams}
      end
    end)
  end

  defp read(streams, _metadata) when streams == %{}, do: :ok

  defp read(streams, metadata) do
    receive do
      {:tcp, socket, line} ->
        log(line, streams[socket], metadata)
        :inet.setopts(socket, active: :once)
        read(streams, metadata)

      {:tcp_closed, socket} ->
        read(Map.delete(streams, socket), metadata)

      {:tcp_error, socket, _reason} ->
        read(Map.delete(streams, socket), metadata)
    end
  end

  defp log(line, {stream, level}, metadata) do
    text = line |> String.trim_trailing("\n") |> String.trim_trailing("\r")
    # What is no UTF-8 is shown byte by byte.
    text = if String.valid?(text), do: text, else: :unicode.characters_to_binary(text, :latin1)
    Logger.log(level, text, [logger: Atom.to_string(stream)] ++ metadata)
  end
end
