defmodule Reactor.Diary do
  @moduledoc false

  # What happened to the Python protocols of test/support/python/diary.py, which share one
  # interpreter with the protocol that tells it.

  import Reactor.TransportCase

  @python Path.expand("python", __DIR__)

  defmodule Keeps do
    @moduledoc false
    use Reactor, python: "diary:Keeps"
  end

  defmodule Tells do
    @moduledoc false
    use Reactor, python: "diary:Tells"
  end

  @doc "Starts a server whose protocols keep a diary."
  def serve_diary(context, options \\ []) do
    serve(context, Keeps, [paths: [@python]] ++ options)
  end

  @doc "Where the protocols of tests are."
  def python, do: @python

  @doc "A client whose page can be asked for when its peer has closed, too."
  def dial_kept(server, options \\ []), do: dial(server, [exit_on_close: false] ++ options)

  @doc "What happened to the protocol of this client, in words."
  def diary(client, context), do: ask(context, page(client))

  @doc "Lets the protocol of this client answer what it was asked."
  def release(client, context), do: ask(context, "release #{page(client)}")

  @doc "How many lived at once, at most, since this was asked last."
  def peak(context), do: context |> ask("peak") |> String.to_integer()

  defp page(name) when is_binary(name), do: name

  defp page(client) do
    {:ok, port} = :inet.port(client)
    "#{port}"
  end

  defp ask(context, question) do
    client = context |> serve(Tells, paths: [@python]) |> dial()
    :ok = :gen_tcp.send(client, question)
    {:ok, answer} = :gen_tcp.recv(client, 0, 5_000)
    :gen_tcp.close(client)
    answer
  end
end
