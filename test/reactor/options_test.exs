defmodule Reactor.OptionsTest do
  use ExUnit.Case, async: true

  alias Reactor.Options

  defp put(kept, :bad, value), do: {:error, {kept, value}}
  defp put(kept, name, value), do: {:ok, Map.put(kept, name, value)}

  test "the last of a name counts, and the first that is wrong ends it" do
    assert Options.put_all(%{c: 0}, [a: 1, b: 2, a: 3], &put/3) == {:ok, %{a: 3, b: 2, c: 0}}
    assert Options.put_all(%{}, [], &put/3) == {:ok, %{}}
    assert Options.put_all(%{}, [a: 1, bad: 2, bad: 3], &put/3) == {:error, {%{a: 1}, 2}}
  end
end
