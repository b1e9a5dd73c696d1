"""The plainest protocol: a tuple of a name and arguments is answered by the bare result, in order."""

from ..etf import DecodeError
from .errors import Undecodable
from .requests import CALL


class Plain:
    """Frames as docs/port.md has them: errors are two texts, the first the name of a class of errors."""

    ordered = True
    # Exceptions of handlers that are answered as they are.
    errors = ()

    def __init__(self, terms):
        self._decode = terms.decode
        self._encode = terms.encode

    def hello(self):
        """Nothing is said that was not asked."""

    def read(self, frame):
        """Returns what a frame says: its kind, no id, its name and its arguments."""
        try:
            request = self._decode(frame)
        except DecodeError as error:
            raise Undecodable(None, str(error)) from None
        if type(request) is not tuple or not request:
            raise Undecodable(None, "a request is a tuple of a name and its arguments")
        return CALL, None, request[0], request[1:]

    def answer(self, _id, value):
        """The frame of a result."""
        return self._encode(value)

    def failure(self, _id, failure):
        """The frame of a failure."""
        return self._encode(_FAILURES[failure.kind](*failure.detail))


_FAILURES = {
    "undefined": lambda name: ("Error", f"there is no handler for {name!s:.100}"),
    "bad_arguments": lambda _text: ("TypeError", "function_clause"),
    "undecodable": lambda text: ("ValueError", text),
    "unencodable": lambda text: ("ValueError", text),
    "too_large": lambda size, most: ("ValueError", f"an answer of {size} bytes, {most} fit"),
    "exception": lambda kind, text, _traceback: (kind, text),
}
