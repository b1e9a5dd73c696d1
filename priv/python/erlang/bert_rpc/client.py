"""Calls of functions that are elsewhere."""

import socket

from ..etf import DecodeError
from .packets import MAX_PACKET, MAX_STREAM, Error, PacketError, Packets, error_of
from .reply import Reply


def connect(host, port, *, timeout=5.0, max_packet=MAX_PACKET, max_stream=MAX_STREAM):
    """Connects to a server over TCP and returns a `Client`, which is a context manager.

    Args:
        timeout: Seconds to connect, and for each reading and writing; None waits for ever.
        max_packet: The largest packet, in bytes.
        max_stream: The longest stream of a reply, in bytes.

    Raises:
        OSError: It cannot be reached.
    """
    connection = socket.create_connection((host, port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = connection.makefile("rb")

    def close():
        file.close()
        connection.close()

    packets = Packets(file.read, connection.sendall, max_packet=max_packet, max_stream=max_stream)
    return Client(packets, close)


class Client:
    """A client over `Packets`. One thread at a time may use it.

    What breaks off in the middle, as a timeout does, closes it: the answer could still come, and be taken for that of
    the next request.
    """

    def __init__(self, packets, close=lambda: None):
        self._packets = packets
        self._close = close

    def call(self, module, function, *args, **options):
        """Calls a function and returns its result; of a stream, its bytes. Options and errors are those of `request`."""
        return self.request(module, function, *args, **options).value

    def request(self, module, function, *args, stream=None, validation=None):
        """Calls a function and returns a `Reply`.

        Args:
            stream: An iterable of bytes, which are sent after the request.
            validation: The token of a value that is kept. If that is valid the reply says so and has no value.

        Raises:
            Error: The server says so.
            PacketError, etf.DecodeError: The answer is none of BERT-RPC.
            etf.EncodeError: An argument cannot be sent, or is too large. Nothing was sent then.
            OSError, EOFError: The connection is lost.
        """
        packets = self._packets.request("call", module, function, args, stream, validation)
        return self._request(packets, stream)

    def cast(self, module, function, *args, stream=None, callback=None):
        """Has a function called without its result.

        Args:
            callback: ``(service, module, function, args)``: ``"host:port"``, and who is sent a cast there with these
                arguments and the result, if the server is willing.
        """
        packets = self._packets.request("cast", module, function, args, stream, callback=callback)
        self._request(packets, stream)

    def _request(self, packets, stream):
        try:
            for packet in packets:
                self._packets.send(packet)
            if stream is not None:
                self._packets.send_stream(stream)
            return self._answer()
        except (Error, DecodeError, _NoAnswer):
            raise
        except BaseException:
            self.close()
            raise

    def _answer(self):
        reply = Reply()
        streamed = False
        while True:
            term = self._packets.receive_term()
            kind = term[0] if type(term) is tuple and term else None
            if kind == "info" and len(term) == 3:
                streamed = streamed or term[1] == "stream"
                reply.add(*term[1:])
            elif kind == "reply" and len(term) == 2:
                reply.value = b"".join(self._packets.receive_stream()) if streamed else term[1]
                return reply
            elif kind == "noreply" and len(term) == 1:
                return reply
            elif kind == "error" and len(term) == 2:
                raise error_of(term[1])
            else:
                raise _NoAnswer("the answer is none of BERT-RPC")

    def close(self):
        """Closes the connection."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


class _NoAnswer(PacketError):
    """A packet that has been read as a whole, so that the next one can be."""
