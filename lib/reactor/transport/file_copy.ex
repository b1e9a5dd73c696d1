defmodule Reactor.Transport.FileCopy do
  @moduledoc false

  # Sends a file by reading it, piece by piece, where the kernel cannot send it by itself.

  # What is read at a time, in bytes.
  @chunk 65_536

  @spec open(binary) :: {:ok, :file.fd()} | {:error, atom}
  def open(path), do: :file.open(path, [:read, :raw, :binary])

  @spec send(:file.fd(), non_neg_integer, non_neg_integer | :all, (binary -> result)) ::
          {:ok, non_neg_integer} | result
        when result: :ok | {:error, term}
  def send(file, offset, left, send, done \\ 0)

  def send(_file, _offset, 0, _send, done), do: {:ok, done}

  def send(file, offset, left, send, done) do
    # An atom is above every number.
    with {:ok, data} <- :file.pread(file, offset, min(left, @chunk)),
         :ok <- send.(data) do
      n = byte_size(data)
      send(file, offset + n, if(left == :all, do: :all, else: left - n), send, done + n)
    else
      :eof -> {:ok, done}
      {:error, reason} -> {:error, reason}
    end
  end
end
