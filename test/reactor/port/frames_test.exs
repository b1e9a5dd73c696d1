defmodule Reactor.Port.FramesTest do
  use ExUnit.Case, async: true

  alias Reactor.Port.Frames

  defp feed(frames, pieces) do
    Enum.reduce(pieces, {[], frames}, fn piece, {taken, frames} ->
      {:ok, more, frames} = Frames.take(frames, piece)
      {taken ++ more, frames}
    end)
  end

  defp pieces(<<>>), do: []

  defp pieces(data) do
    n = min(:rand.uniform(20), byte_size(data))
    {piece, rest} = :erlang.split_binary(data, n)
    [piece | pieces(rest)]
  end

  for packet <- [2, 4] do
    test "with #{packet} bytes of length, frames are what was sent, however they come" do
      for _ <- 1..200 do
        sent = for _ <- 1..:rand.uniform(10), do: :crypto.strong_rand_bytes(:rand.uniform(60) - 1)
        data = IO.iodata_to_binary(Enum.map(sent, &Frames.frame(&1, unquote(packet))))
        {taken, frames} = feed(Frames.new(unquote(packet), 100), pieces(data))
        assert taken == sent
        assert {[], ^frames} = feed(frames, [])
      end
    end
  end

  test "a length that is too great is told of as soon as it is there" do
    frames = Frames.new(4, 100)
    assert {:ok, [], frames} = Frames.take(frames, <<0, 0>>)

    assert Frames.take(frames, <<0, 101>>) == {:error, {:too_large, %{size: 101, max: 100}}}
    assert {:ok, ["x"], _} = Frames.take(Frames.new(4, 1), <<0, 0, 0, 1, "x">>)
    assert {:error, _} = Frames.take(Frames.new(4, 100), <<0, 0, 0, 1, "x", 255, 255, 255, 255>>)
  end
end
