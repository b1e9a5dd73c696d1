defmodule Reactor.Python.Doctor do
  @moduledoc """
  What Python there is here, and what works in it. `mix reactor.doctor` prints it.
  """

  alias Reactor.{Native, Python}

  @typedoc """
  What was found:

    * `:version`, `:executable`, `:libpython` - of the Python that runs
    * `:prefix`, `:base_prefix`, `:venv` - its directories; `:venv` is `nil` without a virtual environment
    * `:paths` - where it looks for modules
    * `:gil` - `:gil` or `:free_threaded`
    * `:isolations` - by isolation: `:ok`, `:experimental` (it is to be asked for, with `experimental: true`),
      or why it is not there
    * `:fd_limit` - how many descriptors this process may have open, `nil` if that cannot be known
    * `:packages` - by name and isolation: the version, `""` if the package says none; or why it cannot be imported
  """
  @type report :: %{
          version: String.t(),
          executable: String.t(),
          libpython: String.t(),
          prefix: String.t(),
          base_prefix: String.t(),
          venv: String.t() | nil,
          paths: [String.t()],
          gil: :gil | :free_threaded,
          isolations: %{
            shared: :ok,
            subinterpreter: :ok | :experimental | {:error, String.t()},
            process: :ok
          },
          fd_limit: pos_integer | nil,
          packages: %{
            String.t() => %{
              optional(:shared | :subinterpreter) => {:ok, String.t()} | {:error, String.t()}
            }
          }
        }

  @doc """
  Looks at the Python that is used here, and whether these packages can be imported.

  A package is named as it is imported: `"sklearn"`, not `"scikit-learn"`. Python is started
  if it does not run yet, and keeps what was imported in the shared interpreter. The caller waits, and
  other processes do not.

  Raises `ArgumentError` for a name that is none, and returns `{:error, error}` where Python does not start.

      iex> {:ok, report} = Reactor.Python.Doctor.report(["json", "no_such_package"])
      iex> report.isolations.shared
      :ok
      iex> {:ok, _version} = report.packages["json"].shared
      iex> report.packages["no_such_package"].shared
      {:error, "ModuleNotFoundError: No module named 'no_such_package'"}
  """
  @spec report([String.t()]) :: {:ok, report} | {:error, Python.Error.t()}
  def report(packages \\ []) do
    Enum.each(packages, &check/1)

    case Native.python_doctor(Application.app_dir(:reactor, "priv/python"), packages) do
      {:ok, %{facts: facts, packages: imports}} -> {:ok, build(Map.new(facts), imports)}
      {:error, error} -> {:error, struct!(Python.Error, error)}
    end
  end

  defp check(name) do
    unless is_binary(name) and String.valid?(name) and
             name =~ ~r/\A[\p{L}_]\w*(\.[\p{L}_]\w*)*\z/u do
      raise ArgumentError,
            "expected the name of a package, as Python imports it, got: #{inspect(name)}"
    end
  end

  defp build(facts, imports) do
    %{
      version: facts["version"],
      executable: facts["executable"],
      libpython: facts["libpython"],
      prefix: facts["prefix"],
      base_prefix: facts["base_prefix"],
      venv: if(facts["venv"] != "", do: facts["venv"]),
      paths: String.split(facts["path"], ":", trim: true),
      gil: if(facts["gil"] == "gil", do: :gil, else: :free_threaded),
      isolations: isolations(),
      fd_limit: fd_limit(),
      packages: packages(imports)
    }
  end

  defp isolations do
    %{
      shared: :ok,
      subinterpreter: subinterpreter(),
      process: :ok
    }
  end

  defp subinterpreter do
    cond do
      Native.isolation_refusal(:subinterpreter, false) == nil -> :ok
      Native.isolation_refusal(:subinterpreter, true) == nil -> :experimental
      true -> {:error, Native.isolation_refusal(:subinterpreter, true)}
    end
  end

  defp fd_limit do
    for(%{max_fds: limit} <- [Map.new(check_io())], do: limit) |> List.first()
  end

  # A list for each set of descriptors that the emulator polls.
  defp check_io do
    case :erlang.system_info(:check_io) do
      [set | _] when is_list(set) -> set
      set when is_list(set) -> set
      _ -> []
    end
  end

  defp packages(imports) do
    Enum.reduce(imports, %{}, fn {name, isolation, outcome}, packages ->
      Map.update(packages, name, %{isolation => outcome}, &Map.put(&1, isolation, outcome))
    end)
  end
end
