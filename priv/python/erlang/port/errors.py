"""What can go wrong with frames and with calls."""

from .requests import CALL


class FrameError(ValueError):
    """A frame that is longer than is allowed, or is none of its protocol."""


class Undecodable(Exception):
    """A frame that cannot be decoded. `id` is the number that it came with, or None; `kind` is what it was to be."""

    def __init__(self, id, text, kind=CALL):
        super().__init__(text)
        self.id = id
        self.kind = kind


class Refused(Exception):
    """A request that is understood and not allowed. `kind` and `id` are its own."""

    def __init__(self, kind, id, text):
        super().__init__(text)
        self.kind = kind
        self.id = id


class RemoteError(Exception):
    """A call to Elixir that has failed. By BERT-RPC it is a ``bert_rpc.Error``, and this only if the answer is undecodable.

    Attributes:
        kind: ``"undefined"``, ``"bad_arguments"``, ``"undecodable"``, ``"too_large"``, ``"overloaded"``, or
            ``"exception"`` where the function raised.
        detail: What else is known, a tuple; of an exception its type, message and stack trace.
    """

    def __init__(self, kind, *detail):
        super().__init__(kind, *detail)
        self.kind = kind
        self.detail = detail

    def __str__(self):
        return ": ".join(str(part) for part in (self.kind, *self.detail[:2]))
