defmodule MyApp.Calc do
  @moduledoc false

  # What the documentation of Reactor.BertRpc exposes.

  def add(a, b), do: a + b
  def sub(a, b), do: a - b
end

defmodule MyApp.Rpc do
  @moduledoc false

  use Reactor.BertRpc, expose: [calc: {MyApp.Calc, [:add]}]
end
