defmodule Reactor.Runtime.LogTest do
  use ExUnit.Case, async: true

  import Reactor.LogRelay

  for level <- [:debug, :info, :warning, :error, :critical] do
    test "what the native side says is logged as #{level}, with its metadata" do
      attach()
      text = "a test of the log at #{unquote(level)}"
      fields = %{"connections" => 3, "peer" => "127.0.0.1:1"}
      message = {:"$reactor_log", unquote(level), "reactor_nif::listener", text, fields}
      send(Process.whereis(Reactor.Runtime.Log), message)
      assert {unquote(level), ^text, metadata} = assert_logged(text)
      assert %{target: "reactor_nif::listener", connections: 3, peer: "127.0.0.1:1"} = metadata
    end
  end
end
