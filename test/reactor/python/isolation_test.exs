defmodule Reactor.Python.IsolationTest do
  use Reactor.TransportCase, async: true, transport: :Native

  alias Reactor.{ConfigError, Isolations, Listener, LogRelay, Native}

  @python Path.expand("../../support/python", __DIR__)

  defmodule Py do
    use Reactor, python: "patience:Obeys"
  end

  defp start(context, options \\ []) do
    serve(context, Py, [paths: [@python], isolation: context.isolation] ++ options)
  end

  defp ask(client, text) do
    :ok = :gen_tcp.send(client, text)
    {:ok, answer} = :gen_tcp.recv(client, 0, 20_000)
    answer
  end

  # What a context that belongs to no server is started with.
  defp alone(isolation) do
    %{
      name: "alone",
      paths: [],
      python_dir: Application.app_dir(:reactor, "priv/python"),
      isolation: isolation,
      experimental: false,
      callback_timeout: nil,
      stuck_timeout: nil,
      venv: nil,
      requirements: [],
      setup: [],
      report_to: nil
    }
  end

  describe "what cannot be had is refused" do
    test "before anything is started: an isolation that is none" do
      for isolation <- [:own, "shared", nil] do
        assert {:error, %ConfigError{option: :isolation} = error} =
                 Listener.new(Py, isolation: isolation)

        assert Exception.message(error) =~ ":shared, :subinterpreter or :process"
      end
    end

    test "and options that are no timeout, and no yes or no" do
      for value <- [0, -1, 1.5, nil, 4_294_967_296] do
        assert {:error, %ConfigError{option: :callback_timeout}} =
                 Listener.new(Py, callback_timeout: value)
      end

      assert {:ok, _} = Listener.new(Py, callback_timeout: :infinity)
      assert {:error, %ConfigError{option: :experimental}} = Listener.new(Py, experimental: 1)
    end

    if :subinterpreter in Isolations.all() do
      test "but an interpreter with its own GIL can be had here" do
        assert {:ok, %{isolation: :subinterpreter}} = Listener.new(Py, isolation: :subinterpreter)
      end
    else
      test "as an interpreter with its own GIL is here, by what it would take" do
        assert {:error, %ConfigError{option: :isolation} = error} =
                 Listener.new(Py, isolation: :subinterpreter)

        message = Exception.message(error)
        assert message =~ ":shared here"
        assert message =~ "Python 3.14"
        assert Reactor.start(Py, isolation: :subinterpreter) == {:error, error}
      end

      test "by the context as well" do
        {:ok, native} = Native.context_start(alone(:subinterpreter))
        assert_receive {:"$reactor_context", ^native, {:failed, %{message: message}}}
        assert message =~ ":shared can"
        assert message =~ "Python 3.14"
      end
    end
  end

  for isolation <- Isolations.all() do
    describe "#{isolation}:" do
      @describetag isolation: isolation

      test "a server serves, ends, and is started again", context do
        for _ <- 1..3 do
          server = start(context, contexts: 2)
          clients = for _ <- 1..6, do: dial(server)
          for client <- clients, do: assert(ask(client, "hello") == "hello")
          assert Reactor.stop(server) == :ok
          for client <- clients, do: assert(read_all(client) == "")
        end
      end

      if isolation != :process do
        test "a context that belongs to no server lives and ends", context do
          {:ok, native} = Native.context_start(alone(context.isolation))
          assert_receive {:"$reactor_context", ^native, :ready}
          :ok = Native.context_stop(native, 0)
          assert_receive {:"$reactor_context", ^native, :stopped}
        end
      end

      test "exceptions come with their tracebacks", context do
        LogRelay.attach()
        server = start(context)
        client = dial(server)
        :ok = :gen_tcp.send(client, "sleep soundly")
        assert read_all(client) == ""
        {:error, text, _} = LogRelay.assert_logged("'soundly'")
        assert text =~ "in do_sleep"
        assert ask(dial(server), "well") == "well"
      end

      test "subprocesses have true exit statuses", context do
        client = context |> start() |> dial()
        for status <- [0, 7, 255], do: assert(ask(client, "status exit #{status}") == "#{status}")
        assert ask(client, "status kill -9 $$") == "-9"
        assert ask(client, "popen echo out; exit 3") == "out 3"
      end

      test "modules in C of the standard library can be imported", context do
        client = context |> start() |> dial()

        for name <- ~w(json datetime decimal ssl sqlite3 ctypes hashlib asyncio zoneinfo pickle
                       xml.etree.ElementTree logging socket random zlib csv struct) do
          assert ask(client, "import #{name}") != "", name
        end
      end

      test "threads that its code started end with it, or go on in the interpreter that all share",
           context do
        LogRelay.attach()
        server = start(context)
        client = dial(server)
        assert ask(client, "pool") == "6"
        assert ask(client, "thread 0.2") == "done"
        assert Reactor.stop(server) == :ok
        refute_received {LogRelay, :warning, "threads that its code started" <> _, _}
      end

      test "many are made and ended, from many processes at once", context do
        1..4
        |> Enum.map(fn _ ->
          Task.async(fn ->
            for _ <- 1..5 do
              options = [ip: :loopback, paths: [@python], isolation: context.isolation]
              {:ok, server} = Reactor.start(Py, options)
              client = dial(server)
              for name <- ~w(datetime sqlite3 decimal), do: ask(client, "import #{name}")
              assert ask(client, "x") == "x"
              assert Reactor.stop(server) == :ok
            end
          end)
        end)
        |> Task.await_many(50_000)
      end
    end
  end

  if :subinterpreter in Isolations.all() do
    describe "subinterpreter alone:" do
      @describetag isolation: :subinterpreter

      test "contexts share nothing", context do
        server = start(context, contexts: 2)
        other = start(context)
        client = dial(other)
        assert ask(client, "remember one") == "nothing"
        assert ask(client, "remember two") == "one"

        # Connections are spread over the contexts, each of which remembers its own.
        first = for _ <- 1..6, do: ask(dial(server), "remember x")
        assert Enum.count(first, &(&1 == "nothing")) in 1..2
        assert ask(client, "remember three") == "two"
      end

      # numpy refuses it as well, where it is installed.
      for package <- ["readline"] ++ if(Isolations.package?("numpy"), do: ["numpy"], else: []) do
        test "#{package}, which refuses it, is an error of that connection", context do
          LogRelay.attach()
          server = start(context)
          refused = dial(server)
          :ok = :gen_tcp.send(refused, "import #{unquote(package)}")
          assert read_all(refused) == ""
          {:error, text, _} = LogRelay.assert_logged(unquote(package))
          assert text =~ "ImportError"
          assert ask(dial(server), "well") == "well"
        end
      end

      test "os.fork, daemon threads and signal handlers are errors of that connection", context do
        LogRelay.attach()
        server = start(context)

        for {command, error} <- [
              {"fork", "RuntimeError"},
              {"daemon", "RuntimeError"},
              {"signal", "ValueError"}
            ] do
          refused = dial(server)
          :ok = :gen_tcp.send(refused, command)
          assert read_all(refused) == ""
          # Tests beside this one log errors of these classes too.
          {:error, text, _} = LogRelay.assert_logged("in do_#{command}")
          assert text =~ error
        end

        assert ask(dial(server), "well") == "well"
      end

      @tag :tmp_dir
      test "what its code does when it ends is done, by way of the native side too", context do
        path = Path.join(context.tmp_dir, "notes")
        server = start(context)
        assert ask(dial(server), "linger #{path}") == "done"
        assert Reactor.stop(server) == :ok
        notes = "atexit b'' del b'' "
        assert eventually(fn -> File.read(path) == {:ok, notes} end)
      end

      test "a thread that takes long keeps its interpreter, and it is said", context do
        LogRelay.attach()
        server = start(context)
        {:ok, listening} = :gen_tcp.listen(0, active: false, ip: {127, 0, 0, 1})
        {:ok, port} = :inet.port(listening)
        assert ask(dial(server), "waiting_thread #{port}") == "done"
        {:ok, waits} = :gen_tcp.accept(listening, 20_000)
        assert Reactor.stop(server) == :ok
        {:warning, _, _} = LogRelay.assert_logged("keep its Python interpreter")
        :gen_tcp.close(waits)
      end
    end
  end

  describe "numpy" do
    @describetag isolation: :shared
    @describetag :numpy

    unless Isolations.package?("numpy") do
      @describetag skip: "numpy is not installed (on Debian: python3-numpy)"
    end

    test "works in the shared interpreter", context do
      client = context |> start(contexts: 2) |> dial()
      assert ask(client, "dot") == "45"
    end
  end
end
