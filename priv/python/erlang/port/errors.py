"""What can go wrong with frames and with calls."""


class FrameError(ValueError):
    """A frame that is longer than is allowed, or is none of its protocol."""


class Undecodable(Exception):
    """A request that cannot be decoded. `id` is the number that it came with, or None."""

    def __init__(self, id, text):
        super().__init__(text)
        self.id = id


class RemoteError(Exception):
    """A call to Elixir that has failed.

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
