for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.BuffersTest, isolation]) do
    # Not async: read buffers are counted, whoever has them.
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.Flow, except: [ask: 2]

    alias Reactor.Native

    # As many as were there before, once what others of the suite still have is gone.
    defp buffers, do: Native.counters().buffers

    defp ask(client, data, length) do
      :ok = put(client, data)
      {:ok, answer} = take(client, length)
      answer
    end

    test "what a protocol keeps outlives callback and connection, and goes back when nobody holds it",
         context do
      server = serve_flow(context, "Hoards")
      pieces = for n <- 1..50, do: "piece #{n} " <> :crypto.strong_rand_bytes(20 * n)
      before = buffers()

      for some <- Enum.chunk_every(pieces, 10) do
        client = dial(server)
        for piece <- some, do: assert(ask(client, piece, 4) == "kept")
        hang_up(client)
      end

      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      assert buffers() >= before + 50

      # Others read into memory of the same pool meanwhile.
      client = dial(server)
      digest = :crypto.hash(:sha256, pieces) |> Base.encode16(case: :lower)
      for _ <- 1..20, do: assert(ask(client, "digest", 64) == digest)
      assert ask(client, "forget", 4) == "kept"
      assert eventually(fn -> buffers() <= before end)
    end

    test "of protocols that keep nothing, memory is used again", context do
      server = serve_flow(context, "Flow")
      client = dial_named(server, unique())
      before = buffers()
      for _ <- 1..200, do: :ok = put(client, :binary.copy("x", 10_000))
      hang_up(client)
      assert eventually(fn -> Reactor.info(server).connections == 0 end)
      assert eventually(fn -> buffers() <= before end)
    end
  end
end
