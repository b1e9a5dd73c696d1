defmodule Mix.Tasks.Reactor.Doctor do
  @shortdoc "Says what Python Reactor uses, and what works in it"

  @moduledoc """
  Prints what Python Reactor uses here, and what works in it.

      mix reactor.doctor [PACKAGE...]

  Of each package, named as it is imported, it says whether that works, in each isolation of a
  listener (see `Reactor.Listener`). It fails if one of them can be imported in none.

      $ mix reactor.doctor numpy
      Python       3.14.0 (with a GIL)
      executable   /app/.venv/bin/python
      ...
      isolation    :shared          works
      isolation    :subinterpreter  works
      isolation    :process         works
      numpy        :shared          2.5.5
      numpy        :subinterpreter  ImportError: ...

  The Python is that of the active virtual environment, else the one that the native library was built for.
  """

  use Mix.Task

  alias Reactor.Python.Doctor

  @requirements ["app.config"]

  @impl true
  def run(arguments) do
    case OptionParser.parse(arguments, strict: []) do
      {_, packages, []} ->
        examine(packages)

      {_, _, [{option, _} | _]} ->
        Mix.raise("unknown option #{option}, expected names of packages")
    end
  end

  defp examine(packages) do
    case Doctor.report(packages) do
      {:ok, report} ->
        for line <- lines(report), do: Mix.shell().info(line)
        fail_without(report.packages)

      {:error, error} ->
        Mix.raise("Python did not start: " <> Exception.message(error))
    end
  rescue
    error in ArgumentError -> Mix.raise(Exception.message(error))
  end

  defp lines(report) do
    facts =
      for {name, value} <- [
            {"Python", "#{report.version} (#{gil(report.gil)})"},
            {"executable", report.executable},
            {"libpython", report.libpython},
            {"prefix", report.prefix},
            {"base prefix", report.base_prefix},
            {"venv", report.venv || "none"},
            {"descriptors", "#{report.fd_limit || "unknown"} at most"}
          ],
          do: line(name, value)

    paths = for path <- report.paths, do: line("path", path)

    isolations =
      for name <- [:shared, :subinterpreter, :process] do
        line("isolation", name, works(Map.fetch!(report.isolations, name)))
      end

    packages =
      for {package, outcomes} <- report.packages, {isolation, outcome} <- outcomes do
        line(package, isolation, imported(outcome))
      end

    facts ++ paths ++ isolations ++ packages
  end

  defp gil(:gil), do: "with a GIL"
  defp gil(:free_threaded), do: "free-threaded"

  defp works(:ok), do: "works"
  defp works(:experimental), do: "works with experimental: true"
  defp works({:error, why}), do: why

  defp imported({:ok, ""}), do: "works"
  defp imported({:ok, version}), do: version
  defp imported({:error, why}), do: why

  defp line(name, value), do: String.pad_trailing(name, 13) <> value
  defp line(name, isolation, value), do: line(name, pad(isolation) <> value)

  defp pad(isolation), do: String.pad_trailing(inspect(isolation), 17)

  defp fail_without(packages) do
    missing =
      for {name, outcomes} <- packages,
          Enum.all?(outcomes, &match?({_, {:error, _}}, &1)),
          do: name

    if missing != [] do
      Mix.raise("cannot be imported: " <> Enum.join(Enum.sort(missing), ", "))
    end
  end
end
