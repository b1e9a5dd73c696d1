for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.BuffersTest, isolation]) do
    # Not async: read buffers are counted, whoever has them.
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.Flow, except: [ask: 2]

    alias Reactor.{Native, Python, Server}

    defp ask(client, data, length) do
      :ok = put(client, data)
      {:ok, answer} = take(client, length)
      answer
    end

    # Some of what others of the suite still had may be gone by then.
    defp buffers, do: Native.counters().buffers

    # Those of another process are not counted here; what they take is. In MiB.
    defp resident(server) do
      [context] = server |> Server.board() |> Server.contexts()
      {:ok, %{os_pid: pid}} = Python.info(context)
      [_, kib] = Regex.run(~r/VmRSS:\s+(\d+) kB/, File.read!("/proc/#{pid}/status"))
      div(String.to_integer(kib), 1024)
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
      if unquote(isolation != :process), do: assert(buffers() >= before + 50)

      # Others read into memory of the same pool meanwhile.
      client = dial(server)
      digest = :crypto.hash(:sha256, pieces) |> Base.encode16(case: :lower)
      for _ <- 1..20, do: assert(ask(client, "digest", 64) == digest)
      assert ask(client, "forget", 4) == "kept"
      assert eventually(fn -> buffers() <= before end)
    end

    if isolation == :process do
      test "what it has kept is used again", context do
        server = serve_flow(context, "Hoards")
        client = dial(server)
        keep_and_forget(client, 1_000)
        before = resident(server)
        # Each keeps 2 KiB.
        for _ <- 1..10, do: keep_and_forget(client, 1_000)
        assert resident(server) - before < 8
      end

      defp keep_and_forget(client, pieces) do
        for n <- 1..pieces, do: assert(ask(client, "piece #{n}", 4) == "kept")
        assert ask(client, "forget", 4) == "kept"
      end
    end

    # In pieces of 10,000 bytes.
    @pieces if isolation == :process, do: 5_000, else: 200

    test "of protocols that keep nothing, memory is used again", context do
      server = serve_flow(context, "Takes")
      client = dial_named(server, unique())
      before = if unquote(isolation == :process), do: resident(server), else: buffers()
      for _ <- 1..@pieces, do: :ok = put(client, :binary.copy("x", 10_000))
      hang_up(client)
      assert eventually(fn -> Reactor.info(server).connections == 0 end)

      if unquote(isolation == :process),
        do: assert(resident(server) - before < 16),
        else: assert(eventually(fn -> buffers() <= before end))
    end
  end
end
