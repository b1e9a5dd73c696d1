defmodule Reactor.Python.Pause do
  @moduledoc false

  # The process of a context that has died too often, before it starts again. It becomes that context's process when the
  # pause is over. The supervisor does not wait for it, so others are answered and ended meanwhile.

  alias Reactor.Python.Context
  alias Reactor.Server

  @doc "Starts it; the context starts after `pause` ms."
  @spec start_link(Server.board(), index :: pos_integer, pause :: pos_integer) :: {:ok, pid}
  def start_link(board, index, pause),
    do: :proc_lib.start_link(__MODULE__, :init, [self(), board, index, pause])

  @doc false
  @spec init(pid, Server.board(), pos_integer, pos_integer) :: no_return
  def init(supervisor, board, index, pause) do
    :proc_lib.init_ack(supervisor, {:ok, self()})
    wait(:erlang.start_timer(pause, self(), :start))

    case Context.init({board, index}) do
      {:ok, state} -> :gen_server.enter_loop(Context, [], state)
      {:stop, reason} -> exit(reason)
    end
  end

  # Other questions wait for the context.
  defp wait(timer) do
    receive do
      {:timeout, ^timer, :start} ->
        :ok

      # It has no connections.
      {:"$gen_call", from, :survey} ->
        GenServer.reply(from, :ok)
        wait(timer)

      {:drain, from, reference, _timeout} ->
        send(from, {reference, :drained})
        drained()

      # Only Python knows the answer. Whoever asks that waits for it, and need not wait for the pause.
      {:"$gen_call", _from, {:serve, _socket, _python}} = question ->
        :erlang.cancel_timer(timer)
        send(self(), question)
    end
  end

  # The server ends, and has this process end too.
  defp drained do
    receive do
      {:"$gen_call", from, :survey} -> GenServer.reply(from, :ok)
      {:"$gen_call", from, {:serve, _, _}} -> GenServer.reply(from, {:error, Context.ending()})
    end

    drained()
  end
end
