defmodule Reactor.Python.Bytes do
  @moduledoc """
  A binary that is `bytes` in Python, whatever the others of its call become: see `Reactor.Python.bytes/1`.
  """

  @enforce_keys [:binary]
  defstruct [:binary]

  @type t :: %__MODULE__{binary: binary}
end
