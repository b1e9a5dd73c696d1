defmodule Reactor.Application do
  @moduledoc false

  # The application's tree: the runtime first, so that it stops last, because servers need it until the
  # last of their connections is gone. If it fails while they run, they go on: the loops are not its
  # own, and it is started again.

  use Application

  # The longest that the event loops may take to end, in ms.
  @stop_timeout 500

  @impl true
  def start(_type, _args) do
    _table = Reactor.Port.Registry.new()

    children = [
      Reactor.Runtime.Log,
      Reactor.Runtime,
      Reactor.Server.Drain.registry(),
      Reactor.Python.Directory,
      Reactor.Python.Functions,
      Reactor.Python.Questions,
      Reactor.Python.Relay,
      Reactor.Python.Contexts,
      Reactor.Port.Registry,
      {DynamicSupervisor, name: Reactor.ServerSupervisor, strategy: :one_for_one}
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: Reactor.Supervisor)
  end

  # Threads that run Elixir's messages or Python must not outlive the VM's orderly part.
  @impl true
  def stop(_state) do
    Reactor.Native.runtime_stop(@stop_timeout)
    :ok
  end
end
