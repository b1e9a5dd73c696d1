defmodule Reactor.Socket.Error do
  @moduledoc """
  What the functions of `Reactor.Socket` that end in `!` raise.

  `:operation` is the function's name without the `!`, `:reason` the atom that the function
  without it returns.
  """

  defexception [:operation, :reason]

  @type t :: %__MODULE__{operation: atom, reason: atom}

  @impl true
  def message(%{operation: operation, reason: reason}) do
    "#{operation} failed: #{describe(reason)}"
  end

  defp describe(:closed), do: "the connection is closed (:closed)"
  defp describe(:timeout), do: "nothing happened in time (:timeout)"

  defp describe(reason) when is_atom(reason) do
    case :inet.format_error(reason) do
      ~c"unknown POSIX error" ++ _ -> inspect(reason)
      text -> "#{text} (#{inspect(reason)})"
    end
  end

  defp describe(reason), do: inspect(reason)
end
