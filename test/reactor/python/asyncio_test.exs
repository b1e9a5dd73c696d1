defmodule Reactor.Python.AsyncioTest do
  # Counts what the whole VM has: nothing may run beside it.
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 1, eventually: 2]

  alias Reactor.{Certificates, Isolations, Python}

  @python Path.expand("../../support/python", __DIR__)

  # What is cancelled or interrupted may be logged.
  @moduletag :capture_log

  defp start(context, options \\ []) do
    options = [isolation: context.isolation, paths: [@python]] ++ options
    {:ok, python} = Python.start_context(options)
    {:ok, keeper} = Python.Context.keeper(python)
    on_exit(fn -> Python.Contexts.stop(keeper) end)
    python
  end

  # Like `start/2`, of code that the test's process uses.
  defp started(context, code, options \\ []) do
    python = start(context, options)
    :ok = Python.exec(python, code)
    python
  end

  # A coroutine of the test's that waits, and one that lets it go on.
  @event """
  import asyncio
  event = asyncio.Event()
  async def wait():
      await event.wait()
      return "waited"
  async def release():
      event.set()
  """

  # A task that waits until `release/1`, in a context that has these names.
  defp wait(python) do
    # A process of its own has names of its own.
    ask = fn -> Python.call(python, :__main__, :wait, [], namespace: :shared) end
    before = waiting(python)
    waits = Task.async(ask)
    assert eventually(fn -> waiting(python) == before + 1 end)
    waits
  end

  defp release(python),
    do: assert(Python.call(python, :__main__, :release, [], namespace: :shared) == {:ok, nil})

  defp waiting(python) do
    {:ok, %{calls_waiting: waiting}} = Python.info(python)
    waiting
  end

  defp listen do
    {:ok, listener} =
      :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}, backlog: 512])

    on_exit(fn -> :gen_tcp.close(listener) end)
    {:ok, port} = :inet.port(listener)
    {listener, port}
  end

  # Both ends of a connection, of which the second is a descriptor that is nobody else's.
  defp connect({listener, port}) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    {:ok, accepted} = :gen_tcp.accept(listener)
    {:ok, fd} = :inet.getfd(accepted)
    {:ok, copy} = :py.dup_fd(fd)
    :gen_tcp.close(accepted)
    {client, copy}
  end

  defp fds, do: length(File.ls!("/proc/self/fd"))

  for isolation <- Isolations.all() do
    describe "#{isolation}: a coroutine" do
      @describetag isolation: isolation

      test "is awaited, while others are, and calls go on", context do
        python = start(context, setup: @event)
        waiting = for _ <- 1..3, do: wait(python)
        assert Python.eval(python, "1 + 1") == {:ok, 2}
        assert Enum.all?(waiting, &(Task.yield(&1, 0) == nil))
        release(python)
        assert Task.await_many(waiting) == List.duplicate({:ok, "waited"}, 3)
        assert waiting(python) == 0
      end

      test "may be what eval comes to, or anything with __await__", context do
        python =
          started(context, """
          import asyncio
          class Awaited:
              def __await__(self):
                  yield from asyncio.sleep(0).__await__()
                  return 7
          """)

        assert Python.eval(python, "asyncio.sleep(0, 'slept')") == {:ok, "slept"}
        assert Python.call(python, :__main__, :Awaited) == {:ok, 7}
        assert Python.call(python, :asyncio, :sleep, [0.001, "again"]) == {:ok, "again"}
      end

      test "says what it raised, and where", context do
        python =
          started(context, """
          import asyncio
          async def fail():
              await asyncio.sleep(0)
              raise KeyError("gone")
          async def give_up():
              asyncio.current_task().cancel()
              await asyncio.sleep(0)
          """)

        assert {:error, %Python.Error{type: "KeyError"} = error} =
                 Python.call(python, :__main__, :fail)

        assert error.traceback =~ "in fail"

        assert {:error, %Python.Error{type: "CancelledError", message: message}} =
                 Python.call(python, :__main__, :give_up)

        assert message =~ "cancelled"
        assert {:error, %Python.Error{type: "TypeError"}} = Python.eval(python, "asyncio.sleep()")

        # Nothing outside of Python is like what this returns.
        assert {:error, %Python.Error{type: "TypeError"}} =
                 Python.eval(python, "asyncio.sleep(0, object())")
      end

      test "is cancelled when its time is over, or its caller dies", context do
        python =
          started(context, """
          import asyncio
          async def wait(said):
              try:
                  await asyncio.sleep(60)
              except asyncio.CancelledError:
                  said.append("cancelled")
                  raise
          said = []
          async def both():
              return await wait(said)
          """)

        {:ok, call} = Python.call_async(python, :__main__, :both)
        assert eventually(fn -> tasks(python) == 1 end)
        assert Python.await(call, 50) == {:error, :timeout}
        assert eventually(fn -> Python.eval(python, "said") == {:ok, ["cancelled"]} end)

        sleeping =
          spawn(fn -> Python.call(python, :asyncio, :sleep, [60], timeout: :infinity) end)

        assert eventually(fn -> waiting(python) == 1 end)
        # Its task too.
        assert eventually(fn -> tasks(python) == 1 end)
        Process.exit(sleeping, :kill)
        assert eventually(fn -> waiting(python) == 0 end)
        assert eventually(fn -> tasks(python) == 0 end)
        refute_received _
      end

      test "that never waits is interrupted, and no other", context do
        python =
          started(
            context,
            """
            import asyncio
            async def spin():
                while True:
                    pass
            """,
            callback_timeout: 200,
            setup: @event
          )

        other = wait(python)

        assert {:error, %Python.Error{type: "CallbackTimeout", traceback: traceback}} =
                 Python.call(python, :__main__, :spin)

        assert traceback =~ "in spin"
        release(python)
        assert Task.await(other) == {:ok, "waited"}
      end

      test "that never waits is interrupted when nobody wants it any more", context do
        python =
          started(
            context,
            """
            import asyncio, erlang
            heard = []
            def spin():
                while True:
                    pass
            async def busy(whom):
                await asyncio.sleep(0)
                try:
                    erlang.send(whom, "begun")
                    spin()
                except BaseException as error:
                    heard.append(type(error).__name__)
                    raise
            """,
            setup: @event
          )

        other = wait(python)
        {:ok, call} = Python.call_async(python, :__main__, :busy, [self()])
        assert_receive "begun"
        assert Python.await(call, 50) == {:error, :timeout}
        assert Python.eval(python, "heard") == {:ok, ["CallTimeout"]}
        release(python)
        assert Task.await(other) == {:ok, "waited"}
      end

      test "is not interrupted for another one that nobody wants any more", context do
        python =
          started(context, """
          import asyncio, erlang, time
          async def slow(whom):
              await asyncio.sleep(0)
              erlang.send(whom, "begun")
              until = time.monotonic() + 0.6
              while time.monotonic() < until:
                  pass
              return "slow"
          """)

        {:ok, given_up} = Python.call_async(python, :asyncio, :sleep, [60])
        assert eventually(fn -> tasks(python) == 1 end)
        {:ok, slow} = Python.call_async(python, :__main__, :slow, [self()])
        assert_receive "begun"
        assert Python.await(given_up, 0) == {:error, :timeout}
        assert Python.await(slow) == {:ok, "slow"}
        assert eventually(fn -> tasks(python) == 0 end)
      end

      # In a process of its own a thousand that are given up take longer to end than this waits.
      if isolation != :process do
        test "counts among the calls that wait", context do
          python = start(context)
          test = self()

          sleepers =
            for _ <- 1..1_024 do
              spawn(fn ->
                send(test, Python.call(python, :asyncio, :sleep, [60], timeout: :infinity))
              end)
            end

          assert eventually(fn -> waiting(python) == 1_024 end)
          assert Python.call(python, :asyncio, :sleep, [0]) == {:error, :overloaded}
          for sleeper <- sleepers, do: Process.exit(sleeper, :kill)
          assert eventually(fn -> waiting(python) == 0 end)
          assert eventually(fn -> Python.call(python, :asyncio, :sleep, [0, 1]) == {:ok, 1} end)
          refute_received _
        end
      end

      test "has child processes with their own statuses", context do
        python =
          started(context, """
          import asyncio
          async def run(*args):
              process = await asyncio.create_subprocess_exec(*args, stdout=-1)
              out, _ = await process.communicate()
              return process.returncode, out
          async def shell(line):
              process = await asyncio.create_subprocess_shell(line)
              return await process.wait()
          """)

        assert Python.call(python, :__main__, :run, ["echo", "hello"]) == {:ok, {0, "hello\n"}}
        assert Python.call(python, :__main__, :run, ["false"]) == {:ok, {1, ""}}
        assert Python.call(python, :__main__, :shell, ["exit 7"]) == {:ok, 7}
        assert Python.call(python, :__main__, :shell, ["kill -9 $$"]) == {:ok, -9}
      end

      test "may ask Elixir without holding others up", context do
        name = "asked_#{System.unique_integer([:positive])}"
        test = self()

        :ok =
          Python.register_function(name, fn n ->
            send(test, {:asked, self()})
            receive(do: (:go -> n * 2))
          end)

        on_exit(fn -> Python.unregister_function(name) end)

        python =
          started(context, """
          import erlang
          async def ask(name, n):
              return await erlang.async_call(name, n)
          """)

        asked = Task.async(fn -> Python.call(python, :erlang, :async_call, [name, 4]) end)
        assert_receive {:asked, process}, 5_000
        assert Python.eval(python, "1 + 1") == {:ok, 2}
        send(process, :go)
        assert Task.await(asked) == {:ok, 8}

        assert {:error, %Python.Error{type: "CallError"}} =
                 Python.call(python, :__main__, :ask, ["no_such_function", 1])
      end

      test "ends with its context, and nothing of it is left", context do
        before = fds()

        {:ok, python} =
          Python.start_context(isolation: context.isolation, paths: [@python], drain_timeout: 200)

        :ok =
          Python.exec(python, """
          import asyncio
          async def leave():
              asyncio.create_task(asyncio.sleep(60))
              async def handle(reader, writer):
                  pass
              await asyncio.start_server(handle, "127.0.0.1", 0)
              await asyncio.create_subprocess_exec("sleep", "60")
              await asyncio.get_running_loop().run_in_executor(None, len, "")
          """)

        assert Python.call(python, :__main__, :leave) == {:ok, nil}
        sleeping = Task.async(fn -> Python.call(python, :asyncio, :sleep, [60]) end)
        assert eventually(fn -> waiting(python) == 1 end)
        assert Python.stop_context(python) == :ok
        assert Task.await(sleeping) == {:error, :closed}
        assert eventually(fn -> fds() <= before end)
      end

      test "that is waited for is let finish when its context ends", context do
        {:ok, python} = Python.start_context(isolation: context.isolation, drain_timeout: 60_000)

        {listener, port} = listen()

        :ok =
          Python.exec(python, """
          import asyncio
          async def hear(port):
              reader, writer = await asyncio.open_connection("127.0.0.1", port)
              return await reader.read(5)
          """)

        {:ok, call} = Python.call_async(python, :__main__, :hear, [port])
        {:ok, accepted} = :gen_tcp.accept(listener, 20_000)
        stops = Task.async(fn -> Python.stop_context(python) end)
        assert eventually(fn -> match?({:ok, %{state: :stopping}}, Python.info(python)) end)
        :ok = :gen_tcp.send(accepted, "heard")
        assert Python.await(call) == {:ok, "heard"}
        assert Task.await(stops) == :ok
      end

      test "runs in the loop of its own context", context do
        [one, other] = [start(context), start(context)]
        code = "async def loop():\n    import asyncio\n    return id(asyncio.get_running_loop())"
        for python <- [one, other], do: :ok = Python.exec(python, code)
        {:ok, loop} = Python.call(one, :__main__, :loop)
        assert Python.call(one, :__main__, :loop) == {:ok, loop}
        assert {:ok, another} = Python.call(other, :__main__, :loop)
        if context.isolation == :shared, do: assert(another != loop)
      end
    end

    # The numbers of descriptors are the VM's.
    if isolation != :process do
      describe "#{isolation}: a descriptor" do
        @describetag isolation: isolation

        test "is given to a coroutine, or to a function that runs one", context do
          python = start(context)
          listener = listen()

          for function <- [:handle_connection, :handle_connection_sync] do
            {client, fd} = connect(listener)
            handling = Task.async(fn -> Python.call(python, :aio_echo, function, [fd]) end)
            :ok = :gen_tcp.send(client, "hello")
            assert :gen_tcp.recv(client, 5, 5_000) == {:ok, "hello"}
            :ok = :gen_tcp.close(client)
            assert Task.await(handling) == {:ok, "over"}
          end
        end

        test "begins in the clear and goes on with TLS", context do
          python = start(context)
          {client, fd} = connect(listen())
          %{certfile: certfile, keyfile: keyfile} = Certificates.get()
          arguments = [fd, certfile, keyfile]
          handling = Task.async(fn -> Python.call(python, :aio_echo, :upgrade, arguments) end)
          :ok = :gen_tcp.send(client, "STARTTLS\n")
          assert :gen_tcp.recv(client, 9, 5_000) == {:ok, "go ahead\n"}
          {:ok, client} = :ssl.connect(client, secure(), 5_000)
          :ok = :ssl.send(client, "hello")
          assert :ssl.recv(client, 5, 5_000) == {:ok, "hello"}
          :ok = :ssl.close(client)
          assert Task.await(handling) == {:ok, "over"}
        end

        for {name, secure?} <- [{"plain", false}, {"secure", true}] do
          @tag timeout: 120_000
          test "is one of 200 #{name} ones, some of them cancelled, of which nothing is left",
               context do
            python = start(context)
            # What the first one makes stays: the loop, and what was imported.
            {client, handling} = serve_one(python, listen(), unquote(secure?), 10_000)
            assert echo(client, "first", unquote(secure?)) == "first"
            close(client, unquote(secure?))
            assert Task.await(handling) == {:ok, "over"}
            assert eventually(fn -> tasks(python) == 0 end)
            {fds, threads} = {fds(), threads(python)}

            test_200(python, unquote(secure?))

            assert eventually(fn -> tasks(python) == 0 end, in_time())
            # Contexts of other tests may have been about to end.
            assert eventually(fn -> fds() <= fds end, in_time())
            assert eventually(fn -> threads(python) <= threads end, in_time())
            assert waiting(python) == 0
          end
        end
      end
    end
  end

  defp in_time, do: System.monotonic_time(:millisecond) + 15_000

  # What asks is a task too, and does not count.
  defp tasks(python) do
    {:ok, {tasks, _threads}} = Python.call(python, :aio_echo, :census)
    tasks
  end

  defp threads(python) do
    {:ok, {_tasks, threads}} = Python.call(python, :aio_echo, :census)
    threads
  end

  # 200 at once: 120 echo to their end, the callers of 40 have no time for that, the callers of 40 die.
  defp test_200(python, secure?) do
    {listener, port} = listen()
    clients = for n <- 1..200, do: Task.async(fn -> client(port, "client #{n}", secure?) end)

    handlers =
      for n <- 1..200, into: %{} do
        {:ok, accepted} = :gen_tcp.accept(listener, 10_000)
        {:ok, {_, client}} = :inet.peername(accepted)
        {:ok, fd} = :py.dup_fd(accepted)
        :gen_tcp.close(accepted)
        fate = Enum.at([:echo, :echo, :echo, :time, :death], rem(n, 5))
        {client, {fate, handle(python, fd, secure?)}}
      end

    for _ <- 1..200 do
      assert_receive {:client, pid, client}, 60_000
      {fate, {handler, _monitor}} = handlers[client]
      if fate == :death, do: Process.exit(handler, :kill), else: send(handler, fate)
      send(pid, {:fate, fate})
    end

    fates = Enum.frequencies(Task.await_many(clients, 60_000))
    assert fates == %{echoed: 120, closed: 80}
    :gen_tcp.close(listener)

    for {_, {fate, {handler, monitor}}} <- handlers do
      assert_receive {:DOWN, ^monitor, _, ^handler, reason}, 30_000

      case fate do
        :echo -> assert reason == {:shutdown, {:ok, "over"}}
        :time -> assert reason == {:shutdown, {:error, :timeout}}
        :death -> assert reason == :killed
      end
    end
  end

  # It is told when to give up, or when it may wait as long as that takes.
  defp handle(python, fd, secure?) do
    spawn_monitor(fn ->
      arguments = arguments(fd, secure?)
      {:ok, call} = Python.call_async(python, :aio_echo, function(secure?), arguments)

      timeout =
        receive do
          :time -> 0
          :echo -> :infinity
        end

      exit({:shutdown, Python.await(call, timeout)})
    end)
  end

  defp function(false), do: :handle_connection
  defp function(true), do: :handle_secure

  defp arguments(fd, false), do: [fd]

  defp arguments(fd, true) do
    %{certfile: certfile, keyfile: keyfile} = Certificates.get()
    [fd, certfile, keyfile]
  end

  defp client(port, text, secure?) do
    client = dial(port, secure?)
    {:ok, {_, own}} = if secure?, do: :ssl.sockname(client), else: :inet.sockname(client)
    [test | _] = Process.get(:"$callers")
    ^text = echo(client, text, secure?)
    send(test, {:client, self(), own})

    receive do
      {:fate, :echo} ->
        for _ <- 1..5, do: ^text = echo(client, text, secure?)
        close(client, secure?)
        :echoed

      {:fate, _cancelled} ->
        {:error, _closed} = recv(client, 0, secure?)
        close(client, secure?)
        :closed
    end
  end

  defp serve_one(python, {listener, port}, secure?, timeout) do
    dialing = Task.async(fn -> {:ok, dial(port, secure?, self_of(python))} end)
    {:ok, accepted} = :gen_tcp.accept(listener, 10_000)
    {:ok, fd} = :py.dup_fd(accepted)
    :gen_tcp.close(accepted)
    arguments = arguments(fd, secure?)

    handling =
      Task.async(fn ->
        Python.call(python, :aio_echo, function(secure?), arguments, timeout: timeout)
      end)

    {:ok, client} = Task.await(dialing)
    {client, handling}
  end

  defp self_of(_python), do: hd(Process.get(:"$callers"))

  defp dial(port, secure?, owner \\ nil)

  defp dial(port, false, owner) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    if owner, do: :ok = :gen_tcp.controlling_process(client, owner)
    client
  end

  defp dial(port, true, owner) do
    {:ok, client} = :ssl.connect(~c"localhost", port, secure(), 30_000)
    if owner, do: :ok = :ssl.controlling_process(client, owner)
    client
  end

  defp secure do
    [mode: :binary, active: false, verify: :verify_peer, log_level: :none] ++
      [server_name_indication: ~c"localhost"] ++ Certificates.trusting()
  end

  defp echo(client, text, secure?) do
    :ok = if secure?, do: :ssl.send(client, text), else: :gen_tcp.send(client, text)
    {:ok, back} = recv(client, byte_size(text), secure?)
    back
  end

  defp recv(client, length, true), do: :ssl.recv(client, length, 30_000)
  defp recv(client, length, false), do: :gen_tcp.recv(client, length, 30_000)

  defp close(client, true), do: :ssl.close(client)
  defp close(client, false), do: :gen_tcp.close(client)
end
