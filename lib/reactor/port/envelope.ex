defmodule Reactor.Port.Envelope do
  @moduledoc false

  # Reactor's own protocol, see docs/port.md: tuples of three, `{kind, id, body}`, in the external term format, both
  # ways. Kind and id are small integers, which every encoder writes in one of two forms, so they are read and
  # written without decoding the body: that is the caller's work, on both sides.

  alias Reactor.Port.{External, Functions, Wire}
  alias Reactor.Python

  @behaviour Wire

  @call 0
  @cast 1
  @answer 2
  @error 3
  @hello 4

  # What comes to a body in a frame, in bytes.
  @overhead 10

  @max_id 2_147_483_647

  @impl true
  def correlation, do: :id

  @impl true
  def request(kind, function, args, options, limits) when is_atom(function),
    do: request(kind, Atom.to_string(function), args, options, limits)

  def request(_kind, function, args, _options, limits) when is_binary(function),
    do: Wire.encode({function, args}, @overhead, limits.max_frame)

  def request(_kind, function, _args, _options, _limits), do: {:error, {:bad_function, function}}

  @impl true
  def frames(:call, id, body), do: [[<<131, 104, 3, 97, @call, 98, id::32>> | body]]
  def frames(:cast, id, body), do: [[<<131, 104, 3, 97, @cast, 98, id::32>> | body]]
  def frames(:answer, id, body), do: [[<<131, 104, 3, 97, @answer, 98, id::32>> | body]]
  def frames(:error, id, body), do: [[<<131, 104, 3, 97, @error, 98, id::32>> | body]]

  @impl true
  def next_id(@max_id), do: 0
  def next_id(id), do: id + 1

  @impl true
  def read(<<131, 104, 3, 97, kind, 98, id::32, _body::binary>> = frame, _part, _options),
    do: sort(kind, id, frame)

  def read(<<131, 104, 3, 97, kind, 97, id, _body::binary>> = frame, _part, _options),
    do: sort(kind, id, frame)

  def read(_frame, _part, _options), do: :error

  defp sort(@answer, id, frame), do: {:answer, id, {:ok, frame}}
  defp sort(@error, id, frame), do: {:answer, id, {:error, frame}}
  defp sort(@call, id, frame), do: {:call, id, frame}
  defp sort(@cast, id, frame), do: {:cast, id, frame}
  defp sort(@hello, _id, _frame), do: :hello
  defp sort(_kind, _id, _frame), do: :error

  # What is in a frame.
  defp body(frame, max) do
    with {:ok, {_kind, _id, body}} <- External.decode(frame, max_size: max), do: {:ok, body}
  end

  @impl true
  def result({:ok, frame}, _function, limits), do: body(frame, limits.max_frame)

  def result({:error, frame}, function, limits) do
    case body(frame, limits.max_frame) do
      {:ok, {:undefined, _name}} ->
        {:error, {:undefined, function}}

      {:ok, {kind, text}} when kind in [:bad_arguments, :undecodable, :unencodable] ->
        {:error, {kind, text}}

      {:ok, {:too_large, size, max}} ->
        {:error, {:too_large, %{size: size, max: max}}}

      {:ok, :overloaded} ->
        {:error, :overloaded}

      {:ok, {:exception, type, message, traceback}} ->
        {:error, Python.Error.exception(type: type, message: message, traceback: traceback)}

      {:ok, _other} ->
        {:error, {:undecodable, "an error that this version does not know"}}

      error ->
        error
    end
  end

  @impl true
  def serve(frame, %{functions: functions, max_frame: max}) do
    {kind, term} =
      case body(frame, max) do
        {:ok, {name, args}} when is_binary(name) and is_list(args) ->
          Functions.call(functions, name, args)

        {:ok, _other} ->
          {:error, {:bad_arguments, "a call is {name, arguments}"}}

        {:error, {:undecodable, text}} ->
          {:error, {:undecodable, text}}
      end

    case Wire.encode(term, @overhead, max) do
      {:ok, body} -> {kind, body}
      {:error, {:too_large, %{size: size}}} -> {:error, told({:too_large, size, max})}
    end
  end

  @impl true
  def refusal(:overloaded), do: told(:overloaded)

  def refusal({:exit, reason}),
    do: told({:exception, "exit", inspect(reason, limit: 10, printable_limit: 500), ""})

  # Errors of ours are short.
  defp told(error) do
    {:ok, body} = Wire.encode(error, 0, :infinity)
    body
  end
end
