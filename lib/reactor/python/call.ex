defmodule Reactor.Python.Call do
  @moduledoc false

  # A call into a context: it goes from its caller to the context's thread, and the answer comes from that to
  # the caller, with no process in between. The native side answers every call once: it knows when the context
  # ends, so nobody monitors anything here. Who gives up is sent nothing any more.

  alias Reactor.{Native, Python}

  @type failure :: :closed | :timeout | :overloaded | Python.Error.t()

  @doc "Has a function of `erlang.reactor.context` run on the context's thread, and returns its value."
  @spec run(Native.context(), atom, list, timeout) :: {:ok, term} | {:error, failure}
  def run(context, operation, arguments, timeout) do
    reference = make_ref()

    case Native.call_start(context, reference, operation, arguments, callers()) do
      {:ok, call} ->
        receive do
          {^reference, answer} -> result(answer)
        after
          timeout -> if Native.call_abandon(call), do: {:error, :timeout}, else: late(reference)
        end

      {:error, reason} ->
        {:error, reason}
    end
  end

  # It came at the last moment, or is on its way.
  defp late(reference) do
    receive do
      {^reference, answer} -> result(answer)
    end
  end

  @doc "What an answer of the native side means."
  @spec result({:ok, term} | {:error, atom | map}) :: {:ok, term} | {:error, failure}
  def result({:error, error}) when is_map(error), do: {:error, struct!(Python.Error, error)}
  def result(answer), do: answer

  @doc "Those on whose behalf the calling process runs, as `Task` has them."
  @spec callers() :: [pid]
  def callers, do: Process.get(:"$callers", [])
end
