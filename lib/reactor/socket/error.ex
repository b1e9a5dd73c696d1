defmodule Reactor.Socket.Error do
  @moduledoc """
  What the functions of `Reactor.Socket` that end in `!` raise.

  `:operation` is the function's name without the `!`, `:reason` what the function without it
  returns.
  """

  defexception [:operation, :reason]

  @type t :: %__MODULE__{operation: atom, reason: Reactor.Transport.reason()}

  @impl true
  def message(%{operation: operation, reason: reason}) do
    "#{operation} failed: #{describe(reason)}"
  end

  defp describe(:closed), do: "the connection is closed (:closed)"
  defp describe(:timeout), do: "nothing happened in time (:timeout)"
  defp describe({:tls_alert, {name, _text}}), do: "TLS was refused (#{inspect(name)})"

  defp describe(reason) when is_atom(reason) do
    case :inet.format_error(reason) do
      ~c"unknown POSIX error" ++ _ -> inspect(reason)
      text -> "#{text} (#{inspect(reason)})"
    end
  end

  defp describe(reason), do: inspect(reason)
end
