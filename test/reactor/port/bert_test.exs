defmodule Reactor.Port.BertTest do
  use Reactor.PortCase, async: true

  alias Reactor.BertRpc.Error
  alias Reactor.Port.{Bert, Bert.Parcel}

  test "a script is called by BERT-RPC" do
    port = open(protocol: :bert)
    assert Port.call(port, :twice, [21]) == {:ok, 42}
    assert Port.call(port, {:calculator, :sum}, [1, 2]) == {:ok, 3}

    assert Port.call(port, {:calculator, :thrice}, [1]) ==
             {:error, {:undefined, {:calculator, :thrice}}}

    assert {:error, %Error{type: :user, class: "TypeError"}} = Port.call(port, :twice, [])
    assert {:error, %Error{type: :user} = error} = Port.call(port, :fail, ["x"])
    assert {error.class, error.detail} == {"KeyError", "'x'"}
    assert Enum.join(error.backtrace, "\n") =~ "in handler_fail"
    assert {:error, %Error{type: :server, detail: text}} = Port.call(port, :unencodable)
    assert text =~ "object"
    assert {:error, %Error{type: :protocol, code: 2}} = Port.call(port, :echo, [%{[1] => 2}])
    # BERT's own ways of saying this.
    for term <- [nil, true, %{"a" => 1}],
        do: assert(Port.call(port, :echo, [term]) == {:ok, term})

    assert Port.call(port, "twice", [1]) == {:error, {:bad_function, "twice"}}
  end

  test "casts are answered too, by nothing" do
    port = open(protocol: :bert)
    for _ <- 1..10, do: assert(Port.cast(port, :fail, ["x"]) == :ok)
    assert Port.call(port, :twice, [21]) == {:ok, 42}
  end

  test "the packets are those of BERT-RPC, and info is taken note of" do
    python = System.find_executable("python3")
    path = to_charlist(Reactor.Port.Program.python_path())

    port =
      Elixir.Port.open({:spawn_executable, python}, [
        :binary,
        packet: 4,
        args: [script()],
        env: [{~c"PYTHONPATH", path}, {~c"REACTOR_PORT", ~c"bert 4 1000000 1000000 1000 0"}]
      ])

    tell = fn term -> Elixir.Port.command(port, :erlang.term_to_binary(term)) end
    tell.({:info, :cache, [{:validation, "abc"}]})
    tell.({:call, :any, :twice, [21]})
    tell.({:cast, :any, :twice, [21]})
    tell.({:call, :any, :nope, []})
    tell.({:rubbish})

    answers =
      for _ <- 1..4 do
        assert_receive {^port, {:data, data}}, 10_000
        :erlang.binary_to_term(data)
      end

    assert [
             {:reply, 42},
             {:noreply},
             {:error, {:server, 2, "BERTError", _, []}},
             {:error, {:protocol, 2, "BERTError", _, []}}
           ] = answers

    Elixir.Port.close(port)
  end

  test "an answer with an info packet that is none cannot be read" do
    limits = %{max_frame: 1_000, max_stream: 1_000}
    reply = :erlang.term_to_binary({:reply, 42})

    for info <- [{:info, :cache}, {:info, :cache, [], []}] do
      {:more, part} = Parcel.take(:erlang.term_to_binary(info), [], limits)
      {:answer, parcel} = Parcel.take(reply, part, limits)

      assert Bert.result(parcel, :twice, limits) ==
               {:error, {:undecodable, "it is no answer of BERT-RPC"}}
    end
  end
end
