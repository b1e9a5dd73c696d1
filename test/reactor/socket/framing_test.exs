for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Socket.FramingTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    @moduletag :property
    @compile {:no_warn_undefined, [:proper, :proper_types]}

    alias Reactor.Socket

    # A TLS connection is dear.
    @runs if transport in [:SSL, :NativeTLS], do: 10, else: 40

    # Tells the test each packet, and the end.
    defmodule Tell do
      use Reactor

      def handle(%{listener: %{env: test}} = connection) do
        case Socket.recv(connection) do
          {:ok, packet} ->
            send(test, {:packet, packet})
            handle(connection)

          {:error, reason} ->
            send(test, {:ended, reason})
        end
      end
    end

    # Tells the test each packet that comes as a message.
    defmodule TellActive do
      use Reactor

      tags = Reactor.TransportCase.tags(%{transport: transport})
      @data tags.data
      @closed tags.closed
      @passive tags.passive

      def handle(%{listener: %{env: test}, socket: socket} = connection) do
        Socket.active!(connection, 3)
        loop(connection, socket, test)
      end

      defp loop(connection, socket, test) do
        receive do
          {@data, ^socket, packet} ->
            send(test, {:packet, packet})
            loop(connection, socket, test)

          {@passive, ^socket} ->
            Socket.active!(connection, 3)
            loop(connection, socket, test)

          {@closed, ^socket} ->
            send(test, {:ended, :closed})
        end
      end
    end

    for {packet, name} <- [line: "lines", "1": "a byte", "2": "two bytes", "4": "four bytes"] do
      @packet if packet == :line,
                do: :line,
                else: packet |> Atom.to_string() |> String.to_integer()

      test "any chunking of packets with #{name} gives the packets, in recv", context do
        check(serve(context, Tell, packet: @packet), @packet)
      end

      test "any chunking of packets with #{name} gives the packets, as messages", context do
        check(serve(context, TellActive, packet: @packet), @packet)
      end
    end

    defp check(server, packet) do
      property =
        :proper.forall({packets(packet), cuts()}, fn {packets, cuts} ->
          stream = packets |> Enum.map(&frame(&1, packet)) |> IO.iodata_to_binary()
          deliver(server, stream, cuts)
          received([]) == {Enum.map(packets, &expected(&1, packet)), :closed}
        end)

      # PropEr runs it in this process, whose mailbox the packets come to.
      assert :proper.quickcheck(property, [:quiet, numtests: @runs]) == true,
             "counterexample: #{inspect(:proper.counterexample())}"
    end

    # Some larger than one read, most small.
    defp packets(packet) do
      small = :proper_types.binary()
      large = :proper_types.resize(2_000, :proper_types.binary())
      size = if packet == 1, do: [{1, small}], else: [{9, small}, {1, large}]
      :proper_types.list(:proper_types.weighted_union(size))
    end

    # Where to cut, as sizes that are used over and over.
    defp cuts, do: :proper_types.non_empty(:proper_types.list(:proper_types.integer(1, 50)))

    defp frame(data, :line), do: [body(data, :line), ?\n]
    defp frame(data, n), do: [<<byte_size(body(data, n))::size(n)-unit(8)>>, body(data, n)]

    defp expected(data, :line), do: body(data, :line) <> "\n"
    defp expected(data, n), do: body(data, n)

    defp body(data, :line), do: :binary.replace(data, "\n", "", [:global])
    defp body(data, 1), do: binary_part(data, 0, min(byte_size(data), 255))
    defp body(data, _n), do: data

    defp deliver(server, stream, cuts) do
      client = dial(server, nodelay: true)

      stream
      |> chunks(Stream.cycle(cuts) |> Enum.take(200))
      |> Enum.each(&(:ok = put(client, &1)))

      :ok = hang_up(client)
    end

    defp chunks("", _cuts), do: []

    defp chunks(stream, [cut | cuts]) when byte_size(stream) >= cut do
      {chunk, rest} = :erlang.split_binary(stream, cut)
      [chunk | chunks(rest, cuts)]
    end

    defp chunks(last, _cuts), do: [last]

    defp received(packets) do
      receive do
        {:packet, packet} -> received([packet | packets])
        {:ended, reason} -> {Enum.reverse(packets), reason}
      after
        5_000 -> {Enum.reverse(packets), :timeout}
      end
    end
  end
end
