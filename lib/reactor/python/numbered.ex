defmodule Reactor.Python.Numbered do
  @moduledoc false

  # The contexts of the Erlang modules `:py` and `:py_reactor_context`, which know them by number. A
  # number is a name in the registry of the contexts.

  alias Reactor.Python
  alias Reactor.Python.{Context, Directory}

  @registry Reactor.Python.Registry

  @doc "The context of that number; it is started if need be."
  @spec context(pos_integer) :: {:ok, pid} | {:error, term}
  def context(number) do
    cond do
      not Directory.running?() -> {:error, :not_started}
      pid = GenServer.whereis(name(number)) -> ready(pid, number)
      true -> start(number)
    end
  end

  defp start(number) do
    case number |> options([]) |> Python.start_context() do
      {:error, {:already_started, pid}} -> ready(pid, number)
      result -> result
    end
  end

  # One that is being started by somebody else is waited for; if that fails, so may this.
  defp ready(pid, number) do
    with {:error, :noproc} <- Directory.native(pid),
         {:error, reason} when reason in [:noproc, :closed] <- Context.await(pid) do
      start(number)
    else
      {:ok, _native_or_pid} -> {:ok, pid}
      {:error, reason} -> {:error, reason}
    end
  end

  @doc "Starts the context of that number, linked to the caller."
  @spec start_link(pos_integer, keyword) :: {:ok, pid} | {:error, term}
  def start_link(number, options), do: number |> options(options) |> Python.start_link()

  defp name(number), do: {:via, Registry, {@registry, {:py, number}}}

  # What the application's environment has for all of them comes first, setup code too.
  defp options(number, options) do
    all = Application.get_env(:reactor, :py, [])

    if Keyword.keyword?(all) do
      setup = Enum.flat_map([all, options], &List.wrap(&1[:setup]))
      all ++ options ++ [setup: setup, name: name(number)]
    else
      # To be refused like other options.
      all
    end
  end
end
