defmodule Reactor.Port.OptionsTest do
  use Reactor.PortCase, async: true

  test "wrong options are named" do
    for {options, text} <- [
          {[], "option :script must be the path of a Python script, unless there is a :command"},
          {[scrpt: "x"], "unknown option :scrpt, did you mean :script?"},
          {[script: "x", command: "y"], "must be left out where there is a :script"},
          {[command: "x", rlimit: [as: 1]], "must be left out where there is a :command"},
          {[script: "x", protocol: :plain, functions: [f: &abs/1]], "the protocol is not :env"},
          {[script: "x", packet: 3], "option :packet must be 2 or 4, got: 3"},
          {[script: "x", size: 0], "an integer from 1 to 1024"},
          {[script: "x", env: [{"A=B", "c"}]], "got: :\"(hidden)\""},
          {[script: "x", rlimit: [stack: 1]], "a keyword list of :as (bytes) and :cpu"},
          {[script: "x", backoff: {10, 5}], "1 <= first <= longest"},
          {[script: "x", functions: [f: 1]], "names (atoms or texts) and functions"},
          {[script: "x", name: 1], "an atom, {:global, term} or {:via"},
          {[script: "a\0b"], "the path of a Python script"},
          {:none, "option :options must be a keyword list"}
        ] do
      assert {:error, %Reactor.ConfigError{} = error} = Port.start_link(options)
      assert Exception.message(error) =~ text
    end
  end
end
