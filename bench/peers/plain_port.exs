# A plain port, as it is written by hand: one process owns it, and has one call at a time answered by plain_port.py. Two
# bytes of length, terms in the external format.

Code.require_file("../port_calls.exs", __DIR__)

defmodule PlainPort do
  def start(python, script) do
    spawn_link(fn ->
      options = [:binary, packet: 2, args: [script]]
      loop(Port.open({:spawn_executable, python}, options))
    end)
  end

  def call(server, request) do
    reference = make_ref()
    send(server, {:call, self(), reference, request})

    receive do
      {^reference, answer} -> answer
    end
  end

  defp loop(port) do
    receive do
      {:call, caller, reference, request} ->
        Port.command(port, :erlang.term_to_binary(request))

        receive do
          {^port, {:data, data}} -> send(caller, {reference, :erlang.binary_to_term(data)})
        end

        loop(port)
    end
  end
end

python = System.find_executable(System.get_env("PYO3_PYTHON", "python3"))
server = PlainPort.start(python, Path.join(__DIR__, "plain_port.py"))
PortCalls.run(fn n -> PlainPort.call(server, {:twice, n}) end)
