defmodule Reactor.Python.Error do
  @moduledoc """
  A Python exception.

    * `:type` - its class, as `"ModuleNotFoundError"`
    * `:message` - its text
    * `:traceback` - as Python would print it, with both
  """

  defexception type: "", message: "", traceback: ""

  @type t :: %__MODULE__{type: String.t(), message: String.t(), traceback: String.t()}

  @impl true
  def message(%{type: type, message: message, traceback: ""}), do: "#{type}: #{message}"

  def message(%{type: type, message: message, traceback: traceback}) do
    "#{type}: #{message}\n#{traceback}"
  end
end
