defmodule Reactor.Port.Program do
  @moduledoc false

  # The command line and the environment of a child, and its start.

  alias Reactor.Port.Options

  @doc "The Python of ours that a script can import."
  @spec python_path() :: Path.t()
  def python_path, do: :reactor |> :code.priv_dir() |> Path.join("python")

  @doc """
  Starts it; the port is the caller's. `output` is the path of the socket for what it prints, see
  `Reactor.Port.Output`.
  """
  @spec open(Options.t(), Path.t() | nil) :: {:ok, port, pos_integer | nil} | {:error, term}
  def open(options, output) do
    with {:ok, executable, args} <- command(options, output),
         :ok <- directory(options.cd) do
      start(executable, settings(options, args))
    end
  end

  defp start(executable, settings) do
    port = Port.open({:spawn_executable, executable}, settings)

    case Port.info(port, :os_pid) do
      {:os_pid, pid} -> {:ok, port, pid}
      # It has ended already, and its end is on its way.
      nil -> {:ok, port, nil}
    end
  rescue
    error in ErlangError -> {:error, {error.original, executable}}
    ArgumentError -> {:error, {:badarg, executable}}
  end

  defp settings(options, args) do
    [:binary, :stream, :use_stdio, :exit_status, :hide, args: args, env: env(options)] ++
      if(options.cd, do: [cd: options.cd], else: [])
  end

  defp command(%{script: nil} = options, _output) do
    with {:ok, executable} <- executable(options.command), do: {:ok, executable, options.args}
  end

  defp command(%{script: script} = options, output) do
    with {:ok, python} <- executable(options.python),
         :ok <- if(File.regular?(script), do: :ok, else: {:error, {:enoent, script}}) do
      launch = Path.join(python_path(), "erlang/port/launch.py")
      limits = Enum.flat_map(options.rlimit, fn {name, n} -> ["--limit", "#{name}=#{n}"] end)
      streams = if output, do: ["--output", output], else: []
      {:ok, python, [launch | limits] ++ streams ++ ["--", script | options.args]}
    end
  end

  defp executable(name) do
    case System.find_executable(name) do
      nil -> {:error, {:enoent, name}}
      path -> {:ok, path}
    end
  end

  defp directory(nil), do: :ok
  defp directory(path), do: if(File.dir?(path), do: :ok, else: {:error, {:enoent, path}})

  defp env(options) do
    given = Map.new(options.env)
    # `false` is to take it out.
    inherited = Map.get_lazy(given, "PYTHONPATH", fn -> System.get_env("PYTHONPATH") end) || ""
    paths = [python_path() | options.paths] ++ String.split(inherited, ":", trim: true)

    given
    |> Map.put("PYTHONPATH", Enum.join(paths, ":"))
    |> Map.put("REACTOR_PORT", settings_of(options))
    |> Enum.map(fn {name, value} -> {native(name), value && native(value)} end)
  end

  # See priv/python/erlang/port/settings.py.
  defp settings_of(options) do
    # Before Elixir 1.15 a MapSet had a version in it.
    version = if Version.match?(System.version(), ">= 1.15.0"), do: 0, else: 2

    Enum.join(
      [
        options.protocol,
        options.packet,
        options.max_frame,
        options.max_stream,
        options.shutdown,
        version
      ],
      " "
    )
  end

  # As the emulator writes names: code points if it does so in UTF-8, else bytes.
  defp native(text) do
    case :file.native_name_encoding() do
      :utf8 -> String.to_charlist(text)
      :latin1 -> :binary.bin_to_list(text)
    end
  end
end
