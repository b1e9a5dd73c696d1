defmodule Reactor.PortCase do
  @moduledoc false

  # Ports that end with their test, and what becomes of the processes behind them.

  use ExUnit.CaseTemplate

  @script Path.expand("python/port_script.py", __DIR__)

  using do
    quote do
      import Reactor.PortCase
      import Reactor.TransportCase, only: [eventually: 1]

      alias Reactor.Port
    end
  end

  @doc "The script that most tests call."
  def script, do: @script

  @doc "A port with that script, unless the options have another."
  def open(options \\ []) do
    options = if options[:command], do: options, else: Keyword.put_new(options, :script, @script)
    start_supervised!(Supervisor.child_spec({Reactor.Port, options}, id: make_ref()))
  end

  @doc "The processes of the children, in order."
  def os_pids(port), do: Enum.map(Reactor.Port.info(port).children, & &1.os_pid)

  @doc "Whether nothing is left of a process, no zombie either."
  def gone?(os_pid), do: not File.exists?("/proc/#{os_pid}/stat")

  @doc "Sends a signal."
  def kill(os_pid, signal \\ "KILL") do
    {_, 0} = System.cmd("kill", ["-#{signal}", "#{os_pid}"])
  end

  @doc "Writes a Python script."
  def write_script(directory, code) do
    path = Path.join(directory, "script.py")
    File.write!(path, code)
    path
  end
end
