"""Reactor's own protocol: every frame is ``(kind, id, body)``, and answers come in any order."""

import struct

from ..etf import DecodeError
from ..terms import Atom
from .errors import Undecodable
from .requests import ANSWER, CALL, CAST, ERROR, HELLO, MOST_ID, NOTHING

_HEADS = {kind: b"\x83h\x03a%cb" % kind for kind in (CALL, CAST, ANSWER, ERROR, HELLO)}
_CALL_HEAD = _HEADS[CALL]
_BODY_HEAD = b"h\x02m"
_NAMES_KEPT = 1_000
_WAITED_FOR = (bytes([CALL]), bytes([ANSWER]), bytes([ERROR]))
_pack = struct.Struct(">I").pack
_unpack = struct.Struct(">I").unpack_from


class Envelope:
    """Frames as docs/port.md has them."""

    ordered = False
    # Exceptions of handlers that are answered as they are.
    errors = ()

    def __init__(self, terms):
        self._decode = terms.decode
        self._encode = terms.encode
        # Of functions that were called before, by their bytes.
        self._names = {}

    def hello(self):
        """What tells the other side that we are there."""
        return self._frame(HELLO, 0, None)

    def read(self, frame):
        """Returns what a frame says: its kind, its id, and of a request its name and arguments, else its body twice."""
        # Nearly all frames look like this: to take them apart here takes half the time.
        if frame[:6] == _CALL_HEAD and frame[10:13] == _BODY_HEAD and len(frame) >= 17:
            end = 17 + _unpack(frame, 13)[0]
            name = self._names.get(frame[17:end])
            if name is not None:
                id = _unpack(frame, 6)[0]
                try:
                    arguments = self._decode(b"\x83" + frame[end:])
                except DecodeError as error:
                    raise Undecodable(id, str(error)) from None
                if type(arguments) is list:
                    return CALL, id, name, arguments
        return self._read_any(frame)

    def _read_any(self, frame):
        try:
            kind, id, body = self._decode(frame)
        except DecodeError as error:
            kind, id = _head(frame)
            raise Undecodable(id, str(error), kind) from None
        except (TypeError, ValueError):
            raise Undecodable(None, "a frame is a tuple of three") from None
        if type(id) is not int or not 0 <= id <= MOST_ID:
            raise Undecodable(None, f"an id is an integer from 0 to {MOST_ID}")
        if kind == CALL or kind == CAST:
            try:
                name, arguments = body
                if type(arguments) is list:
                    if type(name) is str and len(self._names) < _NAMES_KEPT:
                        self._names[name.encode()] = name
                    return kind, id, name, arguments
            except (TypeError, ValueError):
                pass
            raise Undecodable(id, "a request is a tuple of a name and a list")
        if kind == ANSWER or kind == ERROR:
            return kind, id, body, body
        return NOTHING, id, None, None

    def request(self, kind, id, name, arguments):
        """The frame that calls a function of the other side."""
        return self._frame(kind, id, (name, arguments))

    def answer(self, id, value):
        """The frame of a result."""
        return self._frame(ANSWER, id, value)

    def failure(self, id, failure):
        """The frame of a failure."""
        return self._frame(ERROR, id, (Atom(failure.kind), *failure.detail))

    def _frame(self, kind, id, body):
        return _HEADS[kind] + _pack(id) + self._encode(body)[1:]


def _head(frame):
    # The kind and id of a frame whose body cannot be decoded: of calls and answers, where somebody waits.
    if frame[:4] == b"\x83h\x03a" and frame[4:5] in _WAITED_FOR:
        if frame[5:6] == b"a" and len(frame) > 6:
            return frame[4], frame[6]
        if frame[5:6] == b"b" and len(frame) > 9:
            return frame[4], _unpack(frame, 6)[0]
    return CALL, None
