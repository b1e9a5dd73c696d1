defmodule Reactor.Python.Supervisor do
  @moduledoc false

  # The Python contexts of one server, a process each. One that dies is started again;
  # the others go on accepting from the same listening socket.

  use Supervisor

  alias Reactor.Server

  @spec start_link(Server.board()) :: Supervisor.on_start()
  def start_link(board), do: Supervisor.start_link(__MODULE__, board)

  @doc "The processes of the contexts that run."
  @spec contexts(pid) :: [pid]
  def contexts(supervisor) do
    for {_id, pid, _type, _modules} <- Supervisor.which_children(supervisor), is_pid(pid), do: pid
  end

  @impl true
  def init(board) do
    Server.register(board, :contexts)
    %{contexts: n} = Server.listener(board)

    children =
      for index <- 1..n do
        Supervisor.child_spec({Reactor.Python.Context, {board, index}}, id: index)
      end

    Supervisor.init(children, strategy: :one_for_one)
  end
end
