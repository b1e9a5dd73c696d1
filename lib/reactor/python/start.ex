defmodule Reactor.Python.Start do
  @moduledoc false

  # What the process of a context does until that is ready: it waits for Python, and is no GenServer yet.

  alias Reactor.{Listener, Native, Python, Server}
  alias Reactor.Python.{Call, Conversion}

  # Has one that starts not start. One that has started by then ends: see `Reactor.Python.Context`.
  @give_up :"$reactor_give_up"

  @doc "Starts a context of its own: it is ready when its factory is imported, if it has one."
  @spec alone(settings :: map, python :: String.t() | nil) ::
          {:ok, Native.context()} | {:error, term}
  def alone(settings, python) do
    with {:ok, context} <- Native.context_start(settings),
         :ok <- await_event(context, :ready),
         :ok <- use_factory(context, python),
         do: {:ok, context}
  end

  @doc "Starts one of a listener's: it is ready when it accepts, if that does now, and does not route."
  @spec of_listener(settings :: map, Server.board(), Listener.t()) ::
          {:ok, Native.context()} | {:error, term}
  def of_listener(settings, board, listener) do
    with {:ok, context} <- Native.context_start(settings),
         :ok <- await_event(context, :ready),
         :ok <- serve_first(context, listener, Server.state(board)),
         do: {:ok, context}
  end

  @doc "Has a context that starts end, by its process, and waits for that."
  @spec give_up(pid) :: :ok
  def give_up(pid) do
    monitor = Process.monitor(pid)
    send(pid, @give_up)

    receive do
      {:DOWN, ^monitor, _, _, _reason} -> :ok
    end
  end

  defp use_factory(_context, nil), do: :ok

  defp use_factory(context, python) do
    reference = make_ref()

    with {:ok, call} <-
           Native.call_start(context, reference, :use_factory, [python], [], %Conversion{}),
         {:ok, nil} <- await_answer(context, call, reference),
         do: :ok
  end

  defp serve_first(context, %{python: python} = listener, :running) when python != nil do
    :ok = Native.context_serve(context, listener.socket, python)
    await_event(context, {:serving, listener.socket})
  end

  # It routes; or does not accept now, and `Context.serve/2` is called when it does again.
  defp serve_first(_context, _listener, _state), do: :ok

  # Imports take as long as they take: who cannot wait starts the server in a process of its own.
  defp await_event(context, event) do
    receive do
      {:"$reactor_context", ^context, ^event} -> :ok
      {:"$reactor_context", ^context, {:failed, error}} -> {:error, struct!(Python.Error, error)}
      {:"$reactor_context", ^context, {:died, message}} -> {:error, {:context_died, message}}
      @give_up -> {:error, :closed}
    end
  end

  defp await_answer(context, call, reference) do
    receive do
      {^reference, answer} ->
        Call.result(answer)

      {:"$reactor_context", ^context, {:died, message}} ->
        {:error, {:context_died, message}}

      @give_up ->
        Native.call_abandon(call)
        {:error, :closed}
    end
  end
end
