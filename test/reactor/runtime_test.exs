defmodule Reactor.RuntimeTest do
  use ExUnit.Case, async: true

  import Reactor.LogRelay

  test "what the native side reports is logged, with its metadata" do
    attach()

    send(
      Process.whereis(Reactor.Runtime),
      {:"$reactor_log", :warning, "reactor_nif::listener", "a test of the log",
       %{"connections" => 3, "peer" => "127.0.0.1:1"}}
    )

    assert {:warning, "a test of the log", metadata} = assert_logged("a test of the log")
    assert %{target: "reactor_nif::listener", connections: 3, peer: "127.0.0.1:1"} = metadata
  end
end
