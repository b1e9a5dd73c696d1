"""Packets: a length of four bytes, and BERT, or the bytes of a stream."""

import struct

from .. import bert
from ..terms import Atom

MAX_PACKET = 16 * 1024 * 1024
MAX_STREAM = 64 * 1024 * 1024

_header = struct.Struct(">I")
_PIECE = 64 * 1024
_TYPES = ("protocol", "server", "user", "proxy")


class Error(Exception):
    """An error that a server of BERT-RPC answers. A function that is exposed may raise one.

    Attributes:
        type: ``"protocol"``, ``"server"``, ``"user"`` or ``"proxy"``.
        code: A number. Of protocol: 1, the packet cannot be taken; 2, it cannot be read. Of server: 1, no such
            module; 2, no such function. 0 is any other error, and those from 100 are a function's own.
        name: The kind of error.
        detail: What is wrong.
        backtrace: A list of texts.
    """

    def __init__(self, detail, *, type="user", code=0, name="BERTError", backtrace=()):
        super().__init__(f"{type} error {code}, {name}: {detail}")
        self.type = type
        self.code = code
        self.name = name
        self.detail = detail
        self.backtrace = list(backtrace)


class PacketError(ValueError):
    """What the other side has sent is not BERT-RPC, or is too large."""


class Packets:
    """Packets both ways.

    Args:
        read: A function that returns so many bytes, less only at the end: a buffered file's ``read``.
        write: A function that writes bytes: a socket's ``sendall``, a raw file's ``write``.
        max_packet: The largest packet, in bytes.
        max_stream: The longest stream that is received, in bytes.
    """

    def __init__(self, read, write, *, max_packet=MAX_PACKET, max_stream=MAX_STREAM):
        self._read = read
        self._write = write
        self.max_packet = max_packet
        self.max_stream = max_stream

    def receive(self):
        """Returns the next packet's bytes.

        Raises:
            EOFError: The other side has closed.
            PacketError: It is larger than ``max_packet``. It has been skipped.
        """
        (size,) = _header.unpack(self._exactly(4))
        if size <= self.max_packet:
            return self._exactly(size)
        left = size
        while left:
            left -= len(self._exactly(min(left, _PIECE)))
        raise PacketError(f"the packet has {size} bytes, {self.max_packet} are allowed")

    def _exactly(self, size):
        data = self._read(size) if size else b""
        if len(data) != size:
            raise EOFError("the other side has closed")
        return data

    def send(self, data):
        """Sends a packet of bytes.

        Raises:
            TypeError: It is something else, as a term: see `send_term`.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a packet is bytes, not an instance of {type(data).__name__}")
        left = memoryview(_header.pack(len(data)) + data)
        while left:
            # A socket's sendall says nothing, a raw file how much it took.
            written = self._write(left)
            left = left[len(left) if written is None else written :]

    def receive_term(self):
        """Returns the term of the next packet. Raises as `receive` does, and ``etf.DecodeError``."""
        return bert.decode(self.receive(), max_size=self.max_packet)

    def encode(self, *term):
        """The bytes of a tuple whose first item is the name of an atom. Raises ``etf.EncodeError``."""
        name, *rest = term
        return bert.encode((Atom(name), *rest), max_size=self.max_packet)

    def send_term(self, *term):
        """Sends such a tuple."""
        self.send(self.encode(*term))

    def request(self, kind, module, function, args, stream=None, validation=None, callback=None):
        """The packets of a request: what info packets say of it, and then itself. See `Client`."""
        terms = request_terms(kind, module, function, args, stream, validation, callback)
        return [self.encode(*term) for term in terms]

    def receive_stream(self):
        """Yields the chunks of a stream as they come.

        Raises:
            EOFError: It has no end.
            PacketError: It is longer than ``max_stream``: the connection cannot be used any more.
        """
        left = self.max_stream
        while True:
            chunk = self.receive()
            if not chunk:
                return
            left -= len(chunk)
            if left < 0:
                raise PacketError(f"the stream has more than {self.max_stream} bytes")
            yield chunk

    def send_stream(self, chunks):
        """Sends chunks of bytes, and the stream's end."""
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            for start in range(0, len(view), _PIECE):
                self.send(view[start : start + _PIECE].tobytes())
        self.send(b"")


def request_terms(kind, module, function, args, stream=None, validation=None, callback=None):
    """The terms of these packets, each a list of a name and what follows it."""
    terms = []
    if validation is not None:
        terms.append(["info", Atom("cache"), [(Atom("validation"), validation)]])
    if callback is not None:
        service, *mfa = callback
        terms.append(["info", Atom("callback"), [(Atom("service"), service), _mfa(*mfa)]])
    if stream is not None:
        terms.append(["info", Atom("stream"), []])
    return [*terms, [kind, Atom(module), Atom(function), list(args)]]


def _mfa(module, function, args):
    return (Atom("mfa"), Atom(module), Atom(function), list(args))


def error_of(term):
    """The `Error` that the tuple in an error packet says."""
    if type(term) is tuple and len(term) == 5:
        kind, code, name, detail, backtrace = term
        if kind in _TYPES and type(code) is int and type(backtrace) is list:
            return Error(detail, type=str(kind), code=code, name=name, backtrace=backtrace)
    raise PacketError("the answer is none of BERT-RPC")
