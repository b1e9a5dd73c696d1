defmodule Reactor.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :reactor,
      version: @version,
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      compilers: [:reactor_nif] ++ Mix.compilers(),
      elixirc_paths: elixirc_paths(Mix.env()),
      # A warning must not break somebody's build of this as a dependency.
      elixirc_options: [warnings_as_errors: Mix.env() != :prod],
      test_ignore_filters: [&String.starts_with?(&1, "test/support/")],
      deps: [],
      name: "Reactor",
      description: description(),
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [mod: {Reactor.Application, []}] ++
      applications(Version.match?(System.version(), ">= 1.15.0"))
  end

  # Where :ssl is installed it is started first, and part of a release; elsewhere everything but TLS works.
  # :telemetry is not among these: Elixir warns of an optional application that is not there.
  defp applications(true), do: [extra_applications: [:logger, ssl: :optional]]

  # Before, Mix left optional ones out of everything.
  defp applications(false) do
    ssl = if is_list(:code.lib_dir(:ssl)), do: [:ssl], else: []
    [extra_applications: [:logger] ++ ssl, optional_applications: ssl]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_), do: ["lib"]

  defp description do
    "Socket servers whose protocol is written in Elixir or in Python, driven by one Rust event loop."
  end

  defp package do
    [
      # Hex already has a package called reactor, which defines the same module.
      name: "reactor_server",
      licenses: ["Apache-2.0"],
      links: %{},
      files: ~w(
        lib mix.exs .formatter.exs README.md CHANGELOG.md LICENSE
        priv/python src
        native/reactor_nif/Cargo.toml native/reactor_nif/Cargo.lock
        native/reactor_nif/build.rs native/reactor_nif/.cargo native/reactor_nif/src
      )
    ]
  end

  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      extras: ["README.md", "CHANGELOG.md"] ++ Path.wildcard("docs/*.md"),
      groups_for_modules: [
        Sockets: [
          Reactor.Connection,
          Reactor.Proxy,
          Reactor.Socket,
          Reactor.Socket.Options,
          Reactor.Socket.Error,
          Reactor.Systemd
        ],
        Transports: [
          Reactor.Transport,
          Reactor.Transport.Native,
          Reactor.Transport.TCP,
          Reactor.Transport.SSL,
          Reactor.Transport.SSL.Options
        ],
        Seeing: [Reactor.Telemetry, Reactor.Logger],
        Python: [
          Reactor.Port,
          Reactor.Python,
          Reactor.Python.Bytes,
          Reactor.Python.Object,
          Reactor.Python.Doctor
        ],
        Errors: [Reactor.ConfigError, Reactor.Python.Error]
      ]
    ]
  end
end

