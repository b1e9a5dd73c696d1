defmodule Reactor.BertRpc.Exposed do
  @moduledoc false

  # What may be called, and what a request means by it.

  alias Reactor.BertRpc.{Callback, Error, Infos, Packet}

  @typedoc "Names, the modules that they mean, and the functions of these."
  @type t :: %{String.t() => {module, %{{String.t(), arity} => atom}}}

  @doc "The function that a request asks for, or the error that it is answered with."
  @spec meant({:ok, Packet.request()} | {:error, Error.t()}, Infos.t(), t, Callback.allowed()) ::
          {:ok, :call | :cast, {module, atom, list}} | {:error, Error.t()}
  def meant({:ok, {:unreadable, module, function, text}}, _infos, exposed, _callbacks) do
    # Its arguments are not known, nor how many. Only a module that is not there is certain.
    case find(exposed, module, function, 0) do
      :no_module -> {:error, missing(:no_module, module, function)}
      _maybe -> {:error, %Error{type: :protocol, code: 2, detail: text}}
    end
  end

  def meant({:ok, {kind, module, function, args}}, infos, exposed, callbacks) do
    arity = length(args) + if(infos.stream, do: 1, else: 0)

    with nil <- infos.error,
         {:ok, {in_module, name}} <- find(exposed, module, function, arity),
         :ok <- Callback.check(kind, infos.callback, callbacks) do
      {:ok, kind, {in_module, name, args}}
    else
      {:error, error} -> {:error, error}
      %Error{} = error -> {:error, error}
      what -> {:error, missing(what, module, function <> "/#{arity}")}
    end
  end

  def meant({:error, error}, _infos, _exposed, _callbacks), do: {:error, error}

  defp find(exposed, module, function, arity) do
    case exposed do
      %{^module => {in_module, %{{^function, ^arity} => name}}} -> {:ok, {in_module, name}}
      %{^module => _functions} -> :no_function
      %{} -> :no_module
    end
  end

  defp missing(:no_module, module, _function) do
    %Error{type: :server, code: 1, detail: "module '#{short(module)}' not found"}
  end

  defp missing(:no_function, module, function) do
    detail = "function '#{short(function)}' not found on module '#{short(module)}'"
    %Error{type: :server, code: 2, detail: detail}
  end

  defp short(name), do: String.slice(name, 0, 100)
end
