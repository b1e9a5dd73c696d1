defmodule Reactor.Connection do
  @moduledoc """
  One accepted or dialed socket.

    * `:id` - a positive integer, unique in this VM's life
    * `:socket` - what the transport works with; `Reactor.Socket` takes the connection as well as this
    * `:listener` - the `t:Reactor.Listener.t/0` that accepted it, or `nil` if
      `Reactor.connect/3` made it

  A handler finds its listener's starting environment in `connection.listener.env`.
  """

  alias Reactor.Listener

  @enforce_keys [:id, :socket]
  defstruct [:id, :socket, :listener]

  @type t :: %__MODULE__{
          id: pos_integer,
          socket: Reactor.Transport.socket(),
          listener: Listener.t() | nil
        }

  @doc """
  Makes a connection of a socket that the caller owns.
  """
  @spec new(Reactor.Transport.socket(), Listener.t() | nil) :: t
  def new(socket, listener \\ nil) do
    %__MODULE__{id: System.unique_integer([:positive]), socket: socket, listener: listener}
  end

  @doc """
  Waits for the next connection of a listener; the caller owns it.

  It is what `c:Reactor.Behaviour.accept/1` does by default, and what a module that overrides it
  calls. `{:error, :closed}` says that the listener is closed; other reasons are those of the
  operating system, as `:emfile`.
  """
  @spec accept(Listener.t()) :: {:ok, t} | {:error, atom}
  def accept(%Listener{} = listener) do
    case listener.transport.accept(listener.socket) do
      {:ok, socket} -> {:ok, new(socket, listener)}
      {:error, reason} -> {:error, reason}
    end
  end
end
