defmodule Reactor.Port.Child do
  @moduledoc false

  # One child: its port, its calls, and its restarts. This process stays when the child dies; what was sent to that
  # fails at once, what was not sent yet waits for the next one, which is started after a pause that grows.

  use GenServer

  import Reactor.Port.Asked, only: [is_running: 2]
  import Reactor.Port.Patience, only: [is_caller: 3]

  alias Reactor.Port.{Asked, Options, Outstanding, Patience, Pool, Running}
  alias Reactor.Port.Child.{Incoming, Life, Requests, State}

  @request :"$reactor_port"

  @spec start_link({pid, pos_integer, Pool.board(), Options.t()}) :: GenServer.on_start()
  def start_link(init), do: GenServer.start_link(__MODULE__, init)

  @doc "As a child of a pool."
  @spec child_spec({pid, pos_integer, Pool.board(), Options.t()}) :: Supervisor.child_spec()
  def child_spec({_pool, index, _board, options} = init) do
    %{
      id: {__MODULE__, index},
      # Not the options: a supervisor shows this in its reports.
      start: {__MODULE__, :start_hidden, [fn -> init end]},
      shutdown: Running.longest(options)
    }
  end

  @doc false
  @spec start_hidden(fun) :: GenServer.on_start()
  def start_hidden(init), do: start_link(init.())

  @doc "Waits until it has started for the first time, or could not."
  @spec ready(pid) :: :ok | {:error, term}
  def ready(child), do: GenServer.call(child, :ready, :infinity)

  @spec info(pid) :: {Options.t(), map}
  def info(child), do: GenServer.call(child, :info)

  # --- the process ----------------------------------------------------------------------------

  @impl true
  def init({pool, index, board, options}) do
    Process.flag(:trap_exit, true)
    {:ok, tasks} = Task.Supervisor.start_link()
    state = State.new(index, board, options, tasks)
    :ok = Pool.join(pool, index, board, State.known(state))
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  @impl true
  def handle_call(:ready, _from, %{status: :up} = state), do: {:reply, :ok, state}

  def handle_call(:ready, _from, %{status: {:failing, reason}} = state),
    do: {:reply, {:error, reason}, state}

  def handle_call(:ready, from, state), do: {:noreply, %{state | asking: [from | state.asking]}}

  def handle_call(:info, _from, state), do: {:reply, {state.options, State.info(state)}, state}

  @impl true
  def handle_info({@request, _, _, _, _, _} = request, state),
    do: {:noreply, Requests.take(state, request)}

  def handle_info(:impatient, state), do: {:noreply, Requests.give_up(state, [])}

  def handle_info({:DOWN, monitor, :process, pid, _reason}, %{patience: patience} = state)
      when is_caller(patience, pid, monitor) do
    {dead, patience} = Patience.dead(patience, pid)
    {:noreply, Requests.give_up(%{state | patience: patience}, dead)}
  end

  def handle_info({port, {:data, data}}, %{port: port} = state),
    do: {:noreply, Incoming.take(state, data)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    Running.ended(state.process)
    {:noreply, Life.down(state, {:exit, status})}
  end

  # Writing to it failed: it has just died, most likely, or has closed its input.
  def handle_info({:EXIT, port, _reason}, %{port: port} = state) do
    Running.lost(state.process)
    {:noreply, Life.down(state, :closed)}
  end

  def handle_info({:late, port}, %{port: port, status: :starting} = state),
    do: {:noreply, Life.kill(state, "it did not start within its start_timeout", :start_timeout)}

  def handle_info({:hang, port}, %{port: port} = state), do: {:noreply, Requests.hanging(state)}

  def handle_info({:EXIT, writer, _reason}, %{writer: writer} = state) when is_pid(writer),
    do: {:noreply, Requests.flush(%{state | writer: nil})}

  def handle_info({ran, result}, %{asked: asked} = state)
      when is_running(asked, ran) do
    Process.demonitor(ran, [:flush])
    {:noreply, Incoming.asked(state, Asked.served(asked, ran, result))}
  end

  def handle_info({:DOWN, ran, _, _, reason}, %{asked: asked} = state)
      when is_running(asked, ran),
      do: {:noreply, Incoming.asked(state, Asked.served(asked, ran, {:exit, reason}))}

  def handle_info(:restart, %{port: nil} = state), do: {:noreply, start(state)}

  # Of its tasks. Writers and ports of before end normally.
  def handle_info({:EXIT, pid, reason}, state) when is_pid(pid) and reason != :normal,
    do: {:stop, reason, state}

  # Of a child before.
  def handle_info(_message, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    for caller <- callers(state), do: Pool.answer(caller, {:error, :closed})

    if state.port do
      Running.finish(state.process)
      Life.stopped(state, :shutdown)
    end
  end

  defp callers(state) do
    {sent, outstanding} = Outstanding.drop_sent(state.outstanding)
    {waiting, _none} = Outstanding.drop_waiting(outstanding)
    sent ++ waiting
  end

  defp start(state), do: state |> Life.start() |> Requests.flush()
end
