defmodule Reactor.LogRelay do
  @moduledoc false

  # A logger handler that sends log messages to a test, which so can wait for one.

  import ExUnit.Assertions

  @doc "Has everything that is logged sent to the caller until its test ends."
  def attach do
    id = :"relay_#{System.unique_integer([:positive])}"
    :ok = :logger.add_handler(id, __MODULE__, %{config: %{pid: self()}})
    ExUnit.Callbacks.on_exit(fn -> :logger.remove_handler(id) end)
  end

  @doc "Waits for a message that matches, and returns `{level, text, metadata}`."
  def assert_logged(pattern, deadline \\ System.monotonic_time(:millisecond) + 20_000) do
    receive do
      {__MODULE__, level, text, metadata} ->
        if text =~ pattern do
          {level, text, metadata}
        else
          assert_logged(pattern, deadline)
        end
    after
      max(deadline - System.monotonic_time(:millisecond), 0) ->
        flunk("nothing was logged that matches #{inspect(pattern)}")
    end
  end

  @doc false
  def log(%{level: level, msg: message, meta: metadata}, %{config: %{pid: pid}}) do
    send(pid, {__MODULE__, level, text(message), metadata})
  end

  defp text({:string, text}), do: IO.chardata_to_string(text)
  defp text({:report, _of_otp}), do: ""

  defp text({format, arguments}),
    do: format |> :io_lib.format(arguments) |> IO.chardata_to_string()
end
