# Python in a process of its own, called from Elixir:
#
#     mix run examples/calculator.exs

script = Path.join(__DIR__, "calculator.py")

children = [{Reactor.Port, name: Calculator, script: script}]
{:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

IO.inspect(Reactor.Port.call(Calculator, :twice, [21]))
IO.inspect(Reactor.Port.call(Calculator, :sum, [1, 2]))
IO.inspect(Reactor.Port.call(Calculator, :hello, ["world"]))

# What is wrong is a value.
IO.inspect(Reactor.Port.call(Calculator, :thrice, [1]))

# A process that dies costs an answer: the next call is for the next process. What tells of its death is its exit
# status, or a write to it that fails.
[%{os_pid: os_pid}] = Reactor.Port.info(Calculator).children
System.cmd("kill", ["-KILL", "#{os_pid}"])

again = fn again ->
  case Reactor.Port.call(Calculator, :twice, [4]) do
    {:error, reason} when reason in [{:exit, 137}, :closed] -> again.(again)
    answer -> answer
  end
end

IO.inspect(again.(again))

Supervisor.stop(supervisor)
