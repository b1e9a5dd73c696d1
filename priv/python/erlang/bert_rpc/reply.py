"""Results, with what BERT-RPC can say about them."""


class Reply:
    """A result.

    Attributes:
        value: The result; of a stream that was received, its bytes. Of a function that is exposed it may also be
            a function without arguments, which is called when the value is needed.
        cache: What is said about keeping it: a dict with ``access`` (``"public"`` or ``"private"``) and either
            ``expiration`` (seconds, 0 is for ever) or ``validation`` (a token), or an empty one.
        valid: Whether what the client has kept, by the token that it sent, is the value.
        chunks: Bytes that are sent as a stream, one after the other, or None.
    """

    def __init__(self, value=None, cache=None, valid=False, chunks=None):
        self.value = value
        self.cache = cache or {}
        self.valid = valid
        self.chunks = chunks


def cached(value, access="public", *, expiration=None, validation=None):
    """A result that the client, or a cache on the way, may keep: see `Reply`.

    Raises:
        ValueError: It is not said for how long, or not by one of the two.
    """
    if access not in ("public", "private"):
        raise ValueError(f"access is 'public' or 'private', not {access!r}")
    if (expiration is None) == (validation is None):
        raise ValueError("either expiration or validation says how long it may be kept")
    if expiration is not None:
        return Reply(value, {"access": access, "expiration": expiration})
    return Reply(value, {"access": access, "validation": validation})


def stream(chunks):
    """A result that is sent as a stream: an iterable of bytes."""
    return Reply(chunks=chunks)
