defmodule Reactor.Python.Items do
  @moduledoc false

  # The stream of Reactor.Python.stream/5 and stream_eval/4: it is opened in the context when it is enumerated,
  # asked for some items at a time, and closed when that is over. The context closes those of processes
  # that end.

  require Logger

  alias Reactor.Python
  alias Reactor.Python.{Call, Context, Conversion, Directory, Owners}

  # For the code that a generator has left to run when it is closed, in ms.
  @close 5_000

  @doc "`operation` is the function of `erlang.reactor.context` that makes what is iterated over."
  @spec stream(
          Context.server(),
          operation :: String.t(),
          arguments :: list,
          Context.namespace(),
          Conversion.t(),
          demand :: pos_integer,
          timeout
        ) :: Enumerable.t()
  def stream(context, operation, arguments, namespace, conversion, demand, timeout) do
    Stream.resource(
      fn -> open(context, [operation | arguments], namespace, conversion, timeout) end,
      &next(&1, demand, timeout),
      &close/1
    )
  end

  defp open(context, asked, namespace, conversion, timeout) do
    # What is open belongs to this process, whatever names it has.
    with {:ok, native, key} <- Directory.target(context, namespace, [self()]),
         asked = [Owners.key(self()) | asked ++ [key]],
         {:ok, number} <- run(native, :stream, asked, conversion, timeout) do
      {native, number}
    else
      {:error, reason} -> raise error(reason)
    end
  end

  defp run(native, operation, arguments, conversion \\ %Conversion{}, timeout),
    do: Call.run(native, operation, arguments, Owners.callers(), conversion, timeout)

  defp next(:over, _demand, _timeout), do: {:halt, :over}

  defp next({native, number} = open, demand, timeout) do
    case run(native, :take, [number, demand], timeout) do
      {:ok, {items, false}} -> {items, open}
      {:ok, {items, true}} -> {items, finish(open)}
      {:error, reason} -> raise error(reason)
    end
  end

  defp finish(open) do
    close(open)
    :over
  end

  defp close(:over), do: :ok

  defp close({native, number}) do
    case run(native, :close_stream, [number], @close) do
      {:error, %Python.Error{} = error} ->
        Logger.warning("a Python generator could not be closed: " <> Exception.message(error))

      _closed_or_gone ->
        :ok
    end
  end

  defp error(%Python.Error{} = error), do: error
  defp error(:timeout), do: %Python.Error{type: "timeout", message: "there was no item in time"}
  defp error(:noproc), do: %Python.Error{type: "noproc", message: "there is no such context"}
  defp error(:closed), do: %Python.Error{type: "closed", message: "the context has ended"}

  defp error(:overloaded),
    do: %Python.Error{type: "overloaded", message: "too many calls wait for the context"}
end
