defmodule Reactor.Port.Child.Incoming do
  @moduledoc false

  # What a child sends: answers, and requests of its own.

  require Logger

  import Reactor.Port.Child.State, only: [who: 1]

  alias Reactor.Port.{Asked, Child.Life, Child.Requests, Child.State, Frames, Options}

  @doc "Takes what came of its frames."
  @spec take(State.t(), binary) :: State.t()
  def take(state, data) do
    case Frames.take(state.frames, data) do
      {:ok, frames, left} ->
        Enum.reduce(frames, %{state | frames: left}, &frame/2)

      {:error, {:too_large, %{size: size}}} ->
        Life.kill(
          state,
          "it announced a frame of #{size} bytes, which is more than :max_frame",
          :bad_frame
        )
    end
  end

  # It is killed.
  defp frame(_frame, %{reason: reason} = state) when reason != nil, do: state

  defp frame(frame, state) do
    case state.wire.read(frame, state.part, state.options) do
      {:more, part} -> %{state | part: part}
      read when state.part == [] -> read(read, state)
      read -> read(read, %{state | part: []})
    end
  end

  defp read({:answer, id, answer}, state), do: Requests.answered(state, id, answer)

  defp read({kind, id, request}, state) when kind in [:call, :cast] do
    ordered? = state.asked.order
    # Where the order counts, a cast is answered too.
    who = if kind == :call or ordered?, do: {state.port, id}

    case Asked.ask(state.asked, who, request) do
      {_answers, _asked} = done ->
        asked(state, done)

      :full when ordered? ->
        Life.kill(state, "it asks for more and more, and waits for no answer", :overloaded)

      :full when kind == :call ->
        asked(state, {[{who, :error, state.wire.refusal(:overloaded)}], state.asked})

      :full ->
        Logger.warning(
          "#{who(state)}: a cast of it was dropped, #{Asked.running(state.asked)} run",
          port: Options.label(state.options)
        )

        state
    end
  end

  defp read(:hello, %{status: :starting} = state), do: state |> Life.up() |> Requests.flush()

  defp read(_error, state),
    do: Life.kill(state, "it sent what is no frame of its protocol", :bad_frame)

  @doc "Answers what it asked for. A child before is answered no more, nor one that has not said that it is there."
  @spec asked(State.t(), {[Asked.answer()], Asked.t()}) :: State.t()
  def asked(%{port: port} = state, {answers, asked}) do
    state = %{state | asked: asked}

    case for {{^port, id}, kind, body} <- answers, do: {kind, id, body} do
      [_ | _] = bodies when state.status == :up -> Requests.write(state, bodies)
      _nothing -> state
    end
  end
end
