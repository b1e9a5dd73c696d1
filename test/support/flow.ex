defmodule Reactor.Flow do
  @moduledoc false

  # Servers with the protocols of test/support/python/flow.py, and who controls and asks them: a server
  # of its own, whose context is another thread of the same interpreter; or, where each context has an
  # interpreter to itself, calls into the contexts of the test's servers.

  import Reactor.TransportCase
  import ExUnit.Assertions

  alias Reactor.{Python, Server}

  @python Path.expand("python", __DIR__)

  defmodule Flows do
    @moduledoc false
    use Reactor, python: "flow:Flow"
  end

  defmodule Tells do
    @moduledoc false
    use Reactor, python: "flow:Tells"
  end

  @doc "A server of protocols of that class."
  def serve_flow(context, class, options \\ []) do
    server = serve(context, Flows, [python: "flow:#{class}", paths: [@python]] ++ options)
    Process.put(__MODULE__, [server | Process.get(__MODULE__, [])])
    server
  end

  @doc "What tells the protocols what to do."
  def controller(%{isolation: isolation}) when isolation != :shared, do: :calls

  def controller(context) do
    context |> Map.put(:transport, :Native) |> serve(Tells, paths: [@python]) |> dial()
  end

  @doc "Asks it, and returns the answer."
  def ask(:calls, question) do
    answers =
      for server <- Process.get(__MODULE__, []),
          context <- server |> Server.board() |> Server.contexts(),
          {:ok, answer} <- [Python.call(context, :flow, :tell, [question])],
          answer != nil,
          do: answer

    # Of a protocol that nobody knows yet.
    List.first(answers, "nothing")
  end

  def ask(controller, question) do
    :ok = :gen_tcp.send(controller, question)
    {:ok, answer} = :gen_tcp.recv(controller, 0, 20_000)
    answer
  end

  @doc "A client whose protocol has a name, and how it is to answer the end of the stream."
  def dial_named(server, name, options \\ [], at_eof \\ "") do
    client = dial(server, options)
    :ok = put(client, "#{name} #{at_eof}")
    assert take(client, 2) == {:ok, "ok"}
    client
  end

  @doc "Waits until the server's context, of which there is one, has seen everything that has come by now."
  def turn(server) do
    for _ <- 1..2, do: server |> dial_named(unique()) |> hang_up()
  end

  @doc "A name that no other test uses."
  def unique, do: "c#{System.unique_integer([:positive])}"
end
