defmodule Reactor.Socket.OptionsTest do
  use ExUnit.Case, async: true

  alias Reactor.{ConfigError, Transport}
  alias Reactor.Socket.Options

  doctest Options

  @milliseconds "a number of milliseconds from 1 to 4294967295, or :infinity"
  @bytes "a number of bytes from 1 to 2147483647"
  @times [[1, 4_294_967_295, :infinity], [0, -1, 1.5, nil, 4_294_967_296]]

  # option, what is right, what is wrong, and what a wrong value says it must be
  @table [
    {:active, [true, false, :once, 1, 32_767], [0, 32_768, nil, :twice],
     "true, false, :once or an integer from 1 to 32767"},
    {:packet, [:raw, :line, 1, 2, 4], [0, 3, :http, nil], ":raw, :line, 1, 2 or 4"},
    {:packet_size, [0, 1, 67_108_864], [-1, 67_108_865, nil],
     "a number of bytes from 0 (no limit but 64 MiB) to 67108864"},
    {:nodelay, [true, false], [nil, 1], "true or false"},
    {:keepalive, [true, false], [nil, 1], "true or false"},
    {:recbuf, [nil, 2_147_483_647], [0, "1", 2_147_483_648], @bytes <> ", or nil"},
    {:sndbuf, [nil, 2_147_483_647], [0, "1", 2_147_483_648], @bytes <> ", or nil"},
    {:high_watermark, [1, 65_537, 2_147_483_647], [0, nil, 2_147_483_648], @bytes},
    {:low_watermark, [1], [0, nil, 10 ** 30], @bytes},
    {:send_timeout, hd(@times), tl(@times) |> hd(), @milliseconds},
    {:send_timeout_close, [true, false], [nil, 1], "true or false"},
    {:first_byte_timeout, hd(@times), tl(@times) |> hd(), @milliseconds},
    {:idle_timeout, hd(@times), tl(@times) |> hd(), @milliseconds},
    {:stall_timeout, hd(@times), tl(@times) |> hd(), @milliseconds},
    {:max_lifetime, hd(@times), tl(@times) |> hd(), @milliseconds},
    {:min_rate, [nil, {1, 1}, {1_000, 60_000}], [0, 1_000, {0, 1}, {1, 0}, {1}, {1, :infinity}],
     "{bytes, per_ms}, two integers from 1 to 4294967295, or nil"}
  ]

  for {option, right, wrong, expected} <- @table do
    test "#{option}" do
      option = unquote(option)

      for value <- unquote(Macro.escape(right)) do
        assert Options.validate([{option, value}]) == {:ok, %{option => value}}
      end

      for value <- unquote(Macro.escape(wrong)) do
        assert {:error, %ConfigError{option: ^option, value: ^value} = error} =
                 Options.validate([{option, value}])

        assert Exception.message(error) ==
                 "option #{inspect(option)} must be #{unquote(expected)}, got: #{inspect(value)}"
      end
    end
  end

  test "every option is here" do
    assert Enum.sort(Options.names()) == @table |> Enum.map(&elem(&1, 0)) |> Enum.sort()
  end

  test "defaults are right" do
    assert Options.validate(Options.defaults()) == {:ok, Options.defaults()}
    assert Options.together(Options.defaults()) == :ok

    for transport <- [Transport.TCP, Transport.SSL],
        do: assert(Options.supported(Options.defaults(), transport) == :ok)
  end

  test "an unknown one is named" do
    assert {:error, error} = Options.validate(idle_timout: 1)
    assert Exception.message(error) == "unknown option :idle_timout, did you mean :idle_timeout?"
    assert {:error, error} = Options.validate([:active])
    assert Exception.message(error) =~ "unknown option :active"
    assert {:error, error} = Options.validate(7)
    assert Exception.message(error) == "option :options must be a keyword list, got: 7"
  end

  test "a low mark above the high one is none" do
    assert {:error, error} = Options.together(%{low_watermark: 2, high_watermark: 1})

    assert Exception.message(error) ==
             "option :low_watermark must be no more than :high_watermark (1), got: 2"
  end

  for {option, value, default} <- [
        {:first_byte_timeout, 1, ":infinity"},
        {:idle_timeout, 2, ":infinity"},
        {:stall_timeout, 3, ":infinity"},
        {:max_lifetime, 4, ":infinity"},
        {:min_rate, {5, 6}, "nil"}
      ] do
    test "#{option} is the native transport's alone" do
      options = [{unquote(option), unquote(Macro.escape(value))}]
      assert Options.supported(Map.new(options), Transport.Native) == :ok

      for {module, name} <- [{Transport.TCP, :tcp}, {Transport.SSL, :ssl}] do
        assert {:error, error} = Options.supported(Map.new(options), module)

        message =
          "option :#{unquote(option)} must be #{unquote(default)} with transport :#{name} " <>
            "(:native has it), got: #{inspect(unquote(Macro.escape(value)))}"

        assert Exception.message(error) == message
      end

      # Wherever options can be given.
      assert {:error, %ConfigError{option: unquote(option)} = error} =
               Reactor.start(MyApp.Echo, [transport: :tcp] ++ options)

      assert Exception.message(error) =~ "with transport :tcp (:native has it)"
      {:ok, server} = Reactor.start(MyApp.Echo, port: 0, ip: :loopback, transport: :tcp)
      %{port: port} = Reactor.info(server)

      assert {:error, %ConfigError{option: unquote(option)}} =
               Reactor.connect("127.0.0.1", port, [transport: :tcp] ++ options)

      {:ok, connection} = Reactor.connect("127.0.0.1", port, transport: :tcp)

      assert {:error, %ConfigError{option: unquote(option)}} =
               Reactor.Socket.options(connection, options)

      assert {:ok, set} = Reactor.Socket.options(connection)
      assert set[unquote(option)] == Options.defaults()[unquote(option)]
      Reactor.stop(server)
    end
  end
end
