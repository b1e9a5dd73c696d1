defmodule Reactor.Port.PlainTest do
  # Calls without an envelope: with a script of ours, by Reactor.Port and by a bare port as any Erlang program may open
  # one; and with a program that knows nothing of us.
  use Reactor.PortCase, async: true

  @peer Path.expand("../../../bench/peers/plain_port.py", __DIR__)

  describe "by Reactor.Port" do
    for packet <- [2, 4] do
      test "a script is called, with lengths of #{packet} bytes" do
        port = open(protocol: :plain, packet: unquote(packet))
        assert Port.call(port, :twice, [21]) == {:ok, 42}
        assert Port.call(port, :sum, [1, 2]) == {:ok, 3}
        assert Port.call(port, :hello, ["world"]) == {:ok, "Hello, world"}
        assert {:error, {:undefined, :thrice}} = Port.call(port, :thrice, [1])
        assert {:error, {:bad_arguments, "function_clause"}} = Port.call(port, :twice, [])
        assert {:error, %{type: "KeyError", message: "'x'"}} = Port.call(port, :fail, ["x"])
        assert {:error, %{type: "ValueError"}} = Port.call(port, :echo, [%{[1] => 2}])
        assert {:error, %{type: "ValueError", message: text}} = Port.call(port, :unencodable)
        assert text =~ "object"
        assert Port.call(port, :echo, [{"a", "b"}]) == {:ok, {"a", "b"}}
      end
    end

    test "answers find their calls by their order, also those of calls that were given up" do
      port = open(protocol: :plain, packet: 2)

      1..500
      |> Task.async_stream(&{&1, Port.call(port, :twice, [&1])}, max_concurrency: 50)
      |> Enum.each(fn {:ok, {n, answer}} -> assert answer == {:ok, 2 * n} end)

      assert Port.cast(port, :twice, [1]) == :ok
      for _ <- 1..3, do: Port.call(port, :twice, [2], timeout: 0)
      assert Port.call(port, :twice, [3]) == {:ok, 6}
    end

    test "a program that is not ours is called" do
      port = open(command: "python3", args: [@peer], protocol: :plain, packet: 2)
      assert Port.call(port, :twice, [21]) == {:ok, 42}

      1..500
      |> Task.async_stream(&{&1, Port.call(port, :sum, [&1, 1])}, max_concurrency: 50)
      |> Enum.each(fn {:ok, {n, answer}} -> assert answer == {:ok, n + 1} end)

      [os_pid] = os_pids(port)
      kill(os_pid)
      assert eventually(fn -> Port.call(port, :twice, [21]) == {:ok, 42} end)
      Port.stop(port)
    end
  end

  describe "by a bare port" do
    setup do
      python = System.find_executable("python3")
      path = to_charlist(Reactor.Port.Program.python_path())

      port =
        Elixir.Port.open({:spawn_executable, python}, [
          :binary,
          :exit_status,
          packet: 2,
          args: [script()],
          env: [{~c"PYTHONPATH", path}]
        ])

      %{port: port}
    end

    defp ask(port, bytes) when is_binary(bytes) do
      Elixir.Port.command(port, bytes)
      assert_receive {^port, {:data, data}}, 10_000
      :erlang.binary_to_term(data)
    end

    defp ask(port, term), do: ask(port, :erlang.term_to_binary(term))

    test "a script answers with bare terms", %{port: port} do
      assert ask(port, {:twice, 21}) == 42
      assert ask(port, {:sum, 1, 2}) == 3
      assert ask(port, {:hello, "world"}) == "Hello, world"
    end

    test "and with two texts where something is wrong", %{port: port} do
      assert {"Error", text} = ask(port, {:thrice, 1})
      assert text =~ "thrice"
      assert ask(port, {:twice}) == {"TypeError", "function_clause"}
      assert ask(port, {:twice, 1, 2}) == {"TypeError", "function_clause"}
      assert {"ValueError", _} = ask(port, {:twice, "x"})
      assert {"ValueError", text} = ask(port, <<130, 1>>)
      assert text =~ "version 131, not with 130"
      assert {"ValueError", text} = ask(port, <<131, 104, 2>>)
      assert text =~ "ends in the middle of a term"
      assert {"ValueError", _} = ask(port, "")
      assert {"ValueError", text} = ask(port, :twice)
      assert text =~ "a tuple of a name"
      assert ask(port, {:twice, 21}) == 42
    end

    test "one that is closed ends", %{port: port} do
      {:os_pid, os_pid} = Elixir.Port.info(port, :os_pid)
      assert ask(port, {:twice, 21}) == 42
      Elixir.Port.close(port)
      assert eventually(fn -> gone?(os_pid) end)
    end
  end
end
