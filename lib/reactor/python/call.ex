defmodule Reactor.Python.Call do
  @moduledoc """
  A call into Python that goes on while its owner does something else: see `Reactor.Python.call_async/5`.

    * `:owner` - the process that made it, which alone may await it

  Its answer is kept for the owner, who need not ask for it. When the owner ends, so does the call.
  """

  # A call goes from its caller to the context's thread, and the answer comes from that to the caller, with no
  # process in between. The native side answers every call once: it knows when the context ends, so nobody
  # monitors anything here. Who gives up is sent nothing any more.

  alias Reactor.{Native, Python}
  alias Reactor.Python.Conversion

  @enforce_keys [:owner, :native, :operation]
  @derive {Inspect, only: [:owner]}
  defstruct [:owner, :native, :operation]

  @type t :: %__MODULE__{owner: pid, native: Native.call(), operation: atom}

  @type failure :: :closed | :timeout | :overloaded | :cancelled | Python.Error.t()

  @doc false
  @spec run(Native.context(), atom, list, [pid], Conversion.t(), timeout) ::
          {:ok, term} | {:error, failure}
  def run(context, operation, arguments, callers, conversion, timeout) do
    reference = make_ref()
    started = Native.call_start(context, reference, operation, arguments, callers, conversion)

    with {:ok, call} <- started do
      receive do
        {^reference, answer} -> result(answer)
      after
        timeout -> give_up(call, reference)
      end
    end
  end

  # The answer may have come at the last moment, or is on its way.
  defp give_up(call, reference) do
    if Native.call_abandon(call) do
      {:error, :timeout}
    else
      receive do
        {^reference, answer} -> result(answer)
      end
    end
  end

  @doc false
  @spec start(Native.context(), atom, list, [pid], Conversion.t()) ::
          {:ok, t} | {:error, failure}
  def start(context, operation, arguments, callers, conversion) do
    started = Native.call_start(context, nil, operation, arguments, callers, conversion)

    with {:ok, call} <- started do
      {:ok, %__MODULE__{owner: self(), native: call, operation: operation}}
    end
  end

  @doc false
  @spec await(t, timeout) :: {:ok, term} | {:error, failure}
  def await(%__MODULE__{native: call, owner: owner}, timeout) do
    reference = make_ref()

    case Native.call_await(call, reference) do
      {:ok, answer} ->
        result(answer)

      :later ->
        receive do
          {^reference, answer} -> result(answer)
        after
          timeout -> give_up(call, reference)
        end

      :cancelled ->
        {:error, :cancelled}

      :taken ->
        raise ArgumentError, "the call was awaited before: it has one answer"

      :not_owner ->
        raise ArgumentError, "the call is of #{inspect(owner)}, which alone may await it"
    end
  end

  @doc false
  @spec cancel(t) :: :ok
  def cancel(%__MODULE__{native: call}) do
    _ = Native.call_abandon(call)
    :ok
  end

  @doc false
  @spec result({:ok, term} | {:error, atom | map}) :: {:ok, term} | {:error, failure}
  def result({:error, error}) when is_map(error), do: {:error, struct!(Python.Error, error)}
  def result(answer), do: answer
end
