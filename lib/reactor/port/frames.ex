defmodule Reactor.Port.Frames do
  @moduledoc false

  # Frames with a length in front, of 2 or 4 bytes, as `{:packet, n}` has them. They are made and taken
  # apart here and not by the port driver: so all calls that wait go out in one write, all answers that are
  # there come in as one message, and a length that lies is seen before memory is set aside for it.

  # Not what came.
  @derive {Inspect, except: [:parts]}
  @enforce_keys [:packet, :max]
  defstruct [:packet, :max, parts: [], size: 0, need: 1]

  @typedoc "What came of a frame that is not whole yet; `need` is how much it takes to go on."
  @type t :: %__MODULE__{
          packet: 2 | 4,
          max: pos_integer,
          parts: [binary],
          size: non_neg_integer,
          need: pos_integer
        }

  @spec new(2 | 4, pos_integer) :: t
  def new(packet, max), do: %__MODULE__{packet: packet, max: max}

  @doc "A frame to be written. It must not be longer than its length can say: see `check/2`."
  @spec frame(iodata, 2 | 4) :: iodata
  def frame(body, 4), do: [<<IO.iodata_length(body)::32>>, body]
  def frame(body, 2), do: [<<IO.iodata_length(body)::16>>, body]

  @doc "Whether a body of so many bytes may be sent."
  @spec check(non_neg_integer, pos_integer | :infinity) :: :ok | {:error, {:too_large, map}}
  def check(size, max) when size <= max, do: :ok
  def check(size, max), do: {:error, {:too_large, %{size: size, max: max}}}

  @doc "Takes what was read, and returns the frames that are whole now."
  @spec take(t, binary) :: {:ok, [binary], t} | {:error, {:too_large, map}}
  def take(%{size: size, need: need} = state, data) when size + byte_size(data) < need do
    {:ok, [], %{state | parts: [data | state.parts], size: size + byte_size(data)}}
  end

  def take(%{parts: []} = state, data), do: split(data, state, [])

  def take(state, data) do
    data = [data | state.parts] |> Enum.reverse() |> IO.iodata_to_binary()
    split(data, %{state | parts: []}, [])
  end

  defp split(<<n::32, rest::binary>> = data, %{packet: 4} = state, frames),
    do: split(n, rest, data, state, frames)

  defp split(<<n::16, rest::binary>> = data, %{packet: 2} = state, frames),
    do: split(n, rest, data, state, frames)

  defp split(data, state, frames), do: keep(data, state.packet, state, frames)

  defp split(n, _rest, _data, %{max: max}, _frames) when n > max, do: check(n, max)

  defp split(n, rest, _data, state, frames) when byte_size(rest) >= n do
    {frame, rest} = :erlang.split_binary(rest, n)
    split(rest, state, [frame | frames])
  end

  defp split(n, _rest, data, state, frames), do: keep(data, n + state.packet, state, frames)

  defp keep(<<>>, _need, state, frames),
    do: {:ok, Enum.reverse(frames), %{state | size: 0, need: 1}}

  # A copy: else the little that is left of a chunk keeps all of it.
  defp keep(data, need, state, frames) do
    state = %{state | parts: [:binary.copy(data)], size: byte_size(data), need: need}
    {:ok, Enum.reverse(frames), state}
  end
end
