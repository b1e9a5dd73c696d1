defmodule Reactor.BertRpc.Infos do
  @moduledoc false

  # What info packets say about the request that follows them.

  alias Reactor.BertRpc.{Callback, Error}

  defstruct stream: false, callback: nil, validation: nil, error: nil

  @typedoc "`error` is what is wrong with one of them, which is answered to the request."
  @type t :: %__MODULE__{
          stream: boolean,
          callback: Callback.t() | nil,
          validation: binary | nil,
          error: Error.t() | nil
        }

  @doc "Takes note of another one."
  @spec add(t, command :: term, options :: term) :: t
  def add(infos, :stream, []), do: %{infos | stream: true}

  def add(infos, :cache, [{:validation, token}]) when is_binary(token),
    do: %{infos | validation: token}

  def add(infos, :callback, [{:service, service}, {:mfa, module, function, args}])
      when is_binary(service) and is_atom(module) and is_atom(function) and is_list(args) do
    if Callback.address(service) == :error or List.improper?(args),
      do: %{infos | error: wrong("callback")},
      else: %{infos | callback: {service, module, function, args}}
  end

  def add(infos, command, _options) when command in [:stream, :cache, :callback],
    do: %{infos | error: wrong(Atom.to_string(command))}

  def add(infos, _command, _options), do: %{infos | error: wrong("of this kind")}

  defp wrong(what),
    do: %Error{type: :server, detail: "an info packet #{what} is not understood here"}
end
