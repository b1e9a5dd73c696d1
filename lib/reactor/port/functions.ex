defmodule Reactor.Port.Functions do
  @moduledoc false

  # Elixir functions that a child calls, each in a process of its own. Their names are those of `:functions`, and no
  # others.

  alias Reactor.Port.{Envelope, Options, Wire}

  @doc """
  Runs what a frame asks for, in a process under `tasks`. To the reference that is returned comes what `Task.Supervisor`
  sends: `{reference, {kind, body}}`, of the frame that answers, or a `:DOWN`.
  """
  @spec run(Supervisor.supervisor(), Options.t(), binary) :: reference
  def run(tasks, options, frame) do
    task =
      Task.Supervisor.async_nolink(tasks, fn ->
        {kind, term} = answer(options, frame)
        {:ok, body} = Wire.encode(term)
        {kind, body}
      end)

    task.ref
  end

  @doc "The body of an error that is not a function's."
  @spec error(term) :: iodata
  def error(term) do
    {:ok, body} = Wire.encode(term)
    body
  end

  defp answer(%{functions: functions, max_frame: max}, frame) do
    case Envelope.body(frame, max) do
      {:ok, {name, args}} when is_binary(name) and is_list(args) ->
        call(functions, name, args)

      {:ok, _other} ->
        {:error, {:bad_arguments, "a call is {name, arguments}"}}

      {:error, {:undecodable, text}} ->
        {:error, {:undecodable, text}}
    end
  end

  defp call(functions, name, args) do
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

  # What a function raises is its caller's to see, and no crash here.
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
