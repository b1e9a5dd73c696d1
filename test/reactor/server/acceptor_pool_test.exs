defmodule Reactor.Server.AcceptorPoolTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Reactor.Server.AcceptorPool

  describe "delay" do
    test "doubles from 10 ms to a second" do
      assert Enum.map(1..9, &AcceptorPool.delay/1) == [10, 20, 40, 80, 160, 320, 640, 1000, 1000]
      assert AcceptorPool.delay(1_000_000) == 1000
    end
  end

  # Fails as often as it is told to, telling the test each time.
  defmodule Failing do
    use Reactor

    def accept(%{env: {test, failures}} = listener) do
      if :counters.get(failures, 1) > 0 do
        :counters.sub(failures, 1, 1)
        send(test, :failed)
        if :counters.get(failures, 2) == 1, do: raise("no accept"), else: {:error, :emfile}
      else
        Reactor.Connection.accept(listener)
      end
    end

    def handle(connection), do: MyApp.Echo.handle(connection)
  end

  test "is not disturbed by what is not for it" do
    {:ok, server} = Reactor.start(Failing, ip: :loopback, env: {self(), :counters.new(2, [])})
    pool = server |> Reactor.Server.board() |> Reactor.Server.whereis(:acceptor_pool)
    send(pool, :a_strangers_message)
    assert %Reactor.Server.AcceptorPool{} = :sys.get_state(pool)
    Reactor.stop(server)
  end

  defmodule Nonsense do
    use Reactor
    def accept(_listener), do: :ok
    def handle(_connection), do: :ok
  end

  test "an accept/1 that returns something else learns what is right" do
    Reactor.LogRelay.attach()
    {:ok, server} = Reactor.start(Nonsense, ip: :loopback, acceptors: 1)
    expected = "Nonsense.accept/1 must return {:ok, %Reactor.Connection{}} or {:error, reason}"
    {:error, text, _metadata} = Reactor.LogRelay.assert_logged(expected)
    assert text =~ "got: :ok"
    Reactor.stop(server)
  end

  for {how, name} <- [{0, "return an error"}, {1, "crash"}] do
    test "acceptors that #{name} are tried again, later each time, until they work" do
      failures = :counters.new(2, [])
      :counters.put(failures, 1, 4)
      :counters.put(failures, 2, unquote(how))

      log =
        capture_log(fn ->
          began = System.monotonic_time(:millisecond)

          {:ok, server} =
            Reactor.start(Failing, ip: :loopback, acceptors: 1, env: {self(), failures})

          for _ <- 1..4, do: assert_receive(:failed)
          {:ok, connection} = Reactor.connect("localhost", Reactor.info(server).port)
          Reactor.Socket.send!(connection, "at last")
          assert Reactor.Socket.recv!(connection) == "at last"
          # 10, 20, 40 and 80 ms.
          assert System.monotonic_time(:millisecond) - began >= 150
          Reactor.stop(server)
        end)

      assert log =~ "cannot accept on port"
      assert log =~ "next attempt in 10 ms"
      assert log =~ "next attempt in 80 ms"
      if unquote(how) == 0, do: assert(log =~ ":emfile"), else: assert(log =~ "no accept")
    end
  end
end
