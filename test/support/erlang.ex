defmodule Reactor.Erlang do
  @moduledoc false

  # Programs in Erlang, for tests of what is offered to Erlang.

  @doc "Compiles a module, without warnings, and loads it until the test ends."
  def load(source, directory) do
    [_, name] = Regex.run(~r/^-module\((\w+)\)\./m, source)
    path = Path.join(directory, name <> ".erl")
    File.write!(path, source)
    options = [:binary, :return, :warnings_as_errors]
    {:ok, module, code, []} = :compile.file(String.to_charlist(path), options)
    {:module, ^module} = :code.load_binary(module, String.to_charlist(path), code)

    ExUnit.Callbacks.on_exit(fn ->
      :code.purge(module)
      :code.delete(module)
    end)

    module
  end

  @doc """
  Has contexts with numbers start with these options, and ends those that there are when the test ends. They
  are the VM's, so such tests run alone.
  """
  def contexts(numbers, options) do
    Application.put_env(:reactor, :py, options)

    ExUnit.Callbacks.on_exit(fn ->
      Application.delete_env(:reactor, :py)
      for number <- numbers, do: stop(number)
    end)
  end

  defp stop(number) do
    case Registry.lookup(Reactor.Python.Registry, {:py, number}) do
      [{pid, _}] -> :py_reactor_context.stop(pid)
      [] -> :ok
    end
  end
end
