defmodule Reactor.Diary do
  @moduledoc false

  # What happened to the Python protocols of test/support/python/diary.py. They tell it to a process here, wherever
  # they live: what a context remembers ends with it.

  import ExUnit.Assertions
  import Reactor.TransportCase

  @python Path.expand("python", __DIR__)

  defmodule Keeps do
    @moduledoc false
    use Reactor, python: "diary:Keeps"
  end

  defmodule Pages do
    @moduledoc false

    # What happened, by the port of the client; and who lives, of those that were made since somebody asked.

    use GenServer

    def start, do: GenServer.start(__MODULE__, [], name: __MODULE__)

    @impl true
    def init([]), do: {:ok, %{pages: %{}, living: MapSet.new(), peak: 0}}

    @impl true
    def handle_info({page, "made"}, state) do
      living = MapSet.put(state.living, page)
      peak = max(state.peak, MapSet.size(living))
      {:noreply, %{state | pages: Map.put(state.pages, page, "made"), living: living, peak: peak}}
    end

    def handle_info({page, word}, state) do
      living = if word == "lost", do: MapSet.delete(state.living, page), else: state.living
      pages = Map.update(state.pages, page, word, &(&1 <> " " <> word))
      {:noreply, %{state | pages: pages, living: living}}
    end

    @impl true
    def handle_call({:page, page}, _from, state) do
      {:reply, Map.get(state.pages, page, "nothing"), state}
    end

    def handle_call(:peak, _from, state) do
      {:reply, state.peak, %{state | living: MapSet.new(), peak: 0}}
    end
  end

  @doc "Starts a server whose protocols keep a diary."
  def serve_diary(context, options \\ []) do
    serve(context, Keeps, [paths: [@python]] ++ options)
  end

  @doc "Where the protocols of tests are."
  def python, do: @python

  @doc "A client whose page can be asked for when its peer has closed, too."
  def dial_kept(server, options \\ []), do: dial(server, [exit_on_close: false] ++ options)

  @doc "Waits until this is what happened to the protocol of this client."
  def assert_diary(client, words) do
    {:ok, port} = :inet.port(client)
    read = fn -> GenServer.call(Pages, {:page, "#{port}"}) end
    assert eventually(fn -> read.() == words end), "not #{words}, but #{read.()}"
  end

  @doc "How many lived at once, at most, of those that were made since this was asked last."
  def peak, do: GenServer.call(Pages, :peak)

  @doc "Has the protocol of this client make an answer until the gate that this returns is opened."
  def hoard(client) do
    gate = gate()
    :ok = :gen_tcp.send(client, "hoard #{gate.port}")
    reached(gate)
  end

  @doc """
  A module in this directory, with a factory that says `slow`, that is being imported until the gate is
  opened: the factory, and the gate.
  """
  def slow_module(directory) do
    gate = gate()
    name = "slow_#{System.unique_integer([:positive])}"

    File.write!(Path.join(directory, name <> ".py"), """
    import contextlib
    import socket

    import erlang.reactor as reactor

    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", #{gate.port})).recv(1)


    class Slow(reactor.Protocol):
        def connection_made(self, fd, client_info):
            self.write_buffer.extend(b"slow")
            return "close"
    """)

    {name <> ":Slow", gate}
  end

  defp gate do
    {:ok, listening} = :gen_tcp.listen(0, active: false, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(listening)
    %{listening: listening, port: port, waiting: []}
  end

  @doc "Waits until somebody waits at a gate."
  def reached(gate) do
    {:ok, waiting} = :gen_tcp.accept(gate.listening, 20_000)
    %{gate | waiting: [waiting | gate.waiting]}
  end

  @doc "Lets those go that wait at a gate, and who comes later."
  def open(gate) do
    for socket <- [gate.listening | gate.waiting], do: :ok = :gen_tcp.close(socket)
    :ok
  end
end
