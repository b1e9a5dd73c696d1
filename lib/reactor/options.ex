defmodule Reactor.Options do
  @moduledoc false

  # Options on their way into the struct, or the map, that keeps them: of a listener, a context, a port, PROXY headers. What each
  # may be is said there, in one clause each.

  alias Reactor.ConfigError

  @typedoc "Validates one option and keeps it."
  @type put(kept) ::
          (kept, name :: atom, value :: term -> {:ok, kept} | {:error, ConfigError.t()})

  @doc "Puts options into `kept`, each validated by itself; the last of a name counts, and the first that is wrong."
  @spec put_all(kept, keyword, put(kept)) :: {:ok, kept} | {:error, ConfigError.t()}
        when kept: map
  def put_all(kept, [{name, value} | rest], put) do
    with {:ok, kept} <- put.(kept, name, value), do: put_all(kept, rest, put)
  end

  def put_all(kept, [], _put), do: {:ok, kept}
end