defmodule Mix.Tasks.Compile.ReactorNif do
  @moduledoc """
  Builds `native/reactor_nif` with cargo and installs the library as `priv/native/reactor_nif.so`, and the
  program of Python contexts that have a process for themselves as `priv/native/reactor_python`.

  It is defined in mix.exs, so that it also exists when this project is a dependency.

  Cargo runs only when something that goes into the library changed: its sources, or the Python
  it is linked with. What the installed library was built from is written beside it, so every
  `MIX_ENV` of one checkout shares one library.

  Environment:

    * `PYO3_PYTHON` - the Python to link with (default: `python3`)
    * `CARGO_TARGET_DIR` - where cargo builds (default: `native/reactor_nif/target`)
  """

  use Mix.Task.Compiler

  @recursive true

  @crate "native/reactor_nif"
  @library "priv/native/reactor_nif.so"
  @program "priv/native/reactor_python"
  @stamp "priv/native/reactor_nif.stamp"
  @min_rust {1, 91}
  @min_python {3, 9}

  # Printed one per line: version, absolute path, header directory, link name of libpython, and the
  # directories where it may be (Debian keeps it under the multiarch directory, pyenv under prefix).
  @python_facts """
  import sys, sysconfig
  v = sysconfig.get_config_var
  print("%d.%d.%d" % sys.version_info[:3])
  print(sys.executable)
  print(sysconfig.get_path("include", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
  print(v("LDLIBRARY") or "")
  dirs = [v("LIBDIR"), v("LIBPL"), sys.base_prefix + "/lib"]
  dirs += [v("LIBDIR") + "/" + v("MULTIARCH")] if v("LIBDIR") and v("MULTIARCH") else []
  print(":".join(d for d in dirs if d))
  print(sys.version.replace("\\n", " "))
  """

  @impl true
  def run(_args) do
    with {:ok, python} <- python() do
      stamp = stamp(python)

      if File.exists?(@library) and File.exists?(@program) and File.read(@stamp) == {:ok, stamp} do
        {:noop, []}
      else
        build(python, stamp)
      end
    end
    |> case do
      {:error, message} when is_binary(message) -> failed(message)
      result -> result
    end
  end

  @impl true
  def manifests, do: []

  @impl true
  def clean do
    File.rm(@stamp)
    File.rm(@library)
    File.rm(@program)
    :ok
  end

  defp build(python, stamp) do
    with {:ok, cargo} <- cargo(),
         :ok <- rust(),
         :ok <- headers(python),
         :ok <- libpython(python),
         :ok <- cargo_build(cargo, python),
         :ok <- install(stamp) do
      {:ok, []}
    end
  end

  # --- what must be there ---------------------------------------------------------------------

  defp python do
    wanted = System.get_env("PYO3_PYTHON", "python3")

    with path when is_binary(path) <- System.find_executable(wanted),
         {output, 0} <- System.cmd(path, ["-c", @python_facts], stderr_to_stdout: true),
         [version, executable, include, library, dirs, build] <-
           String.split(output, "\n", trim: false) |> Enum.take(6) do
      python = %{
        version: version,
        executable: executable,
        include: include,
        library: library,
        dirs: String.split(dirs, ":", trim: true),
        build: build
      }

      if version(version) >= @min_python do
        {:ok, python}
      else
        {:error,
         "#{executable} is Python #{version}, and 3.9 or newer is needed.\n" <>
           "Install one, and name it: PYO3_PYTHON=/path/to/python3 mix compile"}
      end
    else
      nil ->
        {:error,
         "#{wanted} was not found (PYO3_PYTHON, else python3, names the Python to link with).\n" <>
           "Install Python 3.9 or newer; on Debian: apt-get install python3-dev"}

      {output, status} when is_integer(status) ->
        {:error, "#{wanted} does not run (exit status #{status}):\n#{output}"}

      _other ->
        {:error, "#{wanted} did not say which Python it is: is it CPython 3.9 or newer?"}
    end
  end

  defp headers(%{include: include, version: version}) do
    if File.exists?(Path.join(include, "Python.h")) do
      :ok
    else
      {:error,
       "the headers of Python #{version} are missing (no Python.h in #{include}).\n" <>
         "On Debian: apt-get install python3-dev (or python#{short(version)}-dev)"}
    end
  end

  defp libpython(%{dirs: dirs, library: library} = python) do
    shared = "libpython#{short(python.version)}"

    names =
      Enum.filter([library], &(&1 =~ ~r/\.(so|dylib)/)) ++ [shared <> ".so", shared <> ".dylib"]

    if Enum.any?(for(dir <- dirs, name <- names, do: Path.join(dir, name)), &File.exists?/1) do
      :ok
    else
      {:error,
       "#{python.executable} (Python #{python.version}) has no shared library: none of #{Enum.join(Enum.uniq(names), ", ")} " <>
         "is in #{Enum.join(dirs, ", ")}.\n" <>
         "On Debian: apt-get install libpython3-dev (or libpython#{short(python.version)}-dev); " <>
         "with pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force #{python.version}"}
    end
  end

  defp cargo do
    case System.find_executable("cargo") do
      nil ->
        {:error,
         "cargo was not found. Install Rust #{rust_text()} or newer with rustup (https://rustup.rs)."}

      cargo ->
        {:ok, cargo}
    end
  end

  defp rust do
    # In the crate's directory, where a toolchain file would apply.
    case System.cmd("rustc", ["--version"], cd: @crate, stderr_to_stdout: true) do
      {"rustc " <> version, 0} ->
        if version(version) >= @min_rust do
          :ok
        else
          {:error,
           "rustc #{String.trim(version)} is too old: Rust #{rust_text()} or newer is needed.\n" <>
             "With rustup: rustup update stable"}
        end

      {output, _status} ->
        {:error,
         "rustc --version failed; reinstall Rust with rustup (https://rustup.rs):\n#{output}"}
    end
  rescue
    ErlangError ->
      {:error,
       "rustc was not found. Install Rust #{rust_text()} or newer with rustup (https://rustup.rs)."}
  end

  defp rust_text, do: @min_rust |> Tuple.to_list() |> Enum.join(".")

  defp version(text) do
    case Regex.run(~r/^(\d+)\.(\d+)/, text) do
      [_, major, minor] -> {String.to_integer(major), String.to_integer(minor)}
      nil -> {0, 0}
    end
  end

  defp short(version), do: version |> String.split(".") |> Enum.take(2) |> Enum.join(".")

  # --- building -------------------------------------------------------------------------------

  defp cargo_build(cargo, python) do
    Mix.shell().info("Building native/reactor_nif with cargo (Python #{python.version})")

    # Checkouts that share CARGO_TARGET_DIR write a cdylib under the same name, and cargo would take
    # another checkout's for its own. Without the file it must link again. So it is with the program.
    for path <- [
          "release/libreactor_nif.so",
          "release/deps/libreactor_nif.so",
          "release/reactor_python"
        ] do
      File.rm(Path.join(target_dir(), path))
    end

    env = [{"PYO3_PYTHON", python.executable}, {"CARGO_TARGET_DIR", target_dir()}]

    # In the crate's directory cargo finds a .cargo/config.toml and a toolchain file, if there is one.
    case System.cmd(cargo, ["build", "--release"],
           cd: @crate,
           env: env,
           stderr_to_stdout: true,
           into: IO.binstream(:stdio, :line)
         ) do
      {_, 0} ->
        :ok

      {_, status} ->
        {:error, "cargo build failed with exit status #{status}; its output is above"}
    end
  end

  # Rename, never write in place: a running VM may have the old library mapped.
  defp install(stamp) do
    built = Path.join(target_dir(), "release")
    library = Path.join(built, "libreactor_nif.so")
    program = Path.join(built, "reactor_python")
    File.mkdir_p!(Path.dirname(@library))

    with {:library, :ok} <- {:library, replace(@library, &File.cp(library, &1))},
         {:program, :ok} <- {:program, replace(@program, &File.cp(program, &1))},
         {:stamp, :ok} <- {:stamp, replace(@stamp, &File.write(&1, stamp))} do
      :ok
    else
      {what, {:error, reason}} ->
        {:error, "cannot install the #{what} (from #{built}): #{:file.format_error(reason)}"}
    end
  end

  defp replace(path, write) do
    temporary = "#{path}.#{System.pid()}"

    with :ok <- write.(temporary) do
      File.rename(temporary, path)
    end
  end

  defp target_dir do
    case System.get_env("CARGO_TARGET_DIR", "") do
      "" -> Path.expand(Path.join(@crate, "target"))
      dir -> Path.expand(dir)
    end
  end

  # What the library is built from: every source, and the Python it is linked with.
  defp stamp(python) do
    sources =
      [
        @crate <> "/{Cargo.toml,Cargo.lock,build.rs}",
        @crate <> "/.cargo/*",
        @crate <> "/src/**/*"
      ]
      |> Enum.flat_map(&Path.wildcard(&1, match_dot: true))
      |> Enum.filter(&File.regular?/1)
      |> Enum.sort()
      |> Enum.map(&[&1, 0, :erlang.md5(File.read!(&1))])

    """
    sources #{Base.encode16(:erlang.md5(sources), case: :lower)}
    python #{python.executable} #{python.build}
    """
  end

  defp failed(message) do
    Mix.shell().error("** (reactor_nif) " <> message)

    {:error,
     [
       %Mix.Task.Compiler.Diagnostic{
         compiler_name: "reactor_nif",
         file: Path.expand(Path.join(@crate, "Cargo.toml")),
         position: 0,
         severity: :error,
         message: message
       }
     ]}
  end
end
