defmodule Reactor.Port.Options do
  @moduledoc false

  # What each option of a Reactor.Port may be, and which go together. Reactor.Port documents them.

  alias Reactor.{BertRpc, ConfigError, Options}
  alias Reactor.Port.{Bert, Envelope, Plain}
  alias Reactor.Python.Directory

  @max 4_294_967_295
  @protocols %{envelope: Envelope, plain: Plain, bert: Bert}
  @limits [:as, :cpu]

  @expected %{
    name: "an atom, {:global, term} or {:via, module, term} with a module that registers names",
    script: "the path of a Python script",
    command: "the path of a program, or the name of one in PATH",
    args: "a list of texts",
    env: "a list, or a map, of names and values: both texts, or false as a value that unsets it",
    cd: "a directory",
    python: "the path of a Python, or the name of one in PATH",
    paths: "a list of directories",
    protocol: ":envelope, :plain or :bert",
    packet: "2 or 4",
    size: "an integer from 1 to 1024",
    max_waiting: "an integer from 1 to 1000000",
    max_frame: "an integer from 1 to #{@max} (bytes)",
    timeout: "a number of milliseconds from 0 to #{@max}, or :infinity",
    start_timeout: "a number of milliseconds from 1 to #{@max}",
    backoff: "{first, longest} in ms: 1 <= first <= longest <= 3600000",
    shutdown: "a number of milliseconds from 0 to 600000",
    hang: "a number of milliseconds from 1 to #{@max}, or :infinity",
    rlimit: "a keyword list of :as (bytes) and :cpu (seconds), each a positive integer",
    functions: "a map, or a keyword list, of names (atoms or texts) and functions",
    expose: BertRpc.Options.expected(:expose),
    callbacks: BertRpc.Options.expected(:callbacks),
    max_stream: BertRpc.Options.expected(:max_stream)
  }

  @names Map.keys(@expected)

  # What a program is given may hold a password.
  @derive {Inspect, except: [:args, :env, :functions]}
  defstruct name: nil,
            script: nil,
            command: nil,
            args: [],
            env: [],
            cd: nil,
            python: "python3",
            paths: [],
            protocol: :envelope,
            packet: 4,
            size: 1,
            max_waiting: 1_024,
            max_frame: 64 * 1_024 * 1_024,
            timeout: 5_000,
            start_timeout: 30_000,
            backoff: {50, 10_000},
            shutdown: 2_000,
            hang: :infinity,
            rlimit: [],
            functions: %{},
            expose: %{},
            callbacks: false,
            max_stream: 64 * 1_024 * 1_024

  @type t :: %__MODULE__{
          name: GenServer.name() | nil,
          script: Path.t() | nil,
          command: Path.t() | nil,
          args: [String.t()],
          env: [{String.t(), String.t() | false}],
          cd: Path.t() | nil,
          python: Path.t(),
          paths: [Path.t()],
          protocol: :envelope | :plain | :bert,
          packet: 2 | 4,
          size: pos_integer,
          max_waiting: pos_integer,
          max_frame: pos_integer,
          timeout: timeout,
          start_timeout: pos_integer,
          backoff: {pos_integer, pos_integer},
          shutdown: non_neg_integer,
          hang: timeout,
          rlimit: [as: pos_integer, cpu: pos_integer],
          functions: %{String.t() => fun},
          expose: BertRpc.Exposed.t(),
          callbacks: BertRpc.Callback.allowed(),
          max_stream: non_neg_integer
        }

  @doc "Validates all options; the last of a name counts."
  @spec new(keyword) :: {:ok, t} | {:error, ConfigError.t()}
  def new(options) do
    with true <- Keyword.keyword?(options),
         {:ok, struct} <- Options.put_all(%__MODULE__{}, options, &put/3),
         :ok <- together(struct) do
      {:ok, within_packet(struct)}
    else
      false -> {:error, ConfigError.hiding(:options, options, "a keyword list")}
      {:error, error} -> {:error, error}
    end
  end

  @doc "The module that knows the protocol."
  @spec wire(t) :: module
  def wire(%{protocol: protocol}), do: Map.fetch!(@protocols, protocol)

  @doc "What names a pool in logs and events."
  @spec label(t) :: String.t()
  def label(%{name: nil, script: nil, command: command}), do: Path.basename(command)
  def label(%{name: nil, script: script}), do: Path.basename(script)
  def label(%{name: name}), do: Directory.text(name)

  defp put(_struct, name, _value) when not is_map_key(@expected, name),
    do: {:error, ConfigError.unknown(name, @names)}

  defp put(struct, name, value) do
    case option(name, value) do
      {:ok, value} -> {:ok, Map.put(struct, name, value)}
      :error -> {:error, ConfigError.hiding(name, hide(name, value), @expected[name])}
    end
  end

  defp hide(name, _value) when name in [:args, :env], do: :"(hidden)"
  defp hide(_name, value), do: value

  defp together(%{script: nil, command: nil}),
    do: wrong(:script, nil, @expected.script <> ", unless there is a :command")

  defp together(%{script: script, command: command}) when script != nil and command != nil,
    do: wrong(:command, command, "left out where there is a :script")

  defp together(%{command: command, rlimit: [_ | _] = rlimit}) when command != nil do
    # It is our side of Python that sets them, before the script runs.
    wrong(:rlimit, rlimit, "left out where there is a :command")
  end

  defp together(%{protocol: protocol, functions: functions})
       when protocol != :envelope and functions != %{} do
    wrong(:functions, Map.keys(functions), "left out where the protocol is not :envelope")
  end

  defp together(%{protocol: protocol, expose: expose}) when protocol != :bert and expose != %{},
    do: wrong(:expose, Map.keys(expose), "left out where the protocol is not :bert")

  defp together(%{protocol: protocol, callbacks: callbacks})
       when protocol != :bert and callbacks != false,
       do: wrong(:callbacks, callbacks, "left out where the protocol is not :bert")

  defp together(_struct), do: :ok

  defp wrong(name, value, expected), do: {:error, ConfigError.hiding(name, value, expected)}

  defp within_packet(%{packet: 2, max_frame: max} = struct),
    do: %{struct | max_frame: min(max, 65_535)}

  defp within_packet(struct), do: struct

  defp option(:name, nil), do: {:ok, nil}
  defp option(:name, name) when is_atom(name), do: {:ok, name}
  defp option(:name, {:global, _} = name), do: {:ok, name}

  defp option(:name, {:via, module, _} = name) when is_atom(module) do
    if Code.ensure_loaded?(module) and function_exported?(module, :register_name, 2),
      do: {:ok, name},
      else: :error
  end

  defp option(:script, path), do: with({:ok, path} <- text(path), do: {:ok, Path.expand(path)})

  defp option(name, path) when name in [:command, :python],
    do: with({:ok, path} <- text(path), do: {:ok, program(path)})

  defp option(:cd, path), do: with({:ok, path} <- text(path), do: {:ok, Path.expand(path)})
  defp option(:args, args), do: all(args, &text/1)

  defp option(:paths, paths),
    do: all(paths, &with({:ok, path} <- text(&1), do: {:ok, Path.expand(path)}))

  defp option(:env, env) when is_map(env), do: option(:env, Map.to_list(env))
  defp option(:env, env), do: all(env, &variable/1)

  defp option(:protocol, value) when is_map_key(@protocols, value), do: {:ok, value}
  defp option(:packet, value) when value in [2, 4], do: {:ok, value}
  defp option(:size, value) when value in 1..1_024, do: {:ok, value}
  defp option(:max_waiting, value) when value in 1..1_000_000, do: {:ok, value}
  defp option(:max_frame, value) when value in 1..@max, do: {:ok, value}
  defp option(:timeout, :infinity), do: {:ok, :infinity}
  defp option(:timeout, value) when value in 0..@max, do: {:ok, value}
  defp option(:start_timeout, value) when value in 1..@max, do: {:ok, value}

  defp option(:backoff, {first, longest})
       when first in 1..3_600_000 and longest in 1..3_600_000 and first <= longest,
       do: {:ok, {first, longest}}

  defp option(:shutdown, value) when value in 0..600_000, do: {:ok, value}
  defp option(:hang, :infinity), do: {:ok, :infinity}
  defp option(:hang, value) when value in 1..@max, do: {:ok, value}

  defp option(:rlimit, limits) do
    valid? =
      Keyword.keyword?(limits) and
        Enum.all?(limits, fn {name, n} -> name in @limits and is_integer(n) and n > 0 end)

    if valid?, do: {:ok, limits}, else: :error
  end

  defp option(:functions, functions) when is_map(functions) or is_list(functions) do
    with {:ok, pairs} <- all(Enum.to_list(functions), &function/1), do: {:ok, Map.new(pairs)}
  end

  defp option(name, value) when name in [:expose, :callbacks, :max_stream],
    do: BertRpc.Options.value(name, value)

  defp option(_name, _value), do: :error

  defp function({name, function}) when is_function(function) and is_atom(name),
    do: {:ok, {Atom.to_string(name), function}}

  defp function({name, function}) when is_function(function) and is_binary(name),
    do: {:ok, {name, function}}

  defp function(_other), do: :error

  defp variable({name, value}) do
    with {:ok, name} <- text(name),
         false <- name == "" or String.contains?(name, "="),
         {:ok, value} <- if(value == false, do: {:ok, false}, else: text(value)) do
      {:ok, {name, value}}
    else
      _ -> :error
    end
  end

  defp variable(_other), do: :error

  # A NUL byte ends what C sees of it.
  defp text(value) do
    if is_binary(value) and String.valid?(value) and not String.contains?(value, <<0>>),
      do: {:ok, value},
      else: :error
  end

  # A name is looked for in PATH, a path is one from here, as a script's, whatever `:cd` says.
  defp program(path), do: if(String.contains?(path, "/"), do: Path.expand(path), else: path)

  defp all(values, valid) when is_list(values) do
    results = Enum.map(values, valid)
    if :error in results, do: :error, else: {:ok, Enum.map(results, &elem(&1, 1))}
  end

  defp all(_values, _valid), do: :error
end
