defmodule Reactor.Python.Options do
  @moduledoc false

  # What each option of a Python context may be. Reactor.Python documents them; those about its Python are
  # also options of a Python listener, which asks here.

  alias Reactor.{ConfigError, Native, Options, Socket}

  @max 4_294_967_295

  @own %{
    name: "an atom, {:global, term} or {:via, module, term} with a module that registers names",
    python: ~s("module:factory" or "module"),
    max_connections: "an integer from 1 to #{@max}, or :infinity",
    drain_timeout: "a number of milliseconds from 0 to #{@max}"
  }

  @shared %{
    isolation: ":shared, :subinterpreter or :process",
    rlimit:
      "a keyword list of :as (bytes), :cpu (seconds) and :nofile, each an integer from 1 on",
    experimental: "true or false",
    setup: "Python code, as UTF-8 text, or a list of such pieces",
    paths: "a list of directories",
    venv: "the directory of a virtual environment",
    requirements: ~s(a list of texts as pip takes them, as ["numpy>=1.20"]),
    callback_timeout: "an integer from 1 to #{@max} (ms), or :infinity",
    stuck_timeout: "an integer from 1 to #{@max} (ms), or :infinity"
  }

  @expected Map.merge(@own, @shared)

  # Of the connections that are handed over.
  @of_connections [:high_watermark, :low_watermark | Socket.Options.deadlines()]

  @rlimits [:as, :cpu, :nofile]

  @names Map.keys(@expected) ++ @of_connections

  # Setup code may hold a password.
  @derive {Inspect, except: [:setup]}
  defstruct name: nil,
            isolation: :shared,
            rlimit: [],
            experimental: false,
            python: nil,
            setup: [],
            paths: [],
            venv: nil,
            requirements: [],
            callback_timeout: 60_000,
            stuck_timeout: 60_000,
            max_connections: :infinity,
            drain_timeout: 3_000,
            options: Socket.Options.defaults(),
            # What all contexts of a pool have to pass.
            gate: nil

  @type isolation :: :shared | :subinterpreter | :process
  @type rlimit :: [as: pos_integer, cpu: pos_integer, nofile: pos_integer]

  @type t :: %__MODULE__{
          name: GenServer.name() | nil,
          isolation: isolation,
          rlimit: rlimit,
          experimental: boolean,
          python: String.t() | nil,
          setup: [String.t()],
          paths: [Path.t()],
          venv: Path.t() | nil,
          requirements: [String.t()],
          callback_timeout: pos_integer | :infinity,
          stuck_timeout: pos_integer | :infinity,
          max_connections: pos_integer | :infinity,
          drain_timeout: non_neg_integer,
          options: Socket.Options.t(),
          gate: Native.gate() | nil
        }

  @doc "What the options that a listener has too have to be, in words, by name."
  @spec shared() :: %{atom => String.t()}
  def shared, do: @shared

  @doc """
  Validates all options of a context; the last of a name counts. Whoever has others besides gives their names: a name that
  is wrong may have been meant to be one of these.
  """
  @spec new(keyword, others :: [atom]) :: {:ok, t} | {:error, ConfigError.t()}
  def new(options, others \\ []) do
    with true <- Keyword.keyword?(options),
         {:ok, struct} <- Options.put_all(%__MODULE__{}, options, &put(&1, &2, &3, others)),
         :ok <- available(struct),
         :ok <- Socket.Options.together(struct.options) do
      {:ok, struct}
    else
      false -> {:error, ConfigError.hiding(:options, options, "a keyword list")}
      {:error, error} -> {:error, error}
    end
  end

  @doc "Validates that the isolation that is asked for can be had here, with what else is asked for."
  @spec available(%{
          :isolation => isolation,
          :rlimit => rlimit,
          :experimental => boolean,
          optional(atom) => term
        }) :: :ok | {:error, ConfigError.t()}
  def available(%{isolation: :process}), do: :ok

  def available(%{isolation: isolation, rlimit: [_ | _] = rlimit}) do
    expected =
      "left out with isolation #{inspect(isolation)}: only a process has limits (isolation: :process)"

    {:error, ConfigError.hiding(:rlimit, rlimit, expected)}
  end

  def available(%{isolation: :shared}), do: :ok

  def available(%{isolation: isolation, experimental: experimental}) do
    case Native.isolation_refusal(isolation, experimental) do
      nil -> :ok
      why -> {:error, ConfigError.hiding(:isolation, isolation, ":shared here: " <> why)}
    end
  end

  defp put(struct, name, value, _others) when name in @of_connections do
    with :ok <- Socket.Options.option(name, value),
         do: {:ok, put_in(struct.options[name], value)}
  end

  defp put(_struct, name, _value, others) when not is_map_key(@expected, name),
    do: {:error, ConfigError.unknown(name, others ++ @names)}

  defp put(struct, name, value, _others) do
    case option(name, value) do
      {:ok, value} -> {:ok, Map.put(struct, name, value)}
      {:error, error} -> {:error, error}
      :error -> {:error, ConfigError.hiding(name, value, @expected[name])}
    end
  end

  @doc "The value of one option, as it is kept; an error of its own where that says more."
  @spec option(atom, term) :: {:ok, term} | :error | {:error, ConfigError.t()}
  def option(name, value)

  def option(:isolation, value) when value in [:shared, :subinterpreter, :process],
    do: {:ok, value}

  def option(:rlimit, limits) do
    if Keyword.keyword?(limits) and Enum.all?(limits, &rlimit?/1), do: {:ok, limits}, else: :error
  end

  def option(:experimental, value) when is_boolean(value), do: {:ok, value}

  def option(name, :infinity) when name in [:callback_timeout, :stuck_timeout],
    do: {:ok, :infinity}

  def option(name, value) when name in [:callback_timeout, :stuck_timeout] and value in 1..@max,
    do: {:ok, value}

  def option(:max_connections, :infinity), do: {:ok, :infinity}
  def option(:max_connections, value) when value in 1..@max, do: {:ok, value}
  def option(:drain_timeout, value) when value in 0..@max, do: {:ok, value}
  def option(name, nil) when name in [:name, :python, :venv], do: {:ok, nil}
  def option(:setup, code), do: code |> List.wrap() |> all(&text/1)

  def option(:name, name) when is_atom(name), do: {:ok, name}
  def option(:name, {:global, _} = name), do: {:ok, name}

  def option(:name, {:via, module, _} = name) when is_atom(module) do
    if Code.ensure_loaded?(module) and function_exported?(module, :register_name, 2),
      do: {:ok, name},
      else: :error
  end

  def option(:python, name) when is_binary(name) do
    valid? = String.valid?(name) and name =~ ~r/\A[\p{L}_][\w.]*(:[\p{L}_][\w.]*)?\z/u
    if valid?, do: {:ok, name}, else: :error
  end

  def option(:paths, paths), do: all(paths, &directory/1)
  def option(:requirements, requirements), do: all(requirements, &text/1)

  def option(:venv, dir) do
    with {:ok, dir} <- directory(dir) do
      if File.regular?(Path.join(dir, "pyvenv.cfg")) do
        {:ok, dir}
      else
        expected = @shared.venv <> ", which has a file pyvenv.cfg (python3 -m venv makes one)"
        {:error, ConfigError.hiding(:venv, dir, expected)}
      end
    end
  end

  def option(_name, _value), do: :error

  defp rlimit?({name, limit}),
    do: name in @rlimits and is_integer(limit) and limit in 1..0x7FFF_FFFF_FFFF_FFFF

  # A NUL byte ends what C sees of it.
  defp text(value) do
    if is_binary(value) and String.valid?(value) and not String.contains?(value, <<0>>),
      do: {:ok, value},
      else: :error
  end

  defp directory(value), do: with({:ok, dir} <- text(value), do: {:ok, Path.expand(dir)})

  defp all(values, valid) when is_list(values) do
    results = Enum.map(values, valid)
    if :error in results, do: :error, else: {:ok, Enum.map(results, &elem(&1, 1))}
  end

  defp all(_values, _valid), do: :error
end
