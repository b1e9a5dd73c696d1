for isolation <- Reactor.Isolations.all() do
  defmodule Module.concat([Reactor.Python.LoggingTest, isolation]) do
    # Not async: a flood is dropped, and the log's queue is one for all.
    use Reactor.TransportCase, async: false, transport: :Native

    @moduletag isolation: isolation

    import Reactor.LogRelay

    defmodule Says do
      use Reactor, python: "says:Says"
    end

    @moduletag :capture_log

    setup context do
      attach()
      server = serve(context, Says, paths: [Reactor.Diary.python()])
      %{server: server, client: dial(server), text: "text #{System.unique_integer([:positive])}"}
    end

    defp say(client, words) do
      :ok = put(client, words)
      {:ok, answer} = take(client, 0, 20_000)
      answer
    end

    for level <- [:debug, :info, :warning, :error, :critical] do
      test "logging at #{level} arrives with its logger, module and line",
           %{client: client, text: text} do
        assert say(client, "#{unquote(level)} #{text}") == "said"
        assert {unquote(level), ^text, metadata} = assert_logged(text)
        assert %{target: "python", logger: "says.it", module: "says"} = metadata
        assert metadata.function == unquote(to_string(level))
        assert metadata.file =~ "says.py"
        assert metadata.line > 20
        assert metadata.context == "says:Says/1"
      end
    end

    test "an exception that is logged has its traceback", %{client: client, text: text} do
      say(client, "exception #{text}")
      assert {:error, logged, _} = assert_logged(text)
      assert logged =~ "Traceback (most recent call last)"
      assert logged =~ "KeyError: 'inner'"
    end

    test "warnings arrive with the line that they are about", %{client: client, text: text} do
      say(client, "warn #{text}")
      assert {:warning, "UserWarning: " <> ^text, metadata} = assert_logged(text)
      assert %{logger: "py.warnings", module: "says"} = metadata
      assert metadata.file =~ "says.py"
      assert metadata.line > 20
    end

    describe "a stream" do
      test "passes lines on, with who wrote them", %{client: client, text: text} do
        say(client, "print #{text}")
        assert {:info, logged, metadata} = assert_logged(text)
        assert logged == "printed #{text}"
        assert %{logger: "stdout", module: "says", function: "print"} = metadata
        assert metadata.line > 20
      end

      test "of errors is a warning", %{client: client, text: text} do
        say(client, "stderr #{text}")
        assert {:warning, ^text, %{logger: "stderr", module: "says"}} = assert_logged(text)
      end

      test "is cut into lines, and empty ones are none", %{client: client, text: text} do
        say(client, "lines #{text}")
        assert {_, logged, _} = assert_logged(text)
        assert logged == text <> " 1"
        assert {_, logged, _} = assert_logged(text)
        assert logged == text <> " 2"
      end

      test "keeps what is no line yet until it is flushed", %{client: client, text: text} do
        say(client, "partial #{text}")
        say(client, "partial , and more")
        say(client, "print again")
        # A line of its own would have come before this.
        assert {_, logged, _} = assert_logged("again")
        assert logged == "#{text}, and moreprinted again"
        say(client, "partial #{text}")
        say(client, "flush it")
        assert {:info, ^text, %{function: "flush"}} = assert_logged(text)
      end

      test "is flushed when its context ends", %{client: client, text: text} = context do
        say(client, "partial #{text}")
        Reactor.stop(context.server, 1_000)
        assert {:info, ^text, %{context: "says:Says/1"}} = assert_logged(text)
      end

      test "is flushed when its thread ends", %{client: client, text: text} do
        say(client, "thread #{text}")
        assert {:info, ^text, %{logger: "stdout"}} = assert_logged(text)
      end

      test "takes bytes, and what is no text", %{client: client, text: text} do
        say(client, "bytes #{text}")
        assert {:info, logged, _} = assert_logged(text)
        assert logged == text <> "\\xff"
        say(client, "surrogate #{text}")
        assert {:info, logged, _} = assert_logged(text)
        assert String.valid?(logged)
      end

      test "cuts a long line into pieces", %{client: client, text: text} do
        say(client, "long #{text}")
        total = byte_size(text) + 40_000
        assert {:info, first, _} = assert_logged(text)
        assert byte_size(first) == 16_384
        assert {:info, second, _} = assert_logged("xxxx")
        assert byte_size(second) == 16_384
        assert {:info, third, _} = assert_logged("xxxx")
        assert byte_size(third) == total - 32_768
      end

      test "is there beside the real one", %{client: client} do
        assert say(client, "real one") == "real"
      end
    end

    test "what is logged while something is logged does not come back for ever",
         %{client: client, text: text} do
      assert say(client, "wordy #{text}") == "said"
      assert {:error, logged, _} = assert_logged(text)
      assert logged == text <> " wordy"
      assert say(client, "error #{text}") == "said"
      assert {:error, ^text, _} = assert_logged(text)
    end

    test "what cannot be formatted is said so", %{client: client, text: text} do
      assert say(client, "unprintable #{text}") == "said"
      assert {:warning, _, %{logger: "stderr"}} = assert_logged("ValueError: no text for this")
    end

    test "a thread that raises is one error with its traceback", %{client: client, text: text} do
      say(client, "raises #{text}")
      assert {:error, logged, metadata} = assert_logged(text)
      assert logged =~ "failing thread ended by an exception\nTraceback"
      assert logged =~ "RuntimeError: #{text}"
      assert %{logger: "threading", function: "fail"} = metadata
      say(client, "unraisable #{text}")
      assert {:error, logged, _} = assert_logged(text)
      assert logged =~ "__del__"
    end

    test "a log process that was started anew gets what is said", %{client: client, text: text} do
      :ok = :sys.suspend(Reactor.Runtime.Log)
      say(client, "flood before")
      # Not by a kill: the application's restarts are counted, and others test them.
      :ok = Supervisor.terminate_child(Reactor.Supervisor, Reactor.Runtime.Log)
      {:ok, _} = Supervisor.restart_child(Reactor.Supervisor, Reactor.Runtime.Log)

      assert eventually(fn ->
               say(client, "error #{text}")
               came?(text)
             end)
    end

    # Half of a queue of 1,024, and 256 that were not taken. Another process has such a queue too, and between the two is a
    # socket: what is in there when the log is taken again may be logged still.
    @most if isolation == :process, do: 3_000, else: 1_100

    test "a flood holds nobody up, is dropped and counted, and does not fill a mailbox",
         %{client: client, text: text} do
      log = Process.whereis(Reactor.Runtime.Log)
      :ok = :sys.suspend(log)
      assert say(client, "flood #{text}") == "said"
      {:message_queue_len, waiting} = Process.info(log, :message_queue_len)
      assert waiting <= 300
      :ok = :sys.resume(log)
      # What comes later is logged again, and behind it all that was not dropped has come.
      assert eventually(fn ->
               marker = "marker #{System.unique_integer([:positive])}"
               say(client, "error #{marker}")
               came?(marker)
             end)

      {lines, dropped} = sum(text, 0, 0)
      # Others may have had something to say too.
      assert_in_delta lines + dropped, 20_000, 20
      assert lines < @most
    end

    test "a callback that is interrupted while it logs keeps nobody else from it",
         %{client: client, text: text} = context do
      options = [paths: [Reactor.Diary.python()], callback_timeout: 100]
      server = serve(context, Says, options)

      for _ <- 1..5 do
        endless = dial(server)
        :ok = put(endless, "endless #{text}")
        assert read_all(endless) == ""
      end

      assert eventually(fn ->
               marker = "marker #{System.unique_integer([:positive])}"
               say(client, "error #{marker}")
               came?(marker)
             end)
    end

    # Leaves in the mailbox what else has come.
    defp came?(marker) do
      receive do
        {Reactor.LogRelay, _, ^marker, _} -> true
      after
        200 -> false
      end
    end

    defp sum(text, lines, dropped) do
      receive do
        {Reactor.LogRelay, :warning, logged, %{target: "reactor_nif::log"}} ->
          {n, " log events were dropped" <> _} = Integer.parse(logged)
          sum(text, lines, dropped + n)

        {Reactor.LogRelay, :info, logged, %{logger: "stdout"}} ->
          sum(text, if(logged =~ text, do: lines + 1, else: lines), dropped)

        {Reactor.LogRelay, _, _, _} ->
          sum(text, lines, dropped)
      after
        0 -> {lines, dropped}
      end
    end
  end
end
