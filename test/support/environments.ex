defmodule Reactor.Environments do
  @moduledoc false

  # Virtual environments with packages that do nothing, and VMs that begin in one.

  import ExUnit.Assertions

  @doc "The Python that the library is linked with."
  def python, do: System.find_executable(System.get_env("PYO3_PYTHON", "python3"))

  @doc "True if there is something that reads requirements."
  def packaging? do
    reads = "try:\n import packaging.requirements\nexcept ImportError:\n import pip"
    match?({_, 0}, System.cmd(python(), ["-c", reads], stderr_to_stdout: true))
  end

  @doc "Makes an environment with these packages, by name and version; each is a module with `version`."
  def make(directory, packages) do
    # What the machine has is seen in it, as pip, which may be all there is to read requirements.
    options = ["-m", "venv", "--without-pip", "--system-site-packages", directory]
    {_, 0} = System.cmd(python(), options, stderr_to_stdout: true)
    [site] = Path.wildcard(Path.join(directory, "lib/python3.*/site-packages"))
    for {name, version} <- packages, do: package(site, name, version)
    directory
  end

  defp package(site, name, version) do
    info = Path.join(site, "#{name}-#{version}.dist-info")
    File.mkdir_p!(info)

    File.write!(Path.join(info, "METADATA"), """
    Metadata-Version: 2.1
    Name: #{name}
    Version: #{version}
    Provides-Extra: more
    Requires-Dist: no-such-part; extra == "more"
    """)

    File.write!(Path.join(site, "#{name}.py"), "version = #{inspect(version)}\n")
  end

  @doc "Runs a program in a VM of its own, whose Python has not begun, and returns what it prints."
  def run(program, environment \\ []) do
    program = "{:ok, _} = Application.ensure_all_started(:reactor)\n" <> program
    ebin = Path.join(:code.lib_dir(:reactor), "ebin")
    environment = Keyword.merge([VIRTUAL_ENV: nil], environment)
    environment = for {name, value} <- environment, do: {Atom.to_string(name), value}
    arguments = ["-pa", ebin, "-e", program]

    {output, status} = System.cmd("elixir", arguments, env: environment, stderr_to_stdout: true)

    assert status == 0, output
    output
  end
end
