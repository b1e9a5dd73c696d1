for transport <- Reactor.TransportCase.all_transports() do
  defmodule Module.concat(Reactor.Socket.FileTest, transport) do
    use Reactor.TransportCase, transport: transport, async: true

    alias Reactor.Socket

    @moduletag :tmp_dir

    # Larger than what fits into the kernel's buffers of both sides at once.
    @size 10_000_000

    setup %{tmp_dir: directory} do
      data = :crypto.strong_rand_bytes(1_000)
      content = :binary.copy(data, div(@size, 1_000))
      path = Path.join(directory, "content")
      File.write!(path, content)
      %{path: path, content: content}
    end

    test "goes out whole, to a peer that takes its time",
         %{path: path, content: content} = context do
      {connection, client} = pair(context, sndbuf: 100_000)

      reader = Task.async(fn -> receive(do: (:go -> read_all(client))) end)
      :ok = give(client, reader.pid)
      send(reader.pid, :go)
      Socket.send!(connection, "before")
      assert Socket.file(connection, path) == {:ok, @size}
      Socket.send!(connection, "after")
      Socket.close(connection)
      assert Task.await(reader) == "before" <> content <> "after"
    end

    test "can be sent by a process that does not own the connection", context do
      {connection, client} = pair(context, sndbuf: 100_000)
      sender = Task.async(fn -> Socket.file(connection, context.path) end)
      assert take(client, @size) == {:ok, context.content}
      assert Task.await(sender) == {:ok, @size}
    end

    test "goes out in part", %{path: path, content: content} = context do
      {connection, client} = pair(context)
      assert Socket.file(connection, path, offset: 10, length: 20) == {:ok, 20}
      assert take(client, 20) == {:ok, binary_part(content, 10, 20)}
      assert Socket.file(connection, path, length: 5) == {:ok, 5}
      assert take(client, 5) == {:ok, binary_part(content, 0, 5)}
      assert Socket.file(connection, path, offset: @size - 3) == {:ok, 3}
      assert take(client, 3) == {:ok, binary_part(content, @size - 3, 3)}
    end

    test "ends before the length that was asked for", %{path: path} = context do
      {connection, client} = pair(context)
      assert Socket.file(connection, path, offset: @size - 3, length: 10) == {:ok, 3}
      assert Socket.file(connection, path, offset: @size + 3) == {:ok, 0}
      assert Socket.file(connection, path, length: 0) == {:ok, 0}
      Socket.close(connection)
      assert byte_size(read_all(client)) == 3
    end

    test "may be empty", %{tmp_dir: directory} = context do
      {connection, client} = pair(context)
      path = Path.join(directory, "nothing")
      File.touch!(path)
      assert Socket.file(connection, path) == {:ok, 0}
      Socket.close(connection)
      assert read_all(client) == ""
    end

    test "is not always there", %{tmp_dir: directory} = context do
      {connection, client} = pair(context)
      assert Socket.file(connection, Path.join(directory, "missing")) == {:error, :enoent}
      assert Socket.file(connection, directory) == {:error, :eisdir}
      Socket.send!(connection, "still here")
      assert take(client, 10) == {:ok, "still here"}
    end

    test "does not go over a closed connection", %{path: path} = context do
      {connection, _client} = pair(context)
      Socket.close(connection)
      assert Socket.file(connection, path) == {:error, :closed}
    end

    test "ends with the peer", %{path: path} = context do
      {connection, client} = pair(context, sndbuf: 10_000)
      reader = Task.async(fn -> receive(do: (:go -> take(client, 1_000))) end)
      :ok = give(client, reader.pid)
      send(reader.pid, :go)
      # The socket closes with the process that has it.
      assert Socket.file(connection, path) == {:error, :closed}
      assert {:ok, _} = Task.await(reader)
    end

    test "fits no packet", %{path: path} = context do
      {connection, _client} = pair(context, packet: 2)
      assert Socket.file(connection, path) == {:error, :einval}
      assert Socket.packet(connection, :line) == :ok
      assert Socket.file(connection, path, length: 5) == {:ok, 5}
    end

    test "has a path", context do
      {connection, _client} = pair(context)

      for wrong <- ["", "a\0b", :name, 1, nil, [:a], [1_000_000_000]] do
        assert_raise ArgumentError,
                     "expected the path of a file, which is text without a NUL byte, " <>
                       "got: #{inspect(wrong)}",
                     fn -> Socket.file(connection, wrong) end
      end

      assert Socket.file(connection, ["no", ?w, "here"]) == {:error, :enoent}
    end

    test "has no other options", %{path: path} = context do
      {connection, _client} = pair(context)

      for {options, message} <- [
            {[offset: -1], "option :offset must be a number of bytes, 0 or more, got: -1"},
            {[length: nil],
             "option :length must be a number of bytes, 0 or more, or :all, got: nil"},
            {[lenght: 1], "unknown option :lenght, did you mean :length?"},
            {7, "option :options must be a keyword list, got: 7"}
          ] do
        assert {:error, error} = Socket.file(connection, path, options)
        assert Exception.message(error) == message
      end
    end

    # Neither gen_tcp's sendfile nor a connection of :ssl that has timed out can be waited for again.
    if transport in [:Native, :NativeTLS] do
      test "waits for room no longer than :send_timeout", %{path: path} = context do
        {connection, _client} = pair(context, sndbuf: 10_000, send_timeout: 50)
        assert Socket.file(connection, path) == {:error, :timeout}
      end
    end
  end
end
