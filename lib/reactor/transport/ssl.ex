defmodule Reactor.Transport.SSL do
  @moduledoc """
  The transport on OTP's `:ssl`: TLS connections. See `Reactor.Transport.SSL.Options` for its options.

      Reactor.start(MyApp.Echo, port: 8443, secure: [certfile: "cert.pem", keyfile: "key.pem"])
      Reactor.connect("localhost", 8443, secure: [cacertfile: "ca.pem"])

  In active mode the owner is sent `{:ssl, socket, data}`, `{:ssl_closed, socket}`,
  `{:ssl_error, socket, reason}` and `{:ssl_passive, socket}`.

  An acceptor accepts the TCP connection alone; the handshake is done when another acceptor has
  taken its place, so that a slow client holds nobody up.

  It differs from the native transport in that

    * the end of the stream in one direction ends the connection: there is no half of one;
    * of two processes that receive one waits for the other, and the length for a packet is not looked at;
    * a send that timed out has ended the connection;
    * it has no deadlines but that of the handshake; `:high_watermark` and `:low_watermark` are
      those of the socket below;
    * in active mode a packet above `:packet_size` is `{:ssl_error, socket, {:invalid_packet, _}}`.

  A server that stops closes the connections whose handlers wait in `Reactor.Socket.recv/3`, and lets
  the others answer. It does not know when an active owner has nothing to do: that one should listen
  to `{Reactor, :going_away}`.
  """

  @behaviour Reactor.Transport

  import Kernel, except: [send: 2]

  alias Reactor.{ConfigError, Listener}
  alias Reactor.Transport.{FileCopy, Inet, SSL}

  # As the other transports have it.
  @max_length 64 * 1024 * 1024

  # While a server drains: how long a handler that comes for more waits for what may be on its way, in ms.
  @last_wait 50

  # In the dictionary of a process: the socket that it waits for data of, and the one that it has accepted
  # and not yet greeted.
  @waits :"$reactor_ssl_recv"
  @new :"$reactor_ssl_accepted"

  # --- listening ------------------------------------------------------------------------------

  # What :ssl calls a listening socket holds its options, keys included. So it is kept in a table that
  # ends with the caller, and what goes around and may be printed is the table's name, and the port.
  @impl true
  def listen(%Listener{} = listener) do
    with {:ok, secure} <- given(listener.secure),
         :ok <- start(),
         {:ok, tls} <- SSL.Options.load(:server, secure),
         {:ok, socket} <- open(listener, tls, secure) do
      # It may have been drained, and goes on.
      forget(listener.socket)
      table = :ets.new(:reactor_ssl, [:set, :public, read_concurrency: true])
      :ets.insert(table, [{:socket, socket}, {:keys, SSL.Draining.keys(socket)}])
      {:ok, {:reactor_ssl, table, port(socket)}}
    end
  end

  defp forget({:reactor_ssl, table, _port}) do
    with {:ok, keys} <- lookup(table, :keys) do
      SSL.Draining.clear(keys)
      :ets.delete(table)
    end
  end

  defp forget(nil), do: false

  defp given(secure) when is_list(secure) and secure != [], do: {:ok, secure}

  defp given(secure) do
    expected = "a keyword list with :certfile and :keyfile, or :certs_keys, with transport :ssl"
    {:error, %ConfigError{option: :secure, value: secure, expected: expected}}
  end

  # An optional application: where it is installed it has been started with this one.
  defp start do
    case Application.ensure_all_started(:ssl) do
      {:ok, _started} ->
        :ok

      {:error, {application, _reason}} ->
        expected =
          "one that can be used: OTP's application #{inspect(application)} is not installed"

        {:error, %ConfigError{option: :transport, value: :ssl, expected: expected}}
    end
  end

  defp open(listener, tls, secure) do
    options = Inet.listen_options(listener) ++ Inet.from_options(listener.options) ++ tls

    attempt(secure, fn -> :ssl.listen(listener.port, options) end)
  end

  # Some wrong options :ssl refuses, of others it dies, with the value in what it says.
  defp attempt(secure, call) do
    case call.() do
      {:error, {:options, reason}} -> {:error, SSL.Options.refused(reason, secure)}
      result -> result
    end
  rescue
    _of_options -> {:error, SSL.Options.refused(nil, secure)}
  catch
    :exit, :badarg -> {:error, SSL.Options.refused(nil, secure)}
  end

  @impl true
  def update({:reactor_ssl, table, _port}, %Listener{options: options}) do
    case lookup(table, :socket) do
      {:ok, socket} -> setopts(socket, options)
      :error -> {:error, :closed}
    end
  end

  @impl true
  def address({:reactor_ssl, _table, port}), do: port |> :inet.sockname() |> Inet.closed()

  @impl true
  def accept({:reactor_ssl, table, _port}) do
    with {:ok, socket} <- lookup(table, :socket),
         {:ok, socket} <- :ssl.transport_accept(socket) do
      Process.put(@new, socket)
      {:ok, socket}
    else
      :error -> {:error, :closed}
      {:error, reason} -> {:error, reason}
    end
  end

  @impl true
  def handshake(socket, %Listener{secure: secure}) do
    # An accept/1 of the user's may bring one that needs none, and :ssl would wait for it forever.
    if Process.delete(@new) == socket do
      greet(socket, SSL.Options.handshake_timeout(secure))
    else
      {:ok, socket}
    end
  end

  # A server that stops does not wait for those who have not begun.
  defp greet(socket, timeout) do
    Process.put(@waits, socket)
    result = :ssl.handshake(socket, timeout)
    Process.delete(@waits)
    if match?({:error, _reason}, result), do: :ssl.close(socket)
    result
  end

  @impl true
  def drain({:reactor_ssl, table, _port}) do
    # It may be closed already, and connections of it be there.
    with {:ok, keys} <- lookup(table, :keys), do: SSL.Draining.mark(keys, table)
    with {:ok, socket} <- lookup(table, :socket), do: :ssl.close(socket)
    :ok
  end

  # Nothing but the end of its stream ends a wait in :ssl.recv/3; and an :ssl socket is of no more use
  # then. So that is done to a handler that waits, and one at work learns of it when it comes for more.
  @impl true
  def drain_handler(handler, %Listener{port: port}) do
    with {:dictionary, dictionary} <- Process.info(handler, :dictionary),
         {@waits, socket} <- List.keyfind(dictionary, @waits, 0),
         # A handler may have dialed others.
         {:ok, {_ip, ^port}} <- :ssl.sockname(socket) do
      :gen_tcp.shutdown(port(socket), :read)
    end

    :ok
  end

  @impl true
  def close_listener({:reactor_ssl, table, _port}) do
    # The table stays: a drain may still come, for the connections that are left.
    with {:ok, keys} <- lookup(table, :keys), do: SSL.Draining.clear(keys)

    with {:ok, socket} <- lookup(table, :socket) do
      :ets.delete(table, :socket)
      :ssl.close(socket)
    end

    :ok
  end

  defp lookup(table, key) do
    {:ok, :ets.lookup_element(table, key, 2)}
  rescue
    # It is closed, or its owner has ended.
    ArgumentError -> :error
  end

  # The socket below. The shape of the record differs between OTP releases.
  defp port(term) when is_port(term), do: term
  defp port(term) when is_tuple(term), do: term |> Tuple.to_list() |> Enum.find_value(&port/1)
  defp port(_other), do: nil

  # --- connecting -----------------------------------------------------------------------------

  # Besides the connection's options there are two: :secure, and the :host that was asked for.
  @impl true
  def connect(address, port, options, timeout) do
    {secure, options} = Map.pop(options, :secure, [])
    {host, options} = Map.pop(options, :host, address)

    with :ok <- start(),
         {:ok, tls} <- SSL.Options.load(:client, secure) do
      options =
        [:binary, Inet.family(address)] ++
          Inet.from_options(options) ++ Keyword.merge(name(host), tls)

      attempt(secure, fn -> :ssl.connect(address, port, options, timeout) end)
    end
  end

  # An address has no name to ask for; its certificate must then name the address.
  defp name(host) when is_tuple(host), do: []
  defp name(host) when is_atom(host) or is_binary(host), do: host |> to_charlist() |> name()

  defp name(host) do
    case :inet.parse_address(host) do
      {:ok, _address} -> []
      {:error, :einval} -> [server_name_indication: host]
    end
  end

  # --- connections ----------------------------------------------------------------------------

  @impl true
  def recv(_socket, length, _timeout) when length > @max_length, do: {:error, :enomem}

  def recv(socket, length, timeout) do
    # First this: a drain that begins in between finds it, or is found.
    Process.put(@waits, socket)

    if SSL.Draining.draining?(socket) do
      Process.delete(@waits)
      last(socket, length, timeout)
    else
      result = received(:ssl.recv(socket, length, timeout))
      Process.delete(@waits)
      result
    end
  end

  defp last(socket, length, timeout) do
    case received(:ssl.recv(socket, length, min(timeout, @last_wait))) do
      {:error, :timeout} -> {:error, :closed}
      result -> result
    end
  end

  # Its error holds what was received.
  defp received({:error, {:invalid_packet, _packet}}), do: {:error, :emsgsize}
  defp received({:error, :enotconn}), do: {:error, :closed}
  defp received(result), do: result

  @impl true
  def send(socket, data) do
    # What is no data is found here, and not by another process, which would die of it.
    case :ssl.send(socket, :erlang.iolist_to_iovec(data)) do
      {:error, {:badarg, {:packet_to_large, _size, _max}}} -> {:error, :emsgsize}
      result -> closed(result)
    end
  end

  @impl true
  def file(socket, path, offset, length) do
    with {:ok, file} <- FileCopy.open(path) do
      result = FileCopy.send(file, offset, length, &send(socket, &1))
      :file.close(file)
      result
    end
  end

  @impl true
  def setopts(socket, options) do
    socket |> :ssl.setopts(Inet.from_options(options)) |> closed()
  end

  @impl true
  def getopts(socket) do
    case :ssl.getopts(socket, Inet.names()) do
      {:ok, options} -> {:ok, Inet.to_options(options)}
      {:error, reason} -> closed({:error, reason})
    end
  end

  @impl true
  def statistics(socket) do
    case :ssl.getstat(socket, Inet.counters()) do
      {:ok, counters} -> {:ok, Inet.to_statistics(counters)}
      {:error, reason} -> closed({:error, reason})
    end
  end

  # :ssl lets anybody give a socket away, and leaves the messages of it where they are.
  @impl true
  def controlling_process(socket, pid) do
    cond do
      not owner?(socket) -> {:error, :not_owner}
      node(pid) != node() or not Process.alive?(pid) -> {:error, :badarg}
      true -> hand_over(socket, pid)
    end
  end

  # The owner is monitored by a process that the socket names.
  defp owner?(socket) do
    {:monitored_by, watchers} = Process.info(self(), :monitored_by)
    watchers = Enum.filter(watchers, &is_pid/1)
    watchers -- pids(socket) != watchers
  end

  defp pids(term) when is_pid(term), do: [term]
  defp pids(term) when is_tuple(term), do: term |> Tuple.to_list() |> pids()
  defp pids([first | rest]), do: pids(first) ++ pids(rest)
  defp pids(_other), do: []

  defp hand_over(socket, pid) do
    with {:ok, [active: active]} <- :ssl.getopts(socket, [:active]),
         :ok <- if(active == false, do: :ok, else: :ssl.setopts(socket, active: false)),
         active =
           Reactor.Transport.forward(
             socket,
             pid,
             active,
             {:ssl, :ssl_error, :ssl_closed, :ssl_passive}
           ),
         :ok <- :ssl.controlling_process(socket, pid) do
      if active == false, do: :ok, else: :ssl.setopts(socket, active: active)
    end
    |> closed()
  end

  @impl true
  def local(socket), do: socket |> :ssl.sockname() |> closed()

  @impl true
  def remote(socket), do: socket |> :ssl.peername() |> closed()

  @impl true
  def peer_credentials(_socket), do: {:error, :eopnotsupp}

  @impl true
  def shutdown(socket, how), do: socket |> :ssl.shutdown(how) |> closed()

  @impl true
  def close(socket) do
    # It says so if it was closed.
    _ = :ssl.close(socket)
    :ok
  end

  @impl true
  def negotiated_protocol(socket) do
    case :ssl.negotiated_protocol(socket) do
      {:ok, protocol} -> protocol
      {:error, _none} -> nil
    end
  end

  @impl true
  def peer_certificate(socket), do: :ssl.peercert(socket)

  # What :inet says of an option it names.
  defp closed({:error, {:options, {:socket_options, reason}}}), do: Inet.closed({:error, reason})
  defp closed(result), do: Inet.closed(result)
end
