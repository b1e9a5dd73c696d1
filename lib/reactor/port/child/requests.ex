defmodule Reactor.Port.Child.Requests do
  @moduledoc false

  # What callers ask of a child: it is taken in, sent when the child is there and reads, and answered, or given up.

  import Reactor.Port.Child.State, only: [now: 0, uncount: 2]

  alias Reactor.Port.{Child.Life, Child.State, Frames, Outstanding, Patience, Pool, Wire, Writer}

  # Requests that are sent in one write.
  @batch 64

  @request :"$reactor_port"

  @patient %Patience{}

  @doc "Takes a request, and others that are there, and sends what can be sent."
  @spec take(State.t(), Pool.request()) :: State.t()
  def take(state, request) do
    requests = gather(request)
    requests |> Enum.reduce(state, &admit/2) |> flush() |> attend(requests)
  end

  # What else is there goes out in the same write.
  defp gather(request), do: gather([request], @batch - 1)

  defp gather(requests, 0), do: Enum.reverse(requests)

  defp gather(requests, left) do
    receive do
      {@request, _, _, _, _, _} = request -> gather([request | requests], left - 1)
    after
      0 -> Enum.reverse(requests)
    end
  end

  defp admit({@request, _kind, caller, _, _, _}, %{status: {:failing, reason}} = state) do
    Pool.answer(caller, {:error, reason})
    uncount(state, 1)
  end

  defp admit({@request, kind, caller, pid, body, deadline}, state) do
    # Who casts does not wait for more than a place in the queue.
    request =
      if kind == :call,
        do: {:call, caller, pid, body, deadline},
        else: {:cast, nil, nil, body, :infinity}

    case Outstanding.put(state.outstanding, request) do
      {:ok, outstanding} ->
        if kind == :cast, do: Pool.answer(caller, :ok)
        %{state | outstanding: outstanding}

      :full ->
        Pool.answer(caller, {:error, :overloaded})
        uncount(state, 1)
    end
  end

  @doc "Sends what waits, if it is up and takes it."
  @spec flush(State.t()) :: State.t()
  def flush(%{status: :up, writer: nil} = state) do
    if Outstanding.waiting?(state.outstanding) do
      %{wire: wire, outstanding: %{count: before}} = state

      {requests, _given_up, outstanding} =
        Outstanding.take(state.outstanding, @batch, now(), &wire.next_id/1)

      state
      |> Map.put(:outstanding, outstanding)
      |> uncount(before - outstanding.count)
      |> write(requests)
      |> watch()
      |> flush()
    else
      rest(state)
    end
  end

  def flush(state), do: state

  # What could not be sent at once may be given up before it can be.
  defp attend(%{status: :up, writer: nil} = state, _requests), do: state

  defp attend(state, requests) do
    if Outstanding.waiting?(state.outstanding) do
      pids = for {@request, :call, _caller, pid, _body, _deadline} <- requests, do: pid
      %{state | patience: Patience.watch(state.patience, pids, state.outstanding.soonest)}
    else
      state
    end
  end

  # Nearly always nobody had to wait.
  defp rest(%{patience: patience} = state) when patience == @patient, do: state
  defp rest(state), do: %{state | patience: Patience.rest(state.patience)}

  @doc "Forgets the requests whose time is over, or whose callers are `dead`."
  @spec give_up(State.t(), dead :: [pid]) :: State.t()
  def give_up(%{outstanding: %{count: before}} = state, dead) do
    outstanding = Outstanding.give_up(state.outstanding, now(), dead)
    patience = Patience.wake(state.patience, outstanding.soonest)
    uncount(%{state | outstanding: outstanding, patience: patience}, before - outstanding.count)
  end

  @doc "Writes the frames of these, all in one."
  @spec write(State.t(), [{:call | :cast | :answer | :error, Wire.id() | nil, Wire.body()}]) ::
          State.t()
  def write(%{wire: wire, options: %{packet: packet}} = state, bodies) do
    data =
      for {kind, id, body} <- bodies,
          frame <- wire.frames(kind, id, body),
          do: Frames.frame(frame, packet)

    %{state | writer: Writer.write(state.port, data, state.writer)}
  end

  @doc "An answer has come; its caller decodes it."
  @spec answered(State.t(), Wire.id() | :next, Wire.answer()) :: State.t()
  def answered(state, id, answer) do
    case Outstanding.answered(state.outstanding, id) do
      {:ok, caller, outstanding} ->
        Pool.answer(caller, {:ok, answer})
        uncount(%{state | outstanding: outstanding}, 1)

      :error ->
        Life.kill(state, "it sent an answer that nobody waits for", :bad_frame)
    end
  end

  defp watch(%{options: %{hang: :infinity}} = state), do: state
  defp watch(%{hang_timer: nil} = state), do: watch(state, state.options.hang)
  defp watch(state), do: state

  defp watch(state, time),
    do: %{state | hang_timer: Process.send_after(self(), {:hang, state.port}, time)}

  @doc "It may be that a call takes too long: the child is killed then."
  @spec hanging(State.t()) :: State.t()
  def hanging(state) do
    state = %{state | hang_timer: nil}
    hang = state.options.hang

    case Outstanding.oldest(state.outstanding) do
      nil ->
        state

      since ->
        left = since + hang - now()

        if left > 0,
          do: watch(state, left),
          else: Life.kill(state, "a call takes #{hang} ms", :hang)
    end
  end
end
