defmodule Reactor.Runtime do
  @moduledoc false

  # The process that the native side reports to. The loops start when the first socket is made, and
  # stop with the application, not with this process: a restart here disturbs no connection.

  use GenServer

  alias Reactor.Telemetry

  # So many messages in the mailbox of an active owner are too many.
  @owner_behind 100

  # The longest until it is looked again at a process, in ms; the first time it is 1, then twice as long each time.
  @longest_pause 50

  # Where OTP's behaviours wait for the next message.
  @loops [gen_server: :loop, gen_statem: :loop_receive, gen_event: :fetch_msg, erlang: :hibernate]

  @spec start_link(term) :: GenServer.on_start()
  def start_link(_options) do
    GenServer.start_link(__MODULE__, [], name: __MODULE__)
  end

  @impl true
  def init([]) do
    with {:module, _} <- Code.ensure_loaded(Reactor.Native),
         :ok <- Reactor.Native.runtime_start(options()) do
      Telemetry.refresh()
      {:ok, nil}
    else
      # Why it is so was logged when the module did not load.
      {:error, :on_load_failure} -> {:stop, :native_library_not_loaded}
      {:error, reason} -> {:stop, reason}
    end
  end

  # 0 loops: as many as measured best.
  defp options do
    %{
      loops: Application.get_env(:reactor, :loops, 0),
      report_to: self()
    }
  end

  # A loop sends nothing more to an active owner until it hears that what it sent is being taken.
  @impl true
  def handle_info({:"$reactor_pressure", owner, socket}, state) do
    relieve(owner, socket, 1)
    # The socket must not be kept by what is left of the message: here and below.
    {:noreply, state, :hibernate}
  end

  def handle_info({:pressure, owner, socket, pause}, state) do
    relieve(owner, socket, pause)
    {:noreply, state, :hibernate}
  end

  # A loop does not close the connection of an active owner, whose server goes away, before it hears
  # that the owner has done what it was sent.
  def handle_info({:"$reactor_is_quiet", owner, socket, pause}, state) do
    case quiet(owner) do
      false ->
        again = {:"$reactor_is_quiet", owner, socket, min(2 * pause, @longest_pause)}
        Process.send_after(self(), again, pause)

      how ->
        Reactor.Native.is_quiet(socket, how == :surely)
    end

    {:noreply, state, :hibernate}
  end

  # Of the loops, which belong to no server.
  def handle_info({:"$reactor_report", reports}, state) do
    for {:load, %{kind: :elixir} = load} <- reports do
      measurements = %{
        monotonic_time: System.monotonic_time(),
        turns: load.turns,
        busy_time: Telemetry.native(load.busy_ns),
        longest_turn: Telemetry.native(load.longest_ns)
      }

      Telemetry.execute([:reactor, :loop, :load], measurements, %{loop: load.name})
    end

    {:noreply, state}
  end

  def handle_info(_message, state), do: {:noreply, state}

  defp relieve(owner, socket, pause) do
    case Process.info(owner, :message_queue_len) do
      {_, n} when n > @owner_behind ->
        again = {:pressure, owner, socket, min(2 * pause, @longest_pause)}
        Process.send_after(self(), again, pause)

      _short_or_gone ->
        taken(socket)
    end
  end

  defp taken({:udp, socket}), do: Reactor.Native.datagram_relieve(socket)
  defp taken(socket), do: Reactor.Native.relieve(socket)

  # It waits, with nothing in its mailbox. In the loop of a behaviour it is in the middle of nothing;
  # elsewhere it may wait for an answer that it needs for its own.
  defp quiet(owner) do
    case Process.info(owner, [:status, :message_queue_len, :current_function]) do
      [status: :waiting, message_queue_len: 0, current_function: {module, function, _arity}] ->
        if {module, function} in @loops, do: :surely, else: :perhaps

      nil ->
        :surely

      _busy ->
        false
    end
  end
end
