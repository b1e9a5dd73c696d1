defmodule Reactor.Python.Relay do
  @moduledoc false

  # Sends what Python has to say to processes of other nodes: that may have to wait for a connection, which
  # Python's threads must not. The native side counts what is under way, and refuses more.

  use GenServer

  alias Reactor.Native

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_), do: GenServer.start_link(__MODULE__, nil)

  @impl true
  def init(_) do
    Native.relay_to()
    {:ok, nil}
  end

  @impl true
  def handle_info({:"$reactor_relay", pid, message}, state) do
    send(pid, message)
    Native.relayed()
    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}
end
