defmodule Reactor.BertRpc.OptionsTest do
  use ExUnit.Case, async: true

  alias Reactor.ConfigError

  test "wrong ones are named when the server starts" do
    for {options, text} <- [
          {"[]", ":expose must be a list of names and modules"},
          {"[expose: [a: Nowhere]]", ":expose must be"},
          {"[expose: [a: {Reactor.Bert, [:nothing]}]]", ":expose must be"},
          {"[expose: [a: {Reactor.Bert, [encode: 7]}]]", ":expose must be"},
          {"[expose: [a: Reactor.Bert], timeout: 0]", ":timeout must be"},
          {"[expose: [a: Reactor.Bert], max_packet: -1]", ":max_packet must be"},
          {"[expose: [a: Reactor.Bert], max_stream: nil]", ":max_stream must be"},
          {"[expose: [a: Reactor.Bert], max_casts: 0]", ":max_casts must be"},
          {"[expose: [a: Reactor.Bert], max_heap: 1]", ":max_heap must be"},
          {"[expose: [a: Reactor.Bert], callbacks: 1]", ":callbacks must be"},
          {"[expose: [a: Reactor.Bert], tiemout: 1]", "unknown option :tiemout"}
        ] do
      name = "Reactor.BertRpc.OptionsTest.Wrong#{System.unique_integer([:positive])}"

      [{module, _}] =
        Code.compile_string("defmodule #{name} do use Reactor.BertRpc, #{options} end")

      assert {:error, %ConfigError{} = error} = Reactor.start(module, port: 0)
      assert Exception.message(error) =~ text
    end
  end
end
