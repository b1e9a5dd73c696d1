defmodule Reactor.Port.BertCallsTest do
  # BERT-RPC over a port in both directions, and what info packets say.
  use Reactor.PortCase, async: true

  alias Reactor.BertRpc
  alias Reactor.BertRpc.{Error, Reply}

  @script Path.expand("../../support/python/port_bert.py", __DIR__)

  defmodule Calc do
    def add(a, b), do: a + b
    def echo(term), do: term
    def divide(a, b), do: div(a, b)
    def count(chunks), do: chunks |> Enum.map(&byte_size/1) |> Enum.sum()
    def download(n, size), do: BertRpc.stream(for _ <- 1..n, do: :binary.copy("x", size))
    def long(size), do: :binary.copy("x", size)
    def tagged(tag), do: BertRpc.cached(fn -> 42 end, access: :public, validation: tag)
    def sold_out, do: raise(Error, code: 100, class: "OutOfStock", detail: "2 are left")
    def die, do: Process.exit(self(), :kill)
    def hidden, do: :never

    # Until the test, whose name it gets, says so.
    def wait(name) do
      send(String.to_existing_atom(name), {:waits, self()})
      receive do: (:go -> name)
    end
  end

  defmodule Told do
    # The name of a test's process is in what it is told.
    def tell(name, value), do: send(String.to_existing_atom(name), {:told, value})
  end

  defmodule Back do
    use BertRpc, expose: [told: Told]
  end

  @exposed [
    add: 2,
    echo: 1,
    divide: 2,
    count: 1,
    download: 2,
    long: 1,
    tagged: 1,
    sold_out: 0,
    die: 0,
    wait: 1
  ]
  @expose [calc: {Calc, @exposed}, port: {Calc, [:add]}]

  defp bert(options \\ []),
    do: open([script: @script, protocol: :bert, expose: @expose] ++ options)

  defp name_me do
    name = :"bert_calls_#{System.unique_integer([:positive])}"
    Process.register(self(), name)
    Atom.to_string(name)
  end

  defp back do
    server = start_supervised!({Back, port: 0})
    "127.0.0.1:#{Reactor.info(server).port}"
  end

  describe "a script calls" do
    test "functions that are exposed, by module and name, or by the name alone" do
      port = bert()
      assert Port.call(port, :call, [{"calc", "add"}, 1, 2]) == {:ok, 3}
      assert Port.call(port, :call, ["add", 1, 2]) == {:ok, 3}
      term = [%{"a" => nil, 1 => [true, {}]}, 1.5, -(2 ** 70), "é", <<255>>, :ok]
      assert Port.call(port, :call, [{"calc", "echo"}, term]) == {:ok, term}
    end

    @tag :capture_log
    test "and hears what went wrong as over TCP" do
      port = bert()
      error = fn function, args -> Port.call(port, :error, [{"calc", function} | args]) end

      assert {:ok, {"server", 2, "BERTError", text}} = error.("hidden", [])
      assert text == "function 'hidden/0' not found on module 'calc'"
      assert {:ok, {"server", 2, _, _}} = error.("add", [1])
      assert {:ok, {"server", 1, _, _}} = Port.call(port, :error, [{"Elixir.File", "rm"}, "x"])
      assert {:ok, {"user", 0, "ArithmeticError", text}} = error.("divide", [1, 0])
      assert text == "the function failed, see the server's log"
      assert error.("sold_out", []) == {:ok, {"user", 100, "OutOfStock", "2 are left"}}
      assert error.("die", []) == {:ok, {"server", 0, "BERTError", "the function was ended"}}
      assert Port.call(port, :call, ["add", 1, 2]) == {:ok, 3}
    end

    test "nothing where nothing is exposed" do
      port = open(script: @script, protocol: :bert)
      assert {:ok, {"server", 1, _, text}} = Port.call(port, :error, [{"calc", "add"}, 1, 2])
      assert text == "module 'calc' not found"
    end

    test "from an event loop and from its threads, each with its own answer" do
      port = bert(args: ["async"])
      sums = for n <- 0..49, do: 2 * n
      assert Port.call(port, :call_many, [{"calc", "add"}, 50]) == {:ok, [sums, sums]}
    end

    test "as often as it likes in one handler: nothing is kept of what is over" do
      port = bert(args: ["async"])
      assert Port.call(port, :backlog, [{"calc", "add"}, 20]) == {:ok, 0}
    end

    test "and gives up: the answer that comes later is nobody else's" do
      port = bert()
      Port.cast(port, :cast, [{"calc", "wait"}, name_me()])
      assert_receive {:waits, function}, 10_000
      assert Port.call(port, :call_briefly, ["add"]) == {:ok, "timeout"}
      send(function, :go)
      assert Port.call(port, :call, ["add", 1, 2]) == {:ok, 3}
    end

    test "no more than :max_waiting at once" do
      port = bert(max_waiting: 2, args: ["async"])
      name = name_me()
      for _ <- 1..2, do: Port.call(port, :cast, [{"calc", "wait"}, name])
      many = Task.async(fn -> Port.call(port, :call_many, [{"calc", "add"}, 1]) end)
      [{child, _known}] = Reactor.Port.Pool.all(port)
      # The casts, of which the first one runs, and behind them what is refused in its turn.
      assert eventually(fn -> :sys.get_state(child).asked.length == 3 end)

      for _ <- 1..2 do
        assert_receive {:waits, function}, 10_000
        send(function, :go)
      end

      assert {:error, %Error{type: :server, detail: text}} = Task.await(many)
      assert text == "too many requests wait"
      assert Port.call(port, :call_many, [{"calc", "add"}, 1]) == {:ok, [[0], [0]]}
    end
  end

  describe "a stream" do
    test "is sent with a call, and comes back from one" do
      port = bert()
      chunks = List.duplicate(:binary.copy("x", 70_000), 3)
      assert Port.call(port, :count, [], stream: chunks) == {:ok, 210_000}
      assert Port.call(port, :count, [1, 2], stream: ["", "ab", ""]) == {:ok, 2}
      assert Port.call(port, :count, [], stream: []) == {:ok, 0}
      assert Port.call(port, :download, [3, 70_000]) == {:ok, :binary.copy("x", 210_000)}
      assert Port.call(port, :upload, [{"calc", "count"}, 3, 70_000]) == {:ok, 210_000}

      assert Port.call(port, :call, [{"calc", "download"}, 3, 70_000]) ==
               {:ok, :binary.copy("x", 210_000)}
    end

    test "carries what does not fit into a frame" do
      port = bert(packet: 2)
      data = :binary.copy("x", 300_000)
      assert Port.call(port, :count, [], stream: [data]) == {:ok, 300_000}
      assert Port.call(port, :download, [1, 300_000]) == {:ok, data}
      assert Port.call(port, :upload, [{"calc", "count"}, 1, 300_000]) == {:ok, 300_000}
      assert {:ok, {"server", 0, _, text}} = Port.call(port, :error, [{"calc", "long"}, 70_000])
      assert text =~ ~r/the reply has 70\d+ bytes, 65535 are allowed/
    end

    test "has a bound on either side" do
      port = bert(max_stream: 1_000)

      for size <- [1_001, 100_000] do
        assert Port.call(port, :count, [], stream: [:binary.copy("x", size)]) ==
                 {:error, {:too_large, %{max: 1_000}}}

        text = "the stream has more than 1000 bytes"

        assert {:error, %Error{type: :server, detail: ^text}} =
                 Port.call(port, :download, [1, size])

        assert {:ok, {"server", 0, _, ^text}} =
                 Port.call(port, :error, [{"calc", "download"}, 1, size])

        assert {:error, %Error{type: :server, detail: ^text}} =
                 Port.call(port, :upload, [{"calc", "count"}, 1, size])
      end

      assert Port.call(port, :count, [], stream: [:binary.copy("x", 1_000)]) == {:ok, 1_000}
      assert Port.call(port, :call, ["add", 1, 2]) == {:ok, 3}
    end

    test "that fails while it is made is its maker's error, and nothing is sent" do
      port = bert()
      assert {:error, %Error{class: "KeyError"}} = Port.call(port, :broken_stream)

      assert_raise RuntimeError, "in the middle", fn ->
        stream = Stream.map([1], fn _ -> raise "in the middle" end)
        Port.call(port, :count, [], stream: stream)
      end

      assert {:error, {:unencodable, text}} = Port.call(port, :count, [], stream: ["a", :b])
      assert text =~ "a stream is of binaries"
      assert Port.call(port, :twice, [1]) == {:ok, 2}
    end
  end

  describe "hints for caches" do
    test "come with a result, and a token is as good as the value" do
      port = bert()

      assert Port.request(port, :tagged, ["t"]) ==
               {:ok, %Reply{value: 42, cache: [access: :public, validation: "t"]}}

      assert Port.request(port, :tagged, ["t"], validation: "t") == {:ok, %Reply{valid: true}}
      assert Port.call(port, :tagged, ["t"], validation: "u") == {:ok, 42}
      assert Port.request(port, :twice, [21]) == {:ok, %Reply{value: 42}}
    end

    test "go to the script, too" do
      port = bert()
      ask = fn token -> Port.call(port, :request, [{"calc", "tagged"}, ["t"], token]) end
      hints = [{"access", :public}, {"validation", "t"}]
      assert ask.(nil) == {:ok, {42, hints, false}}
      assert ask.("u") == {:ok, {42, hints, false}}
      assert ask.("t") == {:ok, {nil, [], true}}
    end
  end

  describe "a callback" do
    test "is made by the script, over TCP, when the cast is over" do
      name = name_me()
      port = bert()
      callback = {back(), :told, :tell, [name]}
      assert Port.cast(port, :twice, [21], callback: callback) == :ok
      assert_receive {:told, 42}, 10_000
      assert Port.cast(port, :count, [], stream: ["abc"], callback: callback) == :ok
      assert_receive {:told, 3}, 10_000
      assert Port.cast(port, :tagged, ["t"], callback: callback) == :ok
      assert_receive {:told, 42}, 10_000
    end

    test "is made by Elixir to where it may be" do
      name = name_me()
      service = back()
      port = bert(callbacks: [service])
      assert Port.call(port, :cast_back, [{"calc", "add"}, [1, 2], service, name]) == {:ok, nil}
      assert_receive {:told, 3}, 10_000
    end

    test "holds up nothing that comes behind, and its failure is in the log" do
      import ExUnit.CaptureLog
      # It takes connections, and says nothing.
      {:ok, silent} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}])
      {:ok, number} = :inet.port(silent)
      silent = "127.0.0.1:#{number}"
      name = name_me()
      port = bert(callbacks: [silent], timeout: :infinity)
      cast = fn port, to -> Port.call(port, :cast_back, [{"calc", "add"}, [1, 2], to, name]) end
      assert cast.(port, silent) == {:ok, nil}
      assert Port.call(port, :call, ["add", 1, 2], timeout: 10_000) == {:ok, 3}

      log =
        capture_log(fn ->
          port = bert(callbacks: [silent, "127.0.0.1:1"], timeout: 500)
          assert cast.(port, "127.0.0.1:1") == {:ok, nil}
          assert cast.(port, silent) == {:ok, nil}
          assert Port.call(port, :call, ["add", 1, 2], timeout: 10_000) == {:ok, 3}
          [{child, _known}] = Reactor.Port.Pool.all(port)
          assert eventually(fn -> :sys.get_state(child).asked.beside == %{} end)
        end)

      assert log =~ ~s(a callback to "127.0.0.1:1" failed: :econnrefused)
      assert log =~ ~r/a callback to "#{silent}" failed: (:timeout|it took longer than 500 ms)/
    end

    test "is refused otherwise, which is in the log" do
      import ExUnit.CaptureLog
      service = back()
      name = name_me()

      log =
        capture_log(fn ->
          port = bert(callbacks: ["127.0.0.1:1"])
          args = [{"calc", "wait"}, [name], service, name]
          assert Port.call(port, :cast_back, args) == {:ok, nil}
          assert Port.call(port, :call, ["add", 1, 2]) == {:ok, 3}
          Port.stop(port)

          port = bert(args: ["no callbacks"])
          Port.cast(port, :twice, [1], callback: {service, :told, :tell, [name]})
          assert Port.call(port, :twice, [1]) == {:ok, 2}
          Port.stop(port)
        end)

      assert log =~ "callbacks to this service are not allowed"
      assert log =~ "a cast failed: refused: callbacks are not made here, or not of a call"
      refute_received {:told, _}
      refute_received {:waits, _}
    end
  end

  test "a program that is not ours, with a server of BERT-RPC, is called likewise" do
    code = """
    import os
    from erlang import bert_rpc
    packets = bert_rpc.Packets(open(0, "rb").read, open(1, "wb", 0).write)
    functions = {
        "count": lambda chunks: sum(map(len, chunks)),
        "download": lambda n: bert_rpc.stream([b"x"] * n),
        "tagged": lambda tag: bert_rpc.cached(42, validation=tag),
    }
    bert_rpc.serve(packets, {"calc": functions})
    """

    port = open(command: "python3", args: ["-c", code], protocol: :bert)
    assert Port.call(port, {:calc, :count}, [], stream: ["ab", "c"]) == {:ok, 3}
    assert Port.call(port, {:calc, :download}, [5]) == {:ok, "xxxxx"}

    assert {:ok, %Reply{valid: true}} =
             Port.request(port, {:calc, :tagged}, ["t"], validation: "t")

    assert Port.call(port, {:calc, :other}) == {:error, {:undefined, {:calc, :other}}}
  end

  describe "what has no place" do
    test "is an error that names it" do
      port = bert()

      assert_raise ArgumentError, ~r/callback/, fn ->
        Port.call(port, :twice, [1], callback: 1)
      end

      assert_raise ArgumentError, ~r/validation/, fn ->
        Port.cast(port, :twice, [1], validation: "t")
      end

      assert_raise ArgumentError, ~r/validation must be a binary/, fn ->
        Port.call(port, :twice, [1], validation: 1)
      end

      port = open()
      message = ~r/with protocol: :bert also :stream/
      assert_raise ArgumentError, message, fn -> Port.call(port, :twice, [1], stream: []) end
      message = ~r/request\/4 is for protocol: :bert/
      assert_raise ArgumentError, message, fn -> Port.request(port, :twice, [1]) end

      port = open(script: @script, args: ["envelope"])

      for handler <- [
            [:upload, "add", 1, 1],
            [:cast_back, "add", [1], "a:1", "t"],
            [:request, "add", [], nil]
          ] do
        [handler | args] = handler
        assert {:error, %{type: "ValueError", message: text}} = Port.call(port, handler, args)
        assert text =~ "is for the protocol bert"
      end
    end

    test "is no option of another protocol" do
      for {options, text} <- [
            {[expose: @expose], "expose must be left out where the protocol is not :bert"},
            {[callbacks: true], "callbacks must be left out where the protocol is not :bert"},
            {[protocol: :bert, expose: [calc: {Calc, [:no_such]}]],
             "functions that are exported"},
            {[protocol: :bert, callbacks: 1], "true, false or a list of addresses"},
            {[protocol: :bert, max_stream: -1], "max_stream must be a number of bytes from 0"}
          ] do
        assert {:error, %Reactor.ConfigError{} = error} =
                 Port.start_link([script: @script] ++ options)

        assert Exception.message(error) =~ text
      end
    end
  end
end
