defmodule Reactor.Python.ErlangTest do
  use ExUnit.Case, async: false

  import Reactor.TransportCase, only: [eventually: 1]

  alias Reactor.{ConfigError, Erlang, Python}

  @moduletag :tmp_dir

  setup %{tmp_dir: directory} do
    Erlang.contexts([1, 2, 3], paths: [directory])
  end

  defp python(directory, source) do
    name = "for_erlang_#{System.unique_integer([:positive])}"
    File.write!(Path.join(directory, name <> ".py"), source)
    name
  end

  describe "py" do
    test "starts a context when it is first asked for, and finds it again" do
      context = :py.context(1)
      assert is_pid(context)
      assert :py.context(1) == context
      refute :py.context(2) == context
      assert :py.exec("x = 1") == :ok
      assert :py.exec(~c"y = x + 1") == :ok
      assert :py.eval(context, ~c"y") == {:ok, 2}
      assert :py.eval(context, "y + n", %{n: 1}) == {:ok, 3}
      assert {:error, %Python.Error{type: "NameError"}} = :py.eval(:py.context(2), "x")
    end

    test "gives all who ask at once the same context" do
      contexts =
        1..20 |> Enum.map(fn _ -> Task.async(fn -> :py.context(3) end) end) |> Task.await_many()

      assert [_one] = Enum.uniq(contexts)
      assert :py.exec(hd(contexts), "x = 1") == :ok
    end

    test "has another process for a context that died" do
      context = :py.context(1)
      monitor = Process.monitor(context)
      Process.exit(context, :kill)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
      assert eventually(fn -> :py.context(1) != context end)
      assert :py.exec("x = 1") == :ok
      assert :py.exec(context, "x = 1") == {:error, :noproc}
    end

    test "calls without waiting" do
      context = :py.context(1)
      {:ok, call} = :py.call_async(context, :math, :sqrt, [16])
      assert :py.await(call) == {:ok, 4.0}
      {:ok, call} = :py.call_async(context, :builtins, :int, ["ff"], %{kwargs: %{base: 16}})
      assert :py.await(call, 1_000) == {:ok, 255}
      {:ok, call} = :py.call_async(context, :builtins, :dict)
      assert :py.await(call) == {:ok, %{}}
      {:ok, call} = :py.exec_async(context, ~c"z = 3")
      assert :py.await(call) == :ok
      {:ok, call} = :py.eval_async(context, ~c"z + n", %{n: 1})
      assert :py.await(call) == {:ok, 4}
      {:ok, call} = :py.eval_async(context, "z")
      assert :py.cancel(call) == :ok
    end

    test "lets Python call functions" do
      name = "for_erlang_#{System.unique_integer([:positive])}"
      assert :py.register_function(name, &(&1 + 1)) == :ok
      assert :py.exec("import erlang") == :ok
      assert :py.eval(:py.context(1), "erlang.#{name}(1)") == {:ok, 2}
      assert :py.register_function(name, :lists, :reverse) == :ok
      assert :py.eval(:py.context(1), "erlang.#{name}([1, 2])") == {:ok, [2, 1]}
      assert :py.unregister_function(name) == :ok
      assert {:error, %Python.Error{}} = :py.eval(:py.context(1), "erlang.#{name}([1, 2])")
    end

    test "calls functions" do
      context = :py.context(1)
      assert :py.call(:math, :sqrt, [16]) == {:ok, 4.0}
      assert :py.call(context, :math, :sqrt, [16]) == {:ok, 4.0}
      assert :py.call(context, :builtins, :dict) == {:ok, %{}}
      options = %{timeout: 1_000, kwargs: %{base: 16}}
      assert :py.call(context, :builtins, :int, ["ff"], options) == {:ok, 255}
      assert :py.call(context, :builtins, :int, ["ff"], kwargs: %{base: 16}) == {:ok, 255}
    end

    test "converts what it gives and gets, as its options say" do
      context = :py.context(1)
      assert :py.eval(context, "x", %{x: [:undefined, self()]}) == {:ok, [:undefined, self()]}
      kind = "type(x).__name__"
      assert :py.eval(context, kind, %{x: "a"}, binaries: :bytes) == {:ok, "bytes"}
      assert :py.eval(context, kind, %{x: "a"}, %{binaries: :text}) == {:ok, "str"}
      {:ok, object} = :py.call(context, :builtins, :iter, [[1]], return: :object)
      assert :py.call(:builtins, :next, [object]) == {:ok, 1}
    end

    test "says why a context cannot be started" do
      Application.put_env(:reactor, :py, setup: "1/0")

      assert {:python_context, 2, %Python.Error{type: "ZeroDivisionError"}} =
               catch_error(:py.context(2))

      Application.put_env(:reactor, :py, :setup)

      assert {:python_context, 2, %ConfigError{option: :options}} = catch_error(:py.context(2))

      assert catch_error(:py.context(0)) == :function_clause
      Application.delete_env(:reactor, :py)
      assert catch_error(:py.exec([:code])) == :badarg
    end
  end

  # A server in Erlang that has asyncio serve each client: by its descriptor, in a context.
  @clients """
  -module(reactor_test_asyncio).
  -export([start/1, tell/1]).

  start(Module) ->
      Test = self(),
      spawn_link(fun() ->
          {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
          {ok, Port} = inet:port(Listen),
          Test ! {port, Port},
          {ok, Client} = gen_tcp:accept(Listen),
          {ok, Fd} = inet:getfd(Client),
          Context = py:context(1),
          Test ! {served, py:call(Context, Module, serve, [Fd])},
          gen_tcp:close(Client)
      end).

  %% Has Python dial who is at the other end.
  tell(Client) ->
      {ok, {Address, Port}} = inet:peername(Client),
      py:call(py:context(1), reactor_test_dials, dial, [Address, Port]).
  """

  test "a coroutine serves a socket that Erlang accepted", %{tmp_dir: directory} do
    module =
      python(directory, """
      import asyncio
      import socket


      async def serve(fd: int):
          sock = socket.socket(fileno=fd)
          sock.setblocking(False)
          loop = asyncio.get_running_loop()
          request = await loop.sock_recv(sock, 100)
          await loop.sock_sendall(sock, b"heard: " + request)
          # Erlang closes it.
          sock.detach()
          return len(request)
      """)

    program = Erlang.load(@clients, directory)
    program.start(String.to_atom(module))
    assert_receive {:port, port}
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    :ok = :gen_tcp.send(client, "hello")
    assert {:ok, "heard: hello"} = :gen_tcp.recv(client, 12, 5_000)
    assert_receive {:served, {:ok, 5}}
    assert {:error, :closed} = :gen_tcp.recv(client, 0, 5_000)
  end

  test "Python dials the address that :inet gave", %{tmp_dir: directory} do
    File.write!(Path.join(directory, "reactor_test_dials.py"), """
    import socket


    def dial(addr: str, port: int):
        with socket.create_connection((addr, port), timeout=5) as sock:
            sock.sendall(b"it is me")
    """)

    program = Erlang.load(@clients, directory)
    {:ok, listen} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listen)
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary])
    {:ok, _first} = :gen_tcp.accept(listen, 5_000)
    assert program.tell(client) == {:ok, nil}
    {:ok, second} = :gen_tcp.accept(listen, 5_000)
    assert {:ok, "it is me"} = :gen_tcp.recv(second, 8, 5_000)
  end

  describe "py_reactor_context" do
    @program """
    -module(reactor_test_contexts).
    -export([start/3, modes/0]).

    start(Number, Mode, Class) ->
        {ok, Context} = py_reactor_context:start_link(Number, Mode, \#{
            setup_code => <<"
                import erlang.reactor as reactor

                class ", Class/binary, "(reactor.Protocol):
                    pass

                reactor.set_protocol_factory(", Class/binary, ")
            ">>
        }),
        Context.

    modes() ->
        {py_reactor_context:start_link(3, no_such_mode), py_reactor_context:start_link(3, process)}.
    """

    test "starts contexts with numbers, each with its factory, linked to the caller", context do
      program = Erlang.load(@program, context.tmp_dir)
      one = program.start(1, :shared, "First")
      two = program.start(2, :shared, "Second")
      assert {:py.context(1), :py.context(2)} == {one, two}
      assert one in elem(Process.info(self(), :links), 1)

      for {pid, name} <- [{one, "First"}, {two, "Second"}] do
        assert :py.exec(pid, "from erlang.reactor.factory import current_factory") == :ok
        assert :py.eval(pid, "current_factory().__name__") == {:ok, name}
      end

      assert :py_reactor_context.start_link(1) == {:error, {:already_started, one}}
      monitor = Process.monitor(one)
      assert :py_reactor_context.stop(one) == :ok
      assert_receive {:DOWN, ^monitor, _, _, :normal}
      assert {:ok, again} = :py_reactor_context.start_link(1, :shared)
      assert :py.context(1) == again
    end

    test "runs the setup code of the environment first, then its own", %{tmp_dir: directory} do
      module = python(directory, "words = ['module']")
      setup = "from #{module} import words"
      Application.put_env(:reactor, :py, paths: [directory], setup: setup)
      options = %{setup_code: ~c"  words.append('own')"}
      assert {:ok, context} = :py_reactor_context.start_link(2, :shared, options)
      assert :py.eval(context, "words") == {:ok, ["module", "own"]}
    end

    test "takes strings for directories and factories", %{tmp_dir: directory} do
      module =
        python(directory, "import erlang.reactor as reactor\nclass P(reactor.Protocol): pass")

      Application.delete_env(:reactor, :py)

      options = %{
        paths: [String.to_charlist(directory)],
        python: String.to_charlist(module <> ":P")
      }

      assert {:ok, context} = :py_reactor_context.start_link(2, :shared, options)
      assert {:ok, %{python: python}} = Python.info(context)
      assert python == module <> ":P"
    end

    test "refuses what it does not know, and says what there is", %{tmp_dir: directory} do
      program = Erlang.load(@program, directory)

      {{:error, %ConfigError{option: :isolation, value: :no_such_mode}}, {:ok, process}} =
        program.modes()

      assert {:ok, %{isolation: :process}} = Reactor.Python.info(process)
      assert :py_reactor_context.stop(process) == :ok

      assert {:error, %ConfigError{option: :setup_codes, nearest: :setup}} =
               :py_reactor_context.start_link(3, :shared, %{setup_codes: ""})

      assert {:error, %ConfigError{option: :setup}} =
               :py_reactor_context.start_link(3, :shared, %{setup_code: :none})
    end
  end
end
