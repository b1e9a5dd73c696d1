defmodule Reactor.Listener do
  @moduledoc """
  The listener descriptor: what `Reactor.start/2` was told, validated once.

  ## Options

  | option | value | default | meaning |
  |---|---|---|---|
  | `:port` | 0..65535 | `0` | where to listen; 0 lets the system choose, see `Reactor.info/1` |
  | `:ip` | address tuple or text, `:any`, `:loopback` | `:any` | the local IPv4 or IPv6 address |
  | `:name` | atom, `{:global, term}`, `{:via, module, term}` | none | a name for the server |
  | `:transport` | `:native`, `:tcp`, or a `Reactor.Transport` | `:native` | who does the input and output |
  | `:acceptors` | positive integer | `100` | processes that wait for a connection |
  | `:backlog` | positive integer | `1024` | connections that the kernel keeps waiting |
  | `:reuseaddr` | boolean | `true` | take the port though old connections linger |
  | `:drain_timeout` | ms | `3000` | how long a server that stops lets its connections finish; all servers together, if the VM stops |
  | `:spawn_opt` | keyword | `[fullsweep_after: 0]` | how handler processes are spawned, as in `:erlang.spawn_opt/4` |
  | `:env` | any term | `nil` | for the handlers, as `connection.listener.env` |
  | `:python` | `"module:factory"` or `"module"` | none | a Python protocol instead of an Elixir handler |
  | `:paths` | list of directories | `[]` | where Python looks first; then priv/python of the module's application, then the current directory |
  | `:contexts` | positive integer | `1` | Python contexts (threads) that serve the listener |
  | `:isolation` | `:shared` | `:shared` | where those contexts live |

  and every option of `Reactor.Socket.Options`, for the connections that it accepts.

  `spawn_opt` may hold `:fullsweep_after`, `:min_heap_size`, `:min_bin_vheap_size`,
  `:max_heap_size`, `:message_queue_data` and `:priority`. The default sweeps the whole heap
  each time, since a handler seldom keeps anything. A larger `:min_heap_size` collects less often, and
  costs memory: with 377 words an idle connection took 6.6 KiB instead of 3.4.

  The struct also holds the `:module`, and, while the server runs, its listening `:socket`; its
  `:port` is then the one really bound.
  """

  alias Reactor.{ConfigError, Socket}

  @enforce_keys [:module]
  defstruct [
    :module,
    :socket,
    :name,
    :python,
    :env,
    ip: {0, 0, 0, 0},
    port: 0,
    transport: Reactor.Transport.Native,
    acceptors: 100,
    backlog: 1024,
    reuseaddr: true,
    drain_timeout: 3_000,
    spawn_opt: [fullsweep_after: 0],
    paths: [],
    contexts: 1,
    isolation: :shared,
    options: Socket.Options.defaults()
  ]

  @type t :: %__MODULE__{
          module: module,
          socket: Reactor.Transport.listening_socket() | nil,
          name: GenServer.name() | nil,
          python: String.t() | nil,
          env: term,
          ip: :inet.ip_address(),
          port: :inet.port_number(),
          transport: module,
          acceptors: pos_integer,
          backlog: pos_integer,
          reuseaddr: boolean,
          drain_timeout: non_neg_integer,
          spawn_opt: keyword,
          paths: [Path.t()],
          contexts: pos_integer,
          isolation: :shared,
          options: Socket.Options.t()
        }

  @expected %{
    ip: "an address (a tuple or text), :any or :loopback",
    port: "an integer from 0 to 65535",
    name: "an atom, {:global, term} or {:via, module, term}",
    transport: ":native, :tcp or a module that is a Reactor.Transport",
    acceptors: "a positive integer",
    backlog: "a positive integer",
    reuseaddr: "true or false",
    drain_timeout: "a number of milliseconds, 0 or more",
    spawn_opt: "a keyword list of options for spawned processes",
    python: ~s("module:factory" or "module"),
    paths: "a list of directories",
    contexts: "a positive integer",
    isolation: ":shared"
  }

  @names [:env | Map.keys(@expected)] ++ Socket.Options.names()

  @spawn_options [
    :fullsweep_after,
    :min_heap_size,
    :min_bin_vheap_size,
    :max_heap_size,
    :message_queue_data,
    :priority
  ]

  @doc """
  Validates a descriptor.

  Options given to `use Reactor` in the module count as if they stood before these.

      iex> {:ok, listener} = Reactor.Listener.new(MyApp.Echo, port: 8080, ip: "127.0.0.1")
      iex> {listener.ip, listener.port, listener.acceptors}
      {{127, 0, 0, 1}, 8080, 100}

      iex> {:error, error} = Reactor.Listener.new(MyApp.Echo, acceptor: 10)
      iex> Exception.message(error)
      "unknown option :acceptor, did you mean :acceptors?"
  """
  @spec new(module, keyword) :: {:ok, t} | {:error, ConfigError.t()}
  def new(module, options) do
    with :ok <- keyword(options),
         {:ok, defaults} <- defaults(module),
         {:ok, listener} <- put_all(%__MODULE__{module: module}, defaults ++ options),
         :ok <- Socket.Options.together(listener.options),
         :ok <- together(listener) do
      {:ok, listener}
    end
  end

  defp keyword(options) do
    if Keyword.keyword?(options) do
      :ok
    else
      {:error, error(:options, options, "a keyword list")}
    end
  end

  defp defaults(module) do
    if is_atom(module) and Code.ensure_loaded?(module) and
         function_exported?(module, :__reactor__, 0) do
      {:ok, module.__reactor__()}
    else
      {:error, error(:module, module, "a module with `use Reactor`")}
    end
  end

  defp put_all(listener, options) do
    Enum.reduce_while(options, {:ok, listener}, fn {name, value}, {:ok, listener} ->
      case put(listener, name, value) do
        {:ok, listener} -> {:cont, {:ok, listener}}
        {:error, error} -> {:halt, {:error, error}}
      end
    end)
  end

  defp put(listener, name, value) do
    case option(name, value) do
      {:ok, value} ->
        {:ok, Map.put(listener, name, value)}

      :error when is_map_key(@expected, name) ->
        {:error, error(name, value, @expected[name])}

      :error ->
        put_socket_option(listener, name, value)
    end
  end

  defp put_socket_option(listener, name, value) do
    case Socket.Options.option(name, value) do
      :ok -> {:ok, %{listener | options: Map.put(listener.options, name, value)}}
      {:error, %{expected: nil}} -> {:error, ConfigError.unknown(name, @names)}
      {:error, error} -> {:error, error}
    end
  end

  # One clause each; what no clause takes is wrong, or is an option of the connections.
  defp option(:env, value), do: {:ok, value}
  defp option(:port, value) when value in 0..65_535, do: {:ok, value}
  defp option(:acceptors, value) when is_integer(value) and value > 0, do: {:ok, value}
  defp option(:backlog, value) when is_integer(value) and value > 0, do: {:ok, value}
  defp option(:reuseaddr, value) when is_boolean(value), do: {:ok, value}
  defp option(:drain_timeout, value) when is_integer(value) and value >= 0, do: {:ok, value}
  defp option(:contexts, value) when is_integer(value) and value > 0, do: {:ok, value}
  defp option(:isolation, :shared), do: {:ok, :shared}

  defp option(:name, name) when is_atom(name), do: {:ok, name}
  defp option(:name, {:global, _} = name), do: {:ok, name}
  defp option(:name, {:via, module, _} = name) when is_atom(module), do: {:ok, name}

  defp option(:ip, :any), do: {:ok, {0, 0, 0, 0}}
  defp option(:ip, :loopback), do: {:ok, {127, 0, 0, 1}}

  defp option(:ip, ip) when is_tuple(ip) do
    if :inet.is_ip_address(ip), do: {:ok, ip}, else: :error
  end

  defp option(:ip, ip) when is_binary(ip) do
    case :inet.parse_address(String.to_charlist(ip)) do
      {:ok, ip} -> {:ok, ip}
      {:error, :einval} -> :error
    end
  end

  defp option(:transport, transport) do
    case Reactor.Transport.module(transport) do
      {:ok, module} -> {:ok, module}
      :error -> :error
    end
  end

  defp option(:spawn_opt, options) do
    valid? =
      Keyword.keyword?(options) and Enum.all?(Keyword.keys(options), &(&1 in @spawn_options))

    if valid?, do: {:ok, options}, else: :error
  end

  defp option(:python, nil), do: {:ok, nil}

  defp option(:python, name) when is_binary(name) do
    if name =~ ~r/^[\p{L}_][\w.]*(:[\p{L}_][\w.]*)?$/u, do: {:ok, name}, else: :error
  end

  defp option(:paths, paths) when is_list(paths) do
    if Enum.all?(paths, &is_binary/1) do
      {:ok, Enum.map(paths, &Path.expand/1)}
    else
      :error
    end
  end

  defp option(_name, _value), do: :error

  defp together(%{python: python, transport: transport})
       when python != nil and transport != Reactor.Transport.Native do
    {:error, error(:transport, transport, ":native for a Python listener")}
  end

  defp together(_listener), do: :ok

  defp error(name, value, expected) do
    %ConfigError{option: name, value: value, expected: expected}
  end
end
