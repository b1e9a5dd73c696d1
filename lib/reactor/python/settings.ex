defmodule Reactor.Python.Settings do
  @moduledoc false

  # What the native side of a context is started with.

  alias Reactor.{Listener, Server}
  alias Reactor.Python.Options

  @doc "For a context of its own, whose name in words this is; it reports to `reporter`."
  @spec alone(Options.t(), String.t(), pid) :: map
  def alone(options, name, reporter) do
    options
    |> common(name, options.paths ++ [File.cwd!()], reporter)
    # For connections that are handed over.
    |> Map.put(:max_connections, finite(options.max_connections))
    |> Map.put(:gate, options.gate)
    |> Map.merge(options.options)
  end

  @doc "For one of a listener's, with this number."
  @spec of_listener(Server.board(), Listener.t(), pos_integer) :: map
  def of_listener(board, listener, index) do
    name = "#{listener.python || inspect(listener.module)}/#{index}"
    common(listener, name, paths(listener), Server.whereis(board, :reporter))
  end

  # Of a listener, or of a context without one: these have the same names in both.
  defp common(options, name, paths, report_to) do
    own = %{
      name: name,
      paths: paths,
      python_dir: priv(:reactor),
      isolation: options.isolation,
      experimental: options.experimental,
      callback_timeout: finite(options.callback_timeout),
      venv: options.venv,
      requirements: options.requirements,
      setup: options.setup,
      report_to: report_to,
      stuck_timeout: finite(options.stuck_timeout)
    }

    if options.isolation == :process,
      # Its Python is shared with nobody.
      do: Map.merge(own, %{isolation: :shared, process: program(), rlimit: options.rlimit}),
      else: own
  end

  defp program, do: Application.app_dir(:reactor, "priv/native/reactor_python")

  defp finite(:infinity), do: nil
  defp finite(limit), do: limit

  @doc "Where Python looks for a listener's modules: in the paths given, in the application's, and in the current directory."
  @spec paths(Listener.t()) :: [binary]
  def paths(listener) do
    own =
      case Application.get_application(listener.module) do
        nil -> []
        application -> [priv(application)]
      end

    Enum.uniq(listener.paths ++ own ++ [File.cwd!()])
  end

  defp priv(application), do: Application.app_dir(application, "priv/python")
end
