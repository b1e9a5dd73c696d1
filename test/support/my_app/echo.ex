defmodule MyApp.Echo do
  @moduledoc false

  # The server of the documentation's examples.

  use Reactor

  def handle(connection) do
    case Reactor.Socket.recv(connection) do
      {:ok, data} ->
        Reactor.Socket.send(connection, data)
        handle(connection)

      {:error, _closed} ->
        :ok
    end
  end
end
