"""BERT-RPC: ``{call, module, function, arguments}`` is answered by ``{reply, result}``, in order.

What `Protocol` has of it: calls and casts, with any module, and errors in full. ``info`` packets are read and have
no effect, since nothing here is cached or streamed: that is what ``erlang.bert_rpc`` has.
"""

from functools import partial

from .. import bert
from ..etf import DecodeError
from ..terms import Atom
from .errors import Undecodable
from .requests import CALL, CAST, NOTHING

_KINDS = {"call": CALL, "cast": CAST}

# Type, code and class of what failed, by the specification's numbers.
_NO_FUNCTION = ("server", 2, "BERTError")
_BAD_ARGUMENTS = ("user", 0, "TypeError")
_UNREADABLE = ("protocol", 2, "BERTError")
_UNDESIGNATED = ("server", 0, "BERTError")


class Bert:
    """Packets of BERT-RPC."""

    ordered = True

    def __init__(self, terms):
        self._decode = partial(bert.decode, max_size=terms.max_size)
        self._encode = partial(bert.encode, max_size=terms.max_size)

    def hello(self):
        """Nothing is said that was not asked."""

    def read(self, frame):
        """Returns what a frame says: its kind, the same as its id, its function and its arguments."""
        try:
            request = self._decode(frame)
        except DecodeError as error:
            raise Undecodable(None, str(error)) from None
        if type(request) is tuple and len(request) == 4:
            # It may be any term.
            kind = _KINDS.get(request[0]) if isinstance(request[0], str) else None
            if kind is not None and type(request[3]) is list:
                return kind, kind, request[2], request[3]
        elif type(request) is tuple and len(request) == 3 and request[0] == "info":
            return NOTHING, None, None, None
        raise Undecodable(None, "a request is {call or cast, module, function, arguments}")

    def answer(self, id, value):
        """The packet of a result."""
        if id == CAST:
            return self._encode((Atom("noreply"),))
        return self._encode((Atom("reply"), value))

    def failure(self, id, failure):
        """The packet of a failure. Who casts hears of none."""
        if id == CAST:
            return self.answer(id, None)
        (kind, code, name), text, backtrace = _FAILURES[failure.kind](*failure.detail)
        return self._encode((Atom("error"), (Atom(kind), code, name, text, backtrace)))


_FAILURES = {
    "undefined": lambda name: (_NO_FUNCTION, f"there is no handler for {name!s:.100}", []),
    "bad_arguments": lambda text: (_BAD_ARGUMENTS, text, []),
    "undecodable": lambda text: (_UNREADABLE, text, []),
    "unencodable": lambda text: (_UNDESIGNATED, text, []),
    "too_large": lambda size, most: (_UNDESIGNATED, f"an answer of {size} bytes, {most} fit", []),
    "exception": lambda kind, text, traceback: (("user", 0, kind), text, traceback.splitlines()),
}
