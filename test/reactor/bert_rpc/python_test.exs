defmodule Reactor.BertRpc.PythonTest do
  # priv/python/erlang/bert_rpc in a Python process, against Elixir's side.
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.BertRpc
  alias Reactor.BertRpc.{Error, Reply}

  defmodule Calc do
    def add(a, b), do: a + b
    def echo(term), do: term
    def divide(a, b), do: div(a, b)
    def count(chunks), do: chunks |> Enum.map(&byte_size/1) |> Enum.sum()
    def download(n, size), do: BertRpc.stream(for _ <- 1..n, do: :binary.copy("x", size))
    def tagged(tag), do: BertRpc.cached(42, access: :public, validation: tag)
  end

  defmodule Rpc do
    use Reactor.BertRpc, expose: [calc: Calc]
  end

  @peer "test/support/python/bert_peer.py"
  @environment [{"PYTHONPATH", "priv/python"}]

  defp python, do: System.find_executable(System.get_env("PYO3_PYTHON", "python3"))

  @tag :capture_log
  test "a client in Python", context do
    # What the peer calls in vain has to be an atom here, whichever tests run: else that is another error.
    refute function_exported?(Calc, :nothing, 0)
    port = context |> serve(Rpc) |> port() |> Integer.to_string()
    options = [env: @environment, stderr_to_stdout: true]
    assert {report, 0} = System.cmd(python(), [@peer, "client", port], options)

    assert String.split(report, "\n", trim: true) == [
             "echo True",
             "cast None",
             "sums 398",
             "error server 1 BERTError",
             "error server 2 BERTError",
             "error user 0 ArithmeticError",
             "sent 210000",
             "received 210000",
             "kept 42 {'access': Atom('public'), 'validation': 't'}",
             "valid True",
             "add 3"
           ]
  end

  test "a server in Python" do
    environment = for {name, value} <- @environment, do: {to_charlist(name), to_charlist(value)}

    peer =
      Port.open({:spawn_executable, python()}, [
        :binary,
        line: 1_000,
        args: [@peer, "server"],
        env: environment
      ])

    assert_receive {^peer, {:data, {:eol, port}}}, 30_000
    {:ok, client} = BertRpc.connect("127.0.0.1", String.to_integer(port), timeout: 30_000)

    term = [
      %{"a" => nil, 1 => [true, {}]},
      1.5,
      -(2 ** 70),
      "é",
      <<255>>,
      :ok,
      ~U[2020-01-01 00:00:00.000001Z]
    ]

    assert BertRpc.call(client, :calc, :echo, [term]) == {:ok, term}
    assert {:ok, regex} = BertRpc.call(client, :calc, :echo, [~r/a+/i])
    assert Regex.run(regex, "xAA") == ["AA"]

    requests = for n <- 1..500, do: {:call, :calc, :add, [n, n]}
    assert BertRpc.pipeline(client, requests) == for(n <- 1..500, do: {:ok, 2 * n})

    assert {:error, %Error{type: :server, code: 1}} = BertRpc.call(client, :nowhere, :add, [])
    assert {:error, %Error{type: :server, code: 2}} = BertRpc.call(client, :calc, :add, [1])

    assert {:error, %Error{type: :user, class: "ZeroDivisionError"} = error} =
             BertRpc.call(client, :calc, :divide, [1, 0])

    assert [place] = error.backtrace
    assert place =~ ~r/bert_peer.py:\d+: <lambda>$/

    chunks = List.duplicate(:binary.copy("x", 70_000), 3)
    assert BertRpc.call(client, :calc, :count, [], stream: chunks) == {:ok, 210_000}
    assert {:ok, data} = BertRpc.call(client, :calc, :download, [3, 70_000])
    assert data == :binary.copy("x", 210_000)

    assert BertRpc.request(client, :calc, :tagged, ["t"]) ==
             {:ok, %Reply{value: 42, cache: [access: :public, validation: "t"]}}

    assert BertRpc.request(client, :calc, :tagged, ["t"], validation: "t") ==
             {:ok, %Reply{valid: true}}

    assert BertRpc.cast(client, :calc, :add, [1, 2]) == :ok
    assert BertRpc.call(client, :calc, :add, [1, 2]) == {:ok, 3}
    Port.close(peer)
  end

  test "the tests in Python pass in a Python that has nothing else" do
    arguments = ~w(-m unittest discover -s test/python -p test_bert*.py)
    options = [env: @environment, stderr_to_stdout: true]
    assert {report, 0} = System.cmd(python(), arguments, options)
    assert report =~ ~r/^Ran \d\d tests/m
  end
end
