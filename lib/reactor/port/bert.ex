defmodule Reactor.Port.Bert do
  @moduledoc false

  # BERT-RPC over a port: see Reactor.BertRpc for what it is. Answers come in the order of the requests, and a cast has
  # one, too. An `info` packet belongs to what comes after it.

  alias Reactor.BertRpc.{Error, Packet}

  @behaviour Reactor.Port.Wire

  # Of a function that is called without one.
  @module :port

  # Its codes of the type `server`.
  @no_module 1
  @no_function 2

  @impl true
  def correlation, do: :order

  @impl true
  def request(kind, {module, function}, args) when is_atom(module) and is_atom(function),
    do: Packet.encode({kind, module, function, args})

  def request(kind, function, args) when is_atom(function),
    do: request(kind, {@module, function}, args)

  def request(_kind, function, _args), do: {:error, {:bad_function, function}}

  @impl true
  def frame(_kind, _id, body), do: body

  @impl true
  def overhead, do: 0

  @impl true
  def next_id(id), do: id + 1

  @impl true
  def read(<<131, 104, 3, 119, 4, "info", _::binary>>), do: :nothing
  def read(<<131, 104, 3, 100, 4::16, "info", _::binary>>), do: :nothing
  def read(frame), do: {:answer, :next, frame}

  @impl true
  def result(frame, function, max) do
    case Packet.answer(frame, max) do
      {:ok, {:reply, term}} ->
        {:ok, term}

      {:ok, {:noreply}} ->
        {:ok, nil}

      {:ok, {:error, %Error{type: :server, code: code}}}
      when code in [@no_module, @no_function] ->
        {:error, {:undefined, function}}

      {:ok, {:error, error}} ->
        {:error, error}

      {:ok, {:info, _, _}} ->
        {:error, {:undecodable, "it is no answer of BERT-RPC"}}

      error ->
        error
    end
  end
end
