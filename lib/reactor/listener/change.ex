defmodule Reactor.Listener.Change do
  @moduledoc false

  # What can be changed of a listener while its server runs.

  alias Reactor.{ConfigError, Listener, Socket}
  alias Reactor.Listener.Options

  @changeable [
                :module,
                :secure,
                :acceptors,
                :max_connections,
                :overload,
                :max_connections_per_ip,
                :accept_rate,
                :drain_timeout,
                :going_away,
                :profile,
                :python
              ] ++ Socket.Options.names()

  @known Options.names()

  @doc "Whether all of these options can be changed at all."
  @spec known(keyword) :: :ok | {:error, ConfigError.t()}
  def known(options) do
    case Enum.find(options, fn {name, _value} -> name not in @changeable end) do
      nil ->
        :ok

      {name, value} when name in @known ->
        {:error,
         Options.error(name, value, "left alone: it cannot be changed while the server runs")}

      {name, _value} ->
        {:error, ConfigError.unknown(name, @changeable)}
    end
  end

  @doc "Whether the server that runs as `listener` says can go on as `changed`, of a module with these options."
  @spec possible(Listener.t(), Listener.t(), defaults :: keyword) ::
          :ok | {:error, ConfigError.t()}
  def possible(listener, changed, defaults) do
    with :ok <- same_language(listener, changed, defaults), do: still_secure(listener, changed)
  end

  defp still_secure(%{secure: old}, %{secure: new}) do
    if old == false == (new == false) do
      :ok
    else
      expected = "left alone: TLS cannot be turned on or off while the server runs"
      {:error, Options.error(:secure, new, expected)}
    end
  end

  # What serves Python, and what serves Elixir, was started with the server.
  defp same_language(
         %{python: old} = listener,
         %{python: new, module: module} = changed,
         defaults
       ) do
    cond do
      changed.route and not listener.route ->
        {:error, Options.error(:module, module, "a module without route/1, as the one before")}

      old == nil and new != nil ->
        {:error, Options.error(:python, new, "left alone: the server was started without Python")}

      old != nil and new == nil ->
        {:error, Options.error(:python, new, Options.expected(:python))}

      old == nil and defaults[:python] != nil ->
        {:error,
         Options.error(:module, module, "a module that is served by Elixir, as the server is")}

      true ->
        :ok
    end
  end
end
