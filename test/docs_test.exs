defmodule DocsTest do
  # The modules of the guide have global names, and its events go to the one :telemetry.
  use ExUnit.Case, async: false

  @docs Path.expand("../docs", __DIR__)
  @comparison Path.join(@docs, "comparison.md")
  @production Path.join(@docs, "production.md")
  @terms Path.join(@docs, "python_terms.md")
  @asyncio Path.join(@docs, "python_asyncio.md")

  describe "the comparison" do
    @header ["", "Reactor", "Thousand Island", "Ranch", "reagent"]

    test "has a cell for each of the four in every row" do
      rows = rows()
      assert length(rows) > 50

      for {feature, cells} <- rows do
        assert length(cells) == length(@header) - 1, "#{feature}: #{inspect(cells)}"
        refute "" in [feature | cells], "#{feature}: #{inspect(cells)}"
      end

      features = Enum.map(rows, &elem(&1, 0))
      assert features -- Enum.uniq(features) == []
    end

    test "says yes of Reactor only where it names a test, and else not yet" do
      for {feature, [ours | _]} <- rows() do
        cond do
          ours =~ ~r/^yes\b/ -> assert cited(ours) != [], "#{feature}: no test is named"
          ours =~ ~r/^(not yet|no)\b/ -> assert cited(ours) == []
          true -> flunk("#{feature}: neither yes, nor not yet, nor no: #{ours}")
        end
      end
    end

    test "names tests that exist" do
      missing =
        for {feature, [ours | _]} <- rows(), {file, name} <- cited(ours), reduce: [] do
          missing -> if exists?(file, name), do: missing, else: [{feature, file, name} | missing]
        end

      assert missing == []
    end

    test "names them in no other form, which nobody would check" do
      for {feature, cells} <- rows(), cell <- cells do
        rest = Regex.replace(citation(), cell, "")
        refute rest =~ ".exs", "#{feature}: #{cell}"
      end
    end

    # What the tests above are worth.
    test "would be wrong with a test that does not exist" do
      assert exists?("docs_test.exs", "the comparison names tests that exist")
      assert exists?("docs_test.exs", "the comparison finds the name of a … test")
      refute exists?("docs_test.exs", "the comparison names tests that do not")
      refute exists?("docs_test.exs", "names tests that exist")
      refute exists?("docs_test.exs", "the comparison finds the name of a generated test")
      refute exists?("no_such_test.exs", "the comparison names tests that exist")
      refute exists?("support/my_app/echo.ex", "…")
    end

    for kind <- ["generated"] do
      test "finds the name of a #{kind} test" do
        assert "the comparison finds the name of a … test" in names("docs_test.exs")
        refute "…" in names("reactor/listener_test.exs")
      end
    end
  end

  describe "the table of terms" do
    test "names a test in every row" do
      rows = for table <- tables(File.read!(@terms)), [_header, _rule | rows] <- [table], do: rows
      rows = List.flatten(rows)
      assert length(rows) > 40
      for row <- rows, do: assert(cited(row) != [], "no test is named: #{row}")
    end

    test "names tests that exist, in no other form" do
      text = File.read!(@terms)
      assert for({file, name} <- cited(text), not exists?(file, name), do: {file, name}) == []
      refute Regex.replace(citation(), text, "") =~ ".exs"
    end

    test "has examples that run" do
      code = @terms |> blocks("elixir") |> Enum.join("\n")
      assert code =~ "return: :object"
      Code.eval_string(code, [], file: @terms)
    end
  end

  describe "the guide about asyncio" do
    test "has examples that run" do
      code = @asyncio |> blocks("elixir") |> Enum.join("\n")
      assert code =~ "handle_connection"
      Code.eval_string(code, [], file: @asyncio)
    end
  end

  describe "the guide" do
    test "has examples that run" do
      code = @production |> blocks("elixir") |> Enum.join("\n")
      assert code =~ "Supervisor.start_link"

      # The ports may be taken.
      code
      |> String.replace(~r/port: 80\d\d/, "port: 0")
      |> Code.eval_string([], file: @production)
    after
      Reactor.Logger.detach()
      if Code.ensure_loaded?(:telemetry), do: :telemetry.detach("guide")

      for module <- [MyApp.Upcase, MyApp.Metrics, MyApp.Chat] do
        :code.purge(module)
        :code.delete(module)
      end
    end

    # The first connection is the sink of the second.
    @pair """

    sink = None

    def make():
        global sink
        if sink is None:
            sink = Sink()
            return sink
        relay = Relay()
        relay.sink, sink.source = sink, relay
        # Nothing of them is kept.
        sink = None
        return relay
    """

    @tag :tmp_dir
    test "has Python protocols that hold their source back", %{tmp_dir: directory} do
      [python, _] = blocks(@production, "python")
      File.write!(Path.join(directory, "guide_pair.py"), python <> @pair)

      defmodule Relay do
        use Reactor, python: "guide_pair:make"
      end

      {:ok, server} = Reactor.start(Relay, ip: :loopback, paths: [directory])
      {:ok, sink} = Reactor.connect("localhost", Reactor.info(server).port)
      {:ok, source} = Reactor.connect("localhost", Reactor.info(server).port)
      bytes = 1_000_000
      task = Task.async(fn -> Reactor.Socket.recv!(sink, bytes) end)
      Reactor.Socket.send!(source, :binary.copy("x", bytes))
      assert byte_size(Task.await(task)) == bytes
      assert Reactor.stop(server) == :ok
    end

    @tag :tmp_dir
    test "has a Python protocol that runs", %{tmp_dir: directory} do
      [_, python] = blocks(@production, "python")
      File.write!(Path.join(directory, "guide_upcase.py"), python)

      defmodule Py do
        use Reactor, python: "guide_upcase:Upcase"
      end

      {:ok, server} = Reactor.start(Py, ip: :loopback, paths: [directory])
      {:ok, client} = Reactor.connect("localhost", Reactor.info(server).port)
      Reactor.Socket.send!(client, "hello\n")
      assert Reactor.Socket.recv!(client, 6) == "HELLO\n"

      assert {:ok, %{connections: 1, finished: 1, cut: 0}} = Reactor.drain(server, 5_000)
      assert Reactor.Socket.recv!(client) == "BYE\n"
      assert Reactor.Socket.recv!(client) == nil
      assert Reactor.stop(server) == :ok
    end
  end

  describe "the guide to calls" do
    test "runs as it stands" do
      file = Path.join(@docs, "python_calls.md")
      file |> blocks("elixir") |> Enum.join("\n") |> Code.eval_string([], file: file)
    end
  end

  # --- the table ------------------------------------------------------------------------------

  # Of all tables of the comparison: {feature, the other cells}.
  defp rows do
    for table <- tables(File.read!(@comparison)),
        [@header, _rule | rows] <- [Enum.map(table, &cells/1)],
        [feature | cells] <- rows,
        do: {feature, cells}
  end

  # Their lines.
  defp tables(text) do
    text
    |> String.split("\n")
    |> Enum.chunk_by(&String.starts_with?(&1, "|"))
    |> Enum.filter(&match?(["|" <> _ | _], &1))
  end

  defp cells(line) do
    line |> String.trim("|") |> String.split("|") |> Enum.map(&String.trim/1)
  end

  defp citation, do: ~r/`([^`\s]+\.exs): "([^`]+)"`/

  defp cited(cell), do: for([_, file, name] <- Regex.scan(citation(), cell), do: {file, name})

  defp exists?(file, name), do: name in names(file)

  # The names of a file's tests, as ExUnit has them, without its own "test" in front. What is known
  # only when they are made is …; a name that is nothing else says nothing.
  defp names(file) do
    case File.read(Path.join(__DIR__, file)) do
      {:ok, code} -> code |> Code.string_to_quoted!() |> names("") |> Enum.reject(&(&1 == "…"))
      {:error, :enoent} -> []
    end
  end

  defp names({:describe, _, [name, [do: block]]}, ""), do: names(block, text(name) <> " ")

  defp names({kind, _, [name | _]}, describe) when kind in [:test, :property] do
    if text(name), do: [describe <> text(name)], else: []
  end

  defp names({form, _, arguments}, describe),
    do: names(form, describe) ++ names(arguments, describe)

  defp names({left, right}, describe), do: names(left, describe) ++ names(right, describe)
  defp names(list, describe) when is_list(list), do: Enum.flat_map(list, &names(&1, describe))
  defp names(_other, _describe), do: []

  defp text(name) when is_binary(name), do: name
  defp text({:<<>>, _, parts}), do: Enum.map_join(parts, &if(is_binary(&1), do: &1, else: "…"))
  defp text(_variable), do: nil

  # --- the guide ------------------------------------------------------------------------------

  # The blocks of one language, in order.
  defp blocks(file, language) do
    ~r/^```#{language}\n(.*?)^```$/ms
    |> Regex.scan(File.read!(file), capture: :all_but_first)
    |> List.flatten()
  end
end
