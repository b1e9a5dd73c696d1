defmodule Reactor.Port.Bert do
  @moduledoc false

  # BERT-RPC: `{call, module, function, args}` is answered by `{reply, term}` or by `{error, {type, code, class,
  # detail, backtrace}}`, `{cast, …}` by `{noreply}`, in the order of the requests. An `info` packet belongs to what
  # comes after it.

  alias Reactor.Port.{External, Wire}
  alias Reactor.Python

  @behaviour Wire

  # Of a function that is called without one.
  @module :port

  # BERT-RPC's codes of the type `server`.
  @no_module 1
  @no_function 2

  @impl true
  def correlation, do: :order

  @impl true
  def request(kind, {module, function}, args) when is_atom(module) and is_atom(function),
    do: Wire.encode({kind, module, function, args})

  def request(kind, function, args) when is_atom(function),
    do: request(kind, {@module, function}, args)

  def request(_kind, function, _args), do: {:error, {:bad_function, function}}

  @impl true
  def frame(_kind, _id, body), do: [131, body]

  @impl true
  def overhead, do: 1

  @impl true
  def next_id(id), do: id + 1

  @impl true
  def read(<<131, 104, 3, 119, 4, "info", _::binary>>), do: :nothing
  def read(<<131, 104, 3, 100, 4::16, "info", _::binary>>), do: :nothing
  def read(frame), do: {:answer, :next, frame}

  @impl true
  def result(frame, function, max) do
    case External.decode(frame, max_size: max) do
      {:ok, {:reply, term}} -> {:ok, term}
      {:ok, {:noreply}} -> {:ok, nil}
      {:ok, {:error, error}} -> {:error, error(error, function)}
      {:ok, _other} -> {:error, {:undecodable, "it is no answer of BERT-RPC"}}
      error -> error
    end
  end

  defp error({:server, code, _, _, _}, function) when code in [@no_module, @no_function],
    do: {:undefined, function}

  defp error({:user, _code, class, detail, backtrace}, _function)
       when is_binary(class) and is_binary(detail) and is_list(backtrace) do
    traceback = backtrace |> Enum.filter(&is_binary/1) |> Enum.join("\n")
    Python.Error.exception(type: class, message: detail, traceback: traceback)
  end

  defp error(error, _function), do: {:bert, error}
end
