defmodule Reactor.Port.Functions do
  @moduledoc false

  # Elixir functions that a child calls by Reactor's own protocol. Their names are those of `:functions`, and no others.

  @doc "Calls one of them. What it raises is its caller's to see, and no crash here."
  @spec call(%{String.t() => fun}, String.t(), list) :: {:answer | :error, term}
  def call(functions, name, args) do
    # It has no length, which is asked for below.
    if List.improper?(args),
      do: {:error, {:bad_arguments, "the arguments of #{name} are an improper list"}},
      else: call_proper(functions, name, args)
  end

  defp call_proper(functions, name, args) do
    case functions do
      %{^name => function} when is_function(function, length(args)) ->
        apply_safely(function, args)

      %{^name => function} ->
        {:arity, arity} = Function.info(function, :arity)
        {:error, {:bad_arguments, "#{name} takes #{arity} arguments, not #{length(args)}"}}

      %{} ->
        {:error, {:undefined, name}}
    end
  end

  defp apply_safely(function, args) do
    {:answer, apply(function, args)}
  catch
    kind, reason ->
      error = if kind == :error, do: Exception.normalize(:error, reason, __STACKTRACE__)
      type = if error, do: inspect(error.__struct__), else: Atom.to_string(kind)
      message = if error, do: Exception.message(error), else: inspect(reason)
      {:error, {:exception, type, message, Exception.format_stacktrace(__STACKTRACE__)}}
  end
end
