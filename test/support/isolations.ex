defmodule Reactor.Isolations do
  @moduledoc false

  # Where Python contexts can live here: tests run in each.

  alias Reactor.Native

  @doc "All that can be had here."
  def all, do: in_vm() ++ [:process]

  @doc "Those within the VM, of which this Python may not have all."
  def in_vm do
    for isolation <- [:shared, :subinterpreter],
        Native.isolation_refusal(isolation, false) == nil,
        do: isolation
  end

  @doc "Whether the Python that is used here has such a package."
  def package?(name) do
    python = venv() || System.get_env("PYO3_PYTHON", "python3")
    match?({_, 0}, System.cmd(python, ["-c", "import #{name}"], stderr_to_stdout: true))
  end

  defp venv do
    with dir when dir != nil <- System.get_env("VIRTUAL_ENV"), do: Path.join(dir, "bin/python")
  end
end
