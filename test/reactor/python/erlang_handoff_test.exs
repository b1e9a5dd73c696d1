defmodule Reactor.Python.ErlangHandoffTest do
  # What Erlang hands over to contexts with numbers, by programs in Erlang over real sockets.
  use ExUnit.Case, async: false

  alias Reactor.{Erlang, Isolations, Python}

  @moduletag :tmp_dir

  @protocols """
  import erlang.reactor as reactor


  class Shouts(reactor.Protocol):
      def data_received(self, data):
          if data == b"who":
              info = self.client_info
              self.write_buffer.extend(repr((info["addr"], info["port"], info["type"])).encode())
          elif data == b"fd":
              known = reactor.get_protocol(self.fd) is self
              self.write_buffer.extend(b"mine" if known else b"lost")
          else:
              self.write_buffer.extend(bytes(data).upper())
          return "write_pending"


  class Whispers(reactor.Protocol):
      def data_received(self, data):
          self.write_buffer.extend(bytes(data).lower())
          return "close"
  """

  # Each function serves one listening socket; which way, it says.
  @program """
  -module(reactor_test_handoff).
  -export([listen/0, by_fd/2, by_socket/3, by_duplicate/2]).

  listen() ->
      {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
      {ok, Port} = inet:port(Listen),
      {Listen, Port}.

  %% To context 1, which was given its factory before.
  by_fd(Listen, 0) ->
      Listen;
  by_fd(Listen, Left) ->
      {ok, Client} = gen_tcp:accept(Listen),
      {ok, {Address, Port}} = inet:peername(Client),
      {ok, Fd} = inet:getfd(Client),
      ok = py_reactor_context:handoff(Fd, \#{addr => inet:ntoa(Address), port => Port, type => tcp}),
      by_fd(Listen, Left - 1).

  by_socket(Listen, Number, Info) ->
      {ok, Client} = gen_tcp:accept(Listen),
      py_reactor_context:handoff(py:context(Number), Client, Info).

  %% Both close what they have.
  by_duplicate(Listen, Info) ->
      {ok, Client} = gen_tcp:accept(Listen),
      {ok, Fd} = inet:getfd(Client),
      {ok, Duplicate} = py:dup_fd(Fd),
      true = Duplicate =/= Fd,
      Answer = py_reactor_context:handoff(Duplicate, Info),
      {Answer, gen_tcp:close(Client)}.
  """

  setup %{tmp_dir: directory} = context do
    Erlang.contexts([1, 2], paths: [directory], isolation: context[:isolation] || :shared)
    File.write!(Path.join(directory, "reactor_test_protocols.py"), @protocols)
    program = Erlang.load(@program, directory)
    {listen, port} = program.listen()
    %{program: program, listen: listen, port: port}
  end

  defp use_factory(number, class) do
    :ok =
      :py.exec(:py.context(number), """
      import erlang.reactor as reactor
      import importlib
      import reactor_test_protocols
      importlib.reload(reactor_test_protocols)
      reactor.set_protocol_factory(reactor_test_protocols.#{class})
      """)
  end

  defp dial(port) do
    {:ok, client} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    client
  end

  defp ask(client, question) do
    :ok = :gen_tcp.send(client, question)
    {:ok, answer} = :gen_tcp.recv(client, 0, 5_000)
    answer
  end

  # The owner of a socket is who serves it: Erlang's end with the process that has them.
  defp serve(program, function, arguments) do
    Task.async(fn ->
      receive(do: (:go -> :ok))
      apply(program, function, arguments)
    end)
  end

  defp go(task, listen) do
    :ok = :gen_tcp.controlling_process(listen, task.pid)
    send(task.pid, :go)
    task
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}:" do
      @describetag isolation: isolation

      test "descriptors, one client after the other", %{
        program: program,
        listen: listen,
        port: port
      } do
        use_factory(1, "Shouts")
        assert {:ok, %{isolation: unquote(isolation)}} = Python.info(:py.context(1))
        task = go(serve(program, :by_fd, [listen, 3]), listen)

        clients =
          for n <- 1..3 do
            client = dial(port)
            assert ask(client, "hello #{n}") == "HELLO #{n}"
            client
          end

        Task.await(task)

        # The process that accepted them is gone.
        for client <- clients do
          {:ok, own} = :inet.port(client)
          assert ask(client, "who") == "('127.0.0.1', #{own}, 'tcp')"
          assert ask(client, "fd") == "mine"
        end
      end

      test "sockets, to the context that is named", %{
        program: program,
        listen: listen,
        port: port
      } do
        use_factory(1, "Shouts")
        use_factory(2, "Whispers")
        {second, second_port} = program.listen()
        one = go(serve(program, :by_socket, [listen, 1, %{}]), listen)
        two = go(serve(program, :by_socket, [second, 2, %{type: :tcp}]), second)
        assert ask(dial(port), "Both") == "BOTH"
        quiet = dial(second_port)
        assert ask(quiet, "Both") == "both"
        assert {:error, :closed} = :gen_tcp.recv(quiet, 0, 5_000)
        assert Task.await_many([one, two]) == [:ok, :ok]
      end

      test "a duplicate, which outlives the socket", %{
        program: program,
        listen: listen,
        port: port
      } do
        use_factory(1, "Shouts")
        task = go(serve(program, :by_duplicate, [listen, %{type: :tcp}]), listen)
        client = dial(port)
        assert ask(client, "one") == "ONE"
        assert Task.await(task) == {:ok, :ok}
        assert ask(client, "two") == "TWO"
      end
    end
  end

  @isolated """
  -module(reactor_test_isolated).
  -export([start/0]).

  %% Both in interpreters of their own, or why that cannot be.
  start() ->
      case py_reactor_context:start_link(1, subinterp, \#{
          setup_code => <<"
              import erlang.reactor as reactor
              from reactor_test_protocols import Shouts
              reactor.set_protocol_factory(Shouts)
          ">>
      }) of
          {ok, One} ->
              {ok, Two} = py_reactor_context:start_link(2, subinterp, \#{
                  setup_code => <<"
                      import erlang.reactor as reactor
                      from reactor_test_protocols import Whispers
                      reactor.set_protocol_factory(Whispers)
                  ">>
              }),
              {ok, One, Two};
          {error, Reason} ->
              {error, Reason}
      end.
  """

  test "contexts in interpreters of their own, where Python has them", context do
    program = Erlang.load(@isolated, context.tmp_dir)
    {:ok, here} = Python.start_context()
    {:ok, %{interpreter: %{version: version}}} = Python.info(here)
    :ok = Python.stop_context(here)
    [major, minor | _] = version |> String.split(".") |> Enum.map(&Integer.parse/1)

    if {elem(major, 0), elem(minor, 0)} >= {3, 14} do
      assert {:ok, one, two} = program.start()
      assert :py.exec(one, "import sys\nsys.reactor_test_mark = 1") == :ok
      assert :py.exec(two, "import sys") == :ok
      assert :py.eval(one, "hasattr(sys, 'reactor_test_mark')") == {:ok, true}
      assert :py.eval(two, "hasattr(sys, 'reactor_test_mark')") == {:ok, false}

      assert :py.eval(one, "x", %{x: %{"a" => [2 ** 70, {1.5, nil}]}}) ==
               {:ok, %{"a" => [2 ** 70, {1.5, nil}]}}

      for {number, answer} <- [{1, "BOTH"}, {2, "both"}] do
        {listen, port} = context.program.listen()
        client = dial(port)
        task = go(serve(context.program, :by_socket, [listen, number, %{}]), listen)
        assert ask(client, "Both") == answer
        assert Task.await(task) == :ok
      end
    else
      assert {:error, error} = program.start()
      assert Exception.message(error) =~ ":subinterpreter"
      assert Exception.message(error) =~ ":shared"
    end
  end

  test "a socket that cannot be handed over is still its owner's", context do
    %{listen: listen, port: port} = context
    {:ok, _dead} = Python.start_context(name: :reactor_test_dead)
    :ok = Python.stop_context(:reactor_test_dead)
    client = dial(port)
    {:ok, accepted} = :gen_tcp.accept(listen, 5_000)
    assert {:error, _reason} = :py_reactor_context.handoff(:reactor_test_dead, accepted, %{})
    :ok = :gen_tcp.send(accepted, "still here")
    assert {:ok, "still here"} = :gen_tcp.recv(client, 10, 5_000)
  end
end
