# A process of its own is refused, see process_test.exs.
for isolation <- Reactor.Isolations.in_vm() do
  defmodule Module.concat([Reactor.Python.DatagramsTest, isolation]) do
    use Reactor.TransportCase, async: true, transport: :Native

    @moduletag isolation: isolation

    alias Reactor.{EventRelay, LogRelay}

    # Some of what they raise is logged.
    @moduletag :capture_log

    @python Path.expand("../../support/python", __DIR__)

    defmodule Py do
      use Reactor, protocol: :udp
    end

    defp udp(context, name, options \\ []) do
      serve(context, Py, [python: "datagrams:#{name}", paths: [@python]] ++ options)
    end

    defp client(server) do
      %{ip: ip, port: port} = Reactor.info(server)
      family = if tuple_size(ip) == 4, do: :inet, else: :inet6
      options = [:binary, family, active: false, buffer: 65_536, recbuf: 400_000]
      {:ok, client} = :gen_udp.open(0, options)
      :ok = :gen_udp.connect(client, ip, port)
      client
    end

    defp ask(client, data) do
      :ok = :gen_udp.send(client, data)
      hear(client)
    end

    defp hear(client) do
      {:ok, {_ip, _port, data}} = :gen_udp.recv(client, 0, 5_000)
      data
    end

    test "a protocol echoes datagrams of any size", context do
      client = context |> udp("Echo") |> client()

      for size <- [0, 1, 2_048, 2_049, 16_385, 65_507] do
        data = :crypto.strong_rand_bytes(size)
        assert ask(client, data) == data
      end
    end

    test "a protocol written for asyncio finds its transport", context do
      server = udp(context, "Asyncio")
      client = client(server)
      {:ok, own} = :inet.port(client)
      assert ask(client, "x") == "127.0.0.1:#{own} 127.0.0.1:#{port(server)} none False"
    end

    test "a protocol is served over IPv6", context do
      server = udp(context, "Asyncio", ip: "::1")
      client = client(server)
      {:ok, own} = :inet.port(client)
      assert ask(client, "x") == "::1:#{own} ::1:#{port(server)} none False"
    end

    test "many answers to one datagram all go out", context do
      client = context |> udp("Commands") |> client()
      :ok = :gen_udp.send(client, "many 300")
      assert for(_ <- 1..300, do: hear(client)) == Enum.map(0..299, &"#{&1}")
    end

    test "a thread of its own can send", context do
      client = context |> udp("Commands") |> client()
      assert ask(client, "thread hello") == "hello"
    end

    test "an exception is logged and reported, and the same protocol goes on", context do
      EventRelay.attach(name: __MODULE__)
      server = udp(context, "Commands", name: __MODULE__)
      client = client(server)
      number = ask(client, "number")

      LogRelay.attach()
      assert ask(client, "raise of all things") == "raising"
      {_, metadata} = EventRelay.assert_event([:reactor, :python, :exception])
      assert %{callback: "datagram_received", remote: nil} = metadata
      assert %{type: "ValueError", message: "of all things"} = metadata.reason
      assert ask(client, "number") == number
      {:error, text, _} = LogRelay.assert_logged("ValueError: of all things")

      assert text =~
               "a Python datagram protocol failed in datagram_received, its socket stays open"
    end

    test "what cannot be sent is told to error_received", context do
      client = context |> udp("Commands") |> client()
      assert ask(client, "large 65508") == "OSError #{90}"
      assert ask(client, "large 0") == ""
    end

    test "a wrong argument of send_to is an exception that names it", context do
      client = context |> udp("Commands") |> client()

      for {wrong, expected} <- [
            {"name",
             ~s(ValueError: a host is an IP address, not "localhost": look names up first)},
            {"port", "ValueError: a port is an integer from 0 to 65535"},
            {"data", "TypeError: a bytes-like object is required, not 'str'"},
            {"addr",
             "TypeError: an address is (host, port), or (host, port, flowinfo, scope_id)"},
            {"long", "TypeError: an address is (host, port), or (host, port, flowinfo, scope_id)"}
          ] do
        assert ask(client, "wrong #{wrong}") == expected
      end
    end

    test "close ends a protocol, and the next one has the socket", context do
      server = udp(context, "Commands")
      client = client(server)
      first = client |> ask("number") |> String.to_integer()
      assert ask(client, "close") == "lost None True"
      assert ask(client, "number") == "#{first + 1}"
      assert %{connections: 1, accepted: 2} = Reactor.info(server)
    end

    test "a factory that fails is tried again", context do
      LogRelay.attach()
      client = context |> udp("FailsTwice") |> client()
      assert ask(client, "at last") == "at last"
      LogRelay.assert_logged("failed in factory")
      LogRelay.assert_logged("failed in connection_made")
    end

    test "a protocol for streams is refused", context do
      EventRelay.attach(name: __MODULE__.Stream)
      udp(context, "Stream", name: __MODULE__.Stream)
      {_, metadata} = EventRelay.assert_event([:reactor, :python, :exception])
      assert %{callback: "factory", reason: %{type: "TypeError"}} = metadata

      assert metadata.reason.message ==
               "datagrams.Stream must make a reactor.DatagramProtocol for protocol :udp, " <>
                 "but it made an instance of Stream"
    end

    test "contexts read side by side", context do
      server = udp(context, "Threads", contexts: 2)
      assert %{connections: 2, contexts: 2} = Reactor.info(server)
      clients = for _ <- 1..8, do: client(server)

      assert eventually(fn ->
               # All at once, so that both have something to do.
               for client <- clients, do: :ok = :gen_udp.send(client, "who")
               clients |> Enum.map(&hear/1) |> Enum.uniq() |> length() == 2
             end)
    end

    test "an update of the factory puts another protocol in its place", context do
      server = udp(context, "Commands")
      client = client(server)
      ask(client, "number")
      assert Reactor.update(server, python: "datagrams:Shout") == :ok
      assert hear(client) == "lost None True"
      assert ask(client, "hello") == "HELLO"
    end

    test "info, connections and events count what comes and goes", context do
      EventRelay.attach(name: __MODULE__.Counts)
      server = udp(context, "Shout", name: __MODULE__.Counts)
      {_, %{id: id}} = EventRelay.assert_event([:reactor, :connection, :start])
      client = client(server)
      assert ask(client, "hello") == "HELLO"

      assert eventually(fn -> match?(%{received: 5, sent: 5}, Reactor.info(server)) end)

      assert [%{id: ^id, owner: :python, received: 5, sent: 5, remote: nil}] =
               Reactor.connections(server)

      assert {:ok, %{connections: 1, finished: 1, cut: 0}} = Reactor.drain(server, 5_000)
      {measured, metadata} = EventRelay.assert_event([:reactor, :connection, :stop])
      assert %{received: 5, sent: 5} = measured
      assert %{id: ^id, reason: :drained} = metadata
      assert %{received: 5, sent: 5, connections: 0} = Reactor.info(server)
    end

    test "a drain tells the protocol, which can say goodbye, and a resume makes another",
         context do
      server = udp(context, "Commands")
      client = client(server)
      ask(client, "number")
      assert {:ok, %{finished: 1, cut: 0}} = Reactor.drain(server, 5_000)
      assert hear(client) == "lost None True"
      :ok = :gen_udp.send(client, "number")
      assert :gen_udp.recv(client, 0, 5_000) == {:error, :econnrefused}
      :ok = Reactor.resume(server)
      assert ask(client, "number") =~ ~r/^\d+$/
    end

    test "a suspend closes the port, a resume opens it", context do
      server = udp(context, "Echo")
      client = client(server)
      assert ask(client, "one") == "one"
      :ok = Reactor.suspend(server)
      :ok = :gen_udp.send(client, "two")
      assert :gen_udp.recv(client, 0, 5_000) == {:error, :econnrefused}
      :ok = Reactor.resume(server)
      assert ask(client, "three") == "three"
    end

    test "a stop tells the protocol and closes the port", context do
      server = udp(context, "Commands")
      client = client(server)
      ask(client, "number")
      assert Reactor.stop(server) == :ok
      assert hear(client) == "lost None True"
      :ok = :gen_udp.send(client, "number")
      assert :gen_udp.recv(client, 0, 5_000) == {:error, :econnrefused}
    end

    test "a context that is killed takes its protocol along, and the next one serves", context do
      server = udp(context, "Echo")
      client = client(server)
      assert ask(client, "one") == "one"

      [{_, supervisor, _, _}] =
        for {Reactor.Python.Supervisor, _, _, _} = child <- Supervisor.which_children(server),
            do: child

      [{_, pid, _, _}] = Supervisor.which_children(supervisor)
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_down(monitor, :killed)

      assert eventually(fn ->
               :ok = :gen_udp.send(client, "two")
               match?({:ok, {_, _, "two"}}, :gen_udp.recv(client, 0, 100))
             end)
    end
  end
end
