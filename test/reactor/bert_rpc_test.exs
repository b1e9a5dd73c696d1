defmodule Reactor.BertRpcTest do
  use Reactor.TransportCase, async: true, transport: :Native

  import ExUnit.CaptureLog

  alias Reactor.{BertRpc, Socket}
  alias Reactor.BertRpc.{Error, Reply}

  doctest BertRpc

  defmodule Calc do
    def add(a, b), do: a + b
    def echo(term), do: term
    def large(size), do: :binary.copy("x", size)
    def divide(a, b), do: div(a, b)
    def secret(password), do: Map.fetch!(%{password => 1}, :other)
    def out_of_stock, do: raise(Error, code: 100, class: "OutOfStock", detail: "2 are left")
    def throw_it, do: throw(:ball)
    def leave, do: exit(:now)
    def pid, do: self()
    def for_ever(test), do: tell(test, {:in, self()}) && Process.sleep(:infinity)
    def greedy, do: Enum.to_list(1..100_000_000)
    def tell(test, term), do: test |> pid() |> send(term)
    def report(test, token, value), do: test |> pid() |> send({:back, token, value})

    def wait(test, name) do
      test |> pid() |> send({:waits, name, self()})
      receive(do: (:go -> name))
    end

    def minute, do: BertRpc.cached(17, access: :public, expiration: 60)

    def tagged(tag, value),
      do: BertRpc.cached(fn -> value * 2 end, access: :private, validation: tag)

    def failing_value, do: BertRpc.cached(fn -> raise "no" end, access: :private, validation: "a")

    def download(count, size),
      do: BertRpc.stream(Stream.map(1..count//1, fn _ -> :binary.copy("x", size) end))

    def breaks,
      do: BertRpc.stream(Stream.map(1..3, fn n -> if n == 3, do: raise("no"), else: "n" end))

    def stalls(test),
      do: BertRpc.stream(Stream.map(1..2, fn n -> if n == 2, do: for_ever(test), else: "n" end))

    def count(chunks), do: chunks |> Enum.map(&byte_size/1) |> Enum.sum()
    def first(name, chunks), do: {name, chunks |> Enum.take(1) |> hd() |> byte_size()}
    def ignores(_chunks), do: :ok
    def fails_on(_chunks), do: raise("no")

    # A pid is no BERT.
    defp pid(text), do: text |> String.to_charlist() |> :erlang.list_to_pid()
  end

  defmodule Small do
    def one, do: 1
    def two, do: 2
  end

  defmodule Rpc do
    use Reactor.BertRpc,
      expose: [calc: Calc, small: {Small, [:one, two: 0]}],
      timeout: 60_000,
      max_packet: 100_000,
      max_stream: 1_000_000,
      max_casts: 2
  end

  defmodule Strict do
    use Reactor.BertRpc, expose: [calc: Calc], timeout: 300, max_heap: 16 * 1_024 * 1_024
  end

  defmodule Calling do
    use Reactor.BertRpc, expose: [calc: Calc], callbacks: true
  end

  defp client(context, module \\ Rpc, options \\ []) do
    server = serve(context, module)
    {:ok, client} = BertRpc.connect("127.0.0.1", port(server), options)
    client
  end

  defp me, do: self() |> :erlang.pid_to_list() |> List.to_string()

  describe "calls" do
    test "results of all kinds come back", context do
      client = client(context)
      assert BertRpc.call(client, :calc, :add, [1, 2]) == {:ok, 3}

      term = [%{"a" => nil, 1 => [true, {}]}, 1.5, 2 ** 70, "é", ~U[2020-01-01 00:00:00.000001Z]]
      assert BertRpc.call(client, :calc, :echo, [term]) == {:ok, term}
      assert BertRpc.call(client, :small, :two, []) == {:ok, 2}
      assert BertRpc.close(client) == :ok
      assert BertRpc.call(client, :small, :two, []) == {:error, :closed}
    end

    test "what is not exposed is an error, and the connection goes on", context do
      client = client(context)

      for {module, function, args, code, detail} <- [
            {:nowhere, :add, [1, 2], 1, "module 'nowhere' not found"},
            {:"Elixir.System", :halt, [], 1, "module 'Elixir.System' not found"},
            {:calc, :nothing, [], 2, "function 'nothing/0' not found on module 'calc'"},
            {:calc, :add, [1], 2, "function 'add/1' not found on module 'calc'"},
            {:calc, :module_info, [], 2, "function 'module_info/0' not found on module 'calc'"},
            {:calc, :__info__, [:functions], 2,
             "function '__info__/1' not found on module 'calc'"},
            {:small, :two, [1], 2, "function 'two/1' not found on module 'small'"}
          ] do
        assert BertRpc.call(client, module, function, args) ==
                 {:error, %Error{type: :server, code: code, detail: detail}}
      end

      assert BertRpc.cast(client, :nowhere, :add, []) ==
               {:error, %Error{type: :server, code: 1, detail: "module 'nowhere' not found"}}

      assert BertRpc.call(client, :small, :one, []) == {:ok, 1}
    end

    test "what is raised is an error without what it was about", context do
      client = client(context)

      log =
        capture_log(fn ->
          assert {:error, %Error{type: :user, code: 0, class: "ArithmeticError"} = error} =
                   BertRpc.call(client, :calc, :divide, [1, 0])

          assert Enum.any?(error.backtrace, &(&1 =~ ~r/bert_rpc_test.exs:\d+: .*Calc.divide\/2/))

          assert {:error, %Error{class: "KeyError"} = error} =
                   BertRpc.call(client, :calc, :secret, ["hunter2"])

          refute inspect(error) =~ "hunter2"
        end)

      assert log =~ "BERT-RPC: a function failed: ArithmeticError: bad argument in arithmetic"

      assert BertRpc.call(client, :calc, :out_of_stock, []) ==
               {:error, %Error{type: :user, code: 100, class: "OutOfStock", detail: "2 are left"}}

      assert {:error, %Error{class: "Throw"}} = BertRpc.call(client, :calc, :throw_it, [])
      assert {:error, %Error{class: "Exit"}} = BertRpc.call(client, :calc, :leave, [])

      assert BertRpc.call(client, :calc, :pid, []) ==
               {:error, %Error{type: :server, detail: "BERT has nothing for a pid"}}

      assert BertRpc.call(client, :calc, :add, [1, 1]) == {:ok, 2}
    end

    test "one that takes too long, or too much memory, is ended", context do
      client = client(context, Strict)

      assert {:error, %Error{type: :server, class: "Timeout"} = error} =
               BertRpc.call(client, :calc, :for_ever, [me()])

      assert error.detail == "it took longer than 300 ms"
      assert_receive {:in, pid}
      refute Process.alive?(pid)

      capture_log(fn ->
        assert {:error, %Error{type: :server, class: class}} =
                 BertRpc.call(client, :calc, :greedy, [])

        assert class in ["Killed", "Timeout"]
      end)

      assert BertRpc.call(client, :calc, :add, [1, 1]) == {:ok, 2}
    end

    test "one ends with the connection's process", context do
      server = serve(context, Rpc)
      {:ok, client} = BertRpc.connect("127.0.0.1", port(server), timeout: 10)
      assert BertRpc.call(client, :calc, :for_ever, [me()]) == {:error, :timeout}
      assert_receive {:in, pid}
      monitor = Process.monitor(pid)
      # After a timeout an answer could be anybody's.
      assert BertRpc.call(client, :calc, :add, [1, 1]) == {:error, :closed}
      assert {:ok, %{cut: 1}} = Reactor.drain(server, 0)
      assert_receive {:DOWN, ^monitor, _, _, :killed}
    end

    test "requests go ahead of the answers, which stay in order", context do
      client = client(context)
      requests = for n <- 1..1_000, do: {:call, :calc, :add, [n, n]}
      results = BertRpc.pipeline(client, requests)
      assert results == for(n <- 1..1_000, do: {:ok, 2 * n})

      # More than fits anywhere on the way, both ways, and some that cannot be sent.
      large = :binary.copy("x", 90_000)

      requests =
        for n <- 1..200, do: {:call, :calc, :echo, [if(n == 7, do: self(), else: {n, large})]}

      results = BertRpc.pipeline(client, requests)
      assert length(results) == 200
      assert {:error, {:unencodable, _}} = Enum.at(results, 6)
      assert {:ok, {200, ^large}} = List.last(results)

      assert [{:error, %Error{code: 1}}, {:ok, nil}, {:ok, 1}] =
               BertRpc.pipeline(client, [
                 {:call, :nowhere, :add, []},
                 {:cast, :small, :one, []},
                 {:call, :small, :one, []}
               ])
    end

    test "a reply that is larger than a packet may be", context do
      client = client(context)

      assert BertRpc.call(client, :calc, :large, [100_000]) ==
               {:error,
                %Error{type: :server, detail: "the reply has 100016 bytes, 100000 are allowed"}}

      assert {:ok, _large} = BertRpc.call(client, :calc, :large, [99_000])
    end
  end

  describe "casts" do
    test "are answered at once, and run so many at a time", context do
      client = client(context)
      for n <- 1..2, do: assert(BertRpc.cast(client, :calc, :wait, [me(), n]) == :ok)
      assert_receive {:waits, 1, first}
      assert_receive {:waits, 2, second}

      # The third is not taken before one is over.
      me = me()
      third = Task.async(fn -> BertRpc.cast(client, :calc, :wait, [me, 3]) end)
      refute Task.yield(third, 50)
      send(first, :go)
      assert Task.await(third) == :ok
      assert_receive {:waits, 3, third}
      for pid <- [second, third], do: send(pid, :go)
    end

    test "are over before the server is", context do
      server = serve(context, Rpc)
      {:ok, client} = BertRpc.connect("127.0.0.1", port(server))
      assert BertRpc.cast(client, :calc, :wait, [me(), :it]) == :ok
      assert_receive {:waits, :it, pid}
      BertRpc.close(client)
      drain = Task.async(fn -> Reactor.drain(server, 60_000) end)
      refute Task.yield(drain, 50)
      send(pid, :go)
      assert {:ok, %{finished: 1, cut: 0}} = Task.await(drain)
    end

    test "what fails in them is in the log alone", context do
      server = serve(context, Rpc)
      {:ok, client} = BertRpc.connect("127.0.0.1", port(server))

      log =
        capture_log(fn ->
          assert BertRpc.cast(client, :calc, :divide, [1, 0]) == :ok
          assert BertRpc.call(client, :calc, :add, [1, 1]) == {:ok, 2}
          BertRpc.close(client)
          # The connection is over when its casts are.
          assert {:ok, %{cut: 0}} = Reactor.drain(server, 60_000)
        end)

      assert log =~ "ArithmeticError"
    end

    test "call back where that is allowed", context do
      back = "127.0.0.1:#{port(serve(context, Rpc))}"
      callback = {back, :calc, :report, [me(), "token"]}

      calling = client(context, Calling)
      assert BertRpc.cast(calling, :calc, :add, [40, 2], callback: callback) == :ok
      assert_receive {:back, "token", 42}

      assert {:error, %Error{type: :server, detail: detail}} =
               BertRpc.cast(client(context), :calc, :add, [40, 2], callback: callback)

      assert detail == "callbacks to this service are not allowed"
    end
  end

  describe "caches" do
    test "hints come with the value", context do
      client = client(context)

      assert BertRpc.request(client, :calc, :minute, []) ==
               {:ok, %Reply{value: 17, cache: [access: :public, expiration: 60]}}

      assert BertRpc.call(client, :calc, :minute, []) == {:ok, 17}
    end

    test "a token that is valid saves the value", context do
      client = client(context)
      expected = %Reply{value: 42, cache: [access: :private, validation: "t1"]}
      assert BertRpc.request(client, :calc, :tagged, ["t1", 21]) == {:ok, expected}

      assert BertRpc.request(client, :calc, :tagged, ["t1", 21], validation: "t1") ==
               {:ok, %Reply{valid: true}}

      assert BertRpc.request(client, :calc, :tagged, ["t1", 21], validation: "t0") ==
               {:ok, expected}

      # It is not called, so it does not fail.
      assert {:ok, %Reply{valid: true}} =
               BertRpc.request(client, :calc, :failing_value, [], validation: "a")

      capture_log(fn ->
        assert {:error, %Error{class: "RuntimeError"}} =
                 BertRpc.request(client, :calc, :failing_value, [])
      end)
    end
  end

  describe "streams" do
    test "of a request are read as they are taken", context do
      client = client(context)
      chunks = Stream.map(1..50, fn n -> :binary.copy("x", n * 100) end)
      assert BertRpc.call(client, :calc, :count, [], stream: chunks) == {:ok, 127_500}
      assert BertRpc.call(client, :calc, :count, [], stream: []) == {:ok, 0}
      # What is left of them is skipped.
      assert BertRpc.call(client, :calc, :first, [:name], stream: ["abc", "", "d"]) ==
               {:ok, {:name, 3}}

      assert BertRpc.call(client, :calc, :ignores, [], stream: chunks) == {:ok, :ok}

      capture_log(fn ->
        assert {:error, %Error{type: :user}} =
                 BertRpc.call(client, :calc, :fails_on, [], stream: chunks)
      end)

      assert {:error, %Error{code: 2}} = BertRpc.call(client, :calc, :nothing, [], stream: chunks)
      assert BertRpc.cast(client, :calc, :count, [], stream: chunks) == :ok
      assert BertRpc.call(client, :small, :one, []) == {:ok, 1}
    end

    test "of a request end somewhere", context do
      client = client(context)
      chunks = Stream.repeatedly(fn -> :binary.copy("x", 10_000) end)
      assert {:error, :closed} = BertRpc.call(client, :calc, :count, [], stream: chunks)
    end

    test "of a reply come whole, and no longer than is allowed", context do
      client = client(context, Rpc, max_stream: 2_500_000)
      assert {:ok, data} = BertRpc.call(client, :calc, :download, [25, 100_000])
      assert data == :binary.copy("x", 2_500_000)
      assert BertRpc.call(client, :calc, :download, [0, 0]) == {:ok, ""}
      assert BertRpc.call(client, :small, :one, []) == {:ok, 1}

      assert BertRpc.call(client, :calc, :download, [26, 100_000]) ==
               {:error, {:too_large, %{max: 2_500_000}}}

      assert BertRpc.call(client, :small, :one, []) == {:error, :closed}
    end

    test "that break off are no results", context do
      capture_log(fn ->
        assert BertRpc.call(client(context), :calc, :breaks, []) == {:error, :closed}
      end)

      assert BertRpc.call(client(context, Strict), :calc, :stalls, [me()]) == {:error, :closed}
    end

    test "of a client that fail close the connection", context do
      client = client(context)
      chunks = Stream.map(1..2, fn n -> if n == 2, do: raise("no"), else: "n" end)
      assert_raise RuntimeError, fn -> BertRpc.call(client, :calc, :count, [], stream: chunks) end
      assert BertRpc.call(client, :small, :one, []) == {:error, :closed}
    end
  end

  test "the guide's example runs" do
    [_, example] = Regex.run(~r/^```elixir\n(.*?)^```$/ms, File.read!("docs/bert_rpc.md"))
    # Under names of their own: these are global.
    example = String.replace(example, ~r/\b(Calc|Rpc)\b/, "Reactor.BertRpcTest.Guide.\\1")
    assert {{:ok, 3}, bindings} = Code.eval_string(example)
    Reactor.stop(bindings[:server])
  end

  test "over TLS it is the same", context do
    server = serve(%{context | transport: :NativeTLS}, Rpc)

    secure = Reactor.Certificates.trusting()
    {:ok, client} = BertRpc.connect("localhost", port(server), secure: secure)
    assert BertRpc.call(client, :calc, :add, [1, 2]) == {:ok, 3}
    assert {:ok, data} = BertRpc.call(client, :calc, :download, [3, 100_000])
    assert byte_size(data) == 300_000
    assert {:ok, _} = Socket.statistics(client.connection)
  end
end
