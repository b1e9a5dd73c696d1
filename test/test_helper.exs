# Debian has PropEr outside the path of an Erlang that is not Debian's.
if not Code.ensure_loaded?(:proper) do
  "/usr/lib/erlang/lib/proper-*/ebin"
  |> Path.wildcard()
  |> Enum.each(&:code.add_pathz(String.to_charlist(&1)))
end

without_proper = if Code.ensure_loaded?(:proper), do: [], else: [:property]

if without_proper != [] do
  IO.puts("PropEr is not installed (on Debian: erlang-proper): property tests are left out")
end

{:ok, _} = Reactor.Diary.Pages.start()

ExUnit.start(capture_log: true, assert_receive_timeout: 20_000, exclude: without_proper)
