# Evaluates each line of standard input, and answers with a line that is the value, or what was raised.

defmodule Evaluate.Echo do
  use Reactor

  def handle(connection) do
    with {:ok, data} <- Reactor.Socket.recv(connection),
         :ok <- Reactor.Socket.send(connection, data) do
      handle(connection)
    else
      {:error, _reason} -> :ok
    end
  end
end

{:ok, _started} = Application.ensure_all_started(:reactor)

for line <- IO.stream(:stdio, :line) do
  {value, _binding} = Code.eval_string(line)
  IO.puts("=" <> Base.encode64(:erlang.term_to_binary(value)))
end
