defmodule Reactor.Port.Envelope do
  @moduledoc false

  # Reactor's own protocol, see docs/port.md: tuples of three, `{kind, id, body}`, in the external term format, both
  # ways. Kind and id are small integers, which every encoder writes in one of two forms, so they are read and
  # written without decoding the body: that is the caller's work, on both sides.

  alias Reactor.Port.{External, Wire}
  alias Reactor.Python

  @behaviour Wire

  @call 0
  @cast 1
  @answer 2
  @error 3
  @hello 4

  @max_id 2_147_483_647

  @impl true
  def correlation, do: :id

  @impl true
  def request(kind, function, args) when is_atom(function),
    do: request(kind, Atom.to_string(function), args)

  def request(_kind, function, args) when is_binary(function), do: Wire.encode({function, args})

  def request(_kind, function, _args), do: {:error, {:bad_function, function}}

  @impl true
  def frame(:call, id, body), do: [<<131, 104, 3, 97, @call, 98, id::32>>, body]
  def frame(:cast, id, body), do: [<<131, 104, 3, 97, @cast, 98, id::32>>, body]
  def frame(:answer, id, body), do: [<<131, 104, 3, 97, @answer, 98, id::32>>, body]
  def frame(:error, id, body), do: [<<131, 104, 3, 97, @error, 98, id::32>>, body]

  @impl true
  def overhead, do: 10

  @impl true
  def next_id(@max_id), do: 0
  def next_id(id), do: id + 1

  @impl true
  def read(<<131, 104, 3, 97, kind, 98, id::32, _body::binary>> = frame),
    do: read(kind, id, frame)

  def read(<<131, 104, 3, 97, kind, 97, id, _body::binary>> = frame), do: read(kind, id, frame)
  def read(_frame), do: :error

  defp read(@answer, id, frame), do: {:answer, id, {:ok, frame}}
  defp read(@error, id, frame), do: {:answer, id, {:error, frame}}
  defp read(@call, id, frame), do: {:call, id, frame}
  defp read(@cast, _id, frame), do: {:cast, frame}
  defp read(@hello, _id, _frame), do: :hello
  defp read(_kind, _id, _frame), do: :error

  @doc "What is in a frame."
  @spec body(binary, pos_integer) :: {:ok, term} | {:error, {:undecodable, String.t()}}
  def body(frame, max) do
    with {:ok, {_kind, _id, body}} <- External.decode(frame, max_size: max), do: {:ok, body}
  end

  @impl true
  def result({:ok, frame}, _function, max), do: body(frame, max)

  def result({:error, frame}, function, max) do
    case body(frame, max) do
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
end
