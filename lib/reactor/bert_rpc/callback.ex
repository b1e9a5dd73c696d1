defmodule Reactor.BertRpc.Callback do
  @moduledoc false

  # Who is told by a cast what came of a cast: at an address that the client names, if that is allowed.

  require Logger

  alias Reactor.BertRpc
  alias Reactor.BertRpc.{Error, Reply}

  @type t :: {service :: String.t(), module :: atom, function :: atom, args :: list}

  @typedoc "Nowhere, anywhere, or to these addresses."
  @type allowed :: boolean | [String.t()]

  @doc ~S(The host and the port of "host:port".)
  @spec address(String.t()) :: {String.t(), :inet.port_number()} | :error
  def address(service) do
    with [host, port] when host != "" <- String.split(service, ":"),
         {port, ""} when port in 1..65_535 <- Integer.parse(port) do
      {host, port}
    else
      _other -> :error
    end
  end

  @doc "Whether a request may have it."
  @spec check(:call | :cast, t | nil, allowed) :: :ok | {:error, Error.t()}
  def check(_kind, nil, _allowed), do: :ok

  def check(:call, _callback, _allowed),
    do: {:error, %Error{type: :server, detail: "a callback is for a cast"}}

  def check(:cast, {service, _, _, _}, allowed) do
    if allowed == true or (is_list(allowed) and service in allowed),
      do: :ok,
      else: {:error, %Error{type: :server, detail: "callbacks to this service are not allowed"}}
  end

  @doc "Makes it. What goes wrong is in the log: the specification has nobody else to be told."
  @spec make(t | nil, {:ok, term} | {:error, Error.t()}, timeout) :: :ok
  def make(nil, _outcome, _timeout), do: :ok
  def make(_callback, {:error, _logged}, _timeout), do: :ok

  def make({service, module, function, args}, {:ok, value}, timeout) do
    {host, port} = address(service)

    with {:ok, client} <- BertRpc.connect(host, port, timeout: timeout) do
      told = BertRpc.cast(client, module, function, args ++ [plain(value)])
      BertRpc.close(client)
      told
    end
    |> case do
      :ok -> :ok
      {:error, reason} -> failed(service, inspect(reason, limit: 10, printable_limit: 500))
    end
  end

  @doc "Says in the log that one was not made."
  @spec failed(service :: String.t(), reason :: String.t()) :: :ok
  def failed(service, reason),
    do: Logger.warning("BERT-RPC: a callback to #{inspect(service)} failed: #{reason}")

  defp plain(%Reply{value: value}) when is_function(value, 0), do: value.()
  defp plain(%Reply{value: value}), do: value
  defp plain(value), do: value
end
