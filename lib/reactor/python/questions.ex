defmodule Reactor.Python.Questions do
  @moduledoc false

  # Has what Python asks answered, in a process for each question: linked to nobody, so that a function may
  # take long and may die. This process only starts them, ends those that nobody waits for any more, and says
  # of what they died. There are several of it, and each has the questions of some contexts.

  use GenServer

  alias Reactor.Native
  alias Reactor.Python.{Functions, Owners}

  # Texts go into an exception, whose text may be part of the next one.
  @longest 4_096

  @doc "As many as there are schedulers."
  @spec child_spec(term) :: Supervisor.child_spec()
  def child_spec(_) do
    %{
      id: __MODULE__,
      start: {PartitionSupervisor, :start_link, [options()]},
      type: :supervisor
    }
  end

  defp options do
    child = %{id: __MODULE__, start: {__MODULE__, :start_link, []}}

    [
      name: __MODULE__,
      child_spec: child,
      with_arguments: fn [], partition -> [partition] end
    ]
  end

  @spec start_link(non_neg_integer) :: GenServer.on_start()
  def start_link(partition), do: GenServer.start_link(__MODULE__, partition)

  @impl true
  def init(partition) do
    Process.flag(:trap_exit, true)
    Native.questions_to(partition)
    {:ok, %{}}
  end

  @impl true
  def handle_info({:"$reactor_question", question}, executors) do
    {pid, _monitor} = spawn_monitor(__MODULE__, :answer, [question])
    {:noreply, Map.put(executors, pid, question)}
  end

  def handle_info({:"$reactor_cancel", pid}, executors) do
    if is_map_key(executors, pid), do: Process.exit(pid, :kill)
    {:noreply, executors}
  end

  def handle_info({:DOWN, _monitor, _, pid, reason}, executors) do
    {question, executors} = Map.pop(executors, pid)
    # If it has answered, this comes too late, and is dropped.
    if question && reason != :normal,
      do: Native.question_answer(question, failure(:exit, reason, []))

    {:noreply, executors}
  end

  def handle_info(_message, executors), do: {:noreply, executors}

  @impl true
  def terminate(_reason, executors) do
    for {pid, _question} <- executors, do: Process.exit(pid, :kill)
  end

  @doc "Answers one question, in the calling process."
  @spec answer(reference) :: :ok
  def answer(question) do
    case Native.question_begin(question) do
      nil ->
        :ok

      {name, arguments, callers} ->
        Process.put(:"$callers", callers)
        Owners.act_for(callers)
        Native.question_answer(question, apply_function(name, arguments))
    end
  end

  defp apply_function(name, arguments) do
    case Functions.fetch(name) do
      {:ok, target} ->
        {:ok, apply_target(target, arguments)}

      :error ->
        text =
          "no function is registered as #{inspect(name)}: Reactor.Python.register_function/2 does that"

        {:error, {"undefined", nil, text, ""}}
    end
  catch
    kind, reason -> failure(kind, reason, __STACKTRACE__)
  end

  defp apply_target({module, function}, arguments), do: apply(module, function, arguments)
  defp apply_target(function, arguments), do: apply(function, arguments)

  defp failure(kind, reason, stacktrace) do
    {type, text} = describe(kind, Exception.normalize(kind, reason, stacktrace))
    {:error, {Atom.to_string(kind), type, cut(text), cut(where(stacktrace))}}
  end

  # What is below the function is ours.
  defp where(stacktrace) do
    case Enum.take_while(stacktrace, &(elem(&1, 0) != __MODULE__)) do
      [] -> ""
      above -> Exception.format_stacktrace(above)
    end
  end

  defp describe(:error, %module{} = exception),
    do: {inspect(module), Exception.message(exception)}

  defp describe(:exit, reason), do: {nil, Exception.format_exit(reason)}
  defp describe(:throw, value), do: {nil, inspect(value)}

  defp cut(text) when byte_size(text) <= @longest, do: text
  defp cut(text), do: String.slice(text, 0, @longest) <> " ..."
end
