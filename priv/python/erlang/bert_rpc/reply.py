"""Results, with what BERT-RPC can say about them."""

from ..terms import Atom


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

    def add(self, command, options):
        """Takes note of what an info packet says about it. Of what is to come nobody needs to know it."""
        if command == "valid":
            self.valid = True
        elif command == "cache" and type(options) is list:
            self.cache = {str(pair[0]): pair[1] for pair in options if _is_pair(pair)}


def answer_to(outcome, token):
    """What a function's outcome is answered with, to who has kept the result with that token, or None.

    Returns:
        The terms of the packets, each a list of a name and what follows it; and the chunks of a stream behind
        them, or None.
    """
    if not isinstance(outcome, Reply):
        return [["reply", outcome]], None
    if token is not None and outcome.cache.get("validation") == token:
        return [["info", Atom("valid"), []], ["noreply"]], None
    terms = []
    if outcome.cache:
        hints = [
            (Atom(name), Atom(hint) if name == "access" else hint)
            for name, hint in outcome.cache.items()
        ]
        terms.append(["info", Atom("cache"), hints])
    if outcome.chunks is not None:
        return [*terms, ["info", Atom("stream"), []], ["reply", []]], outcome.chunks
    return [*terms, ["reply", value_of(outcome)]], None


def value_of(outcome):
    """The value of what a function has returned; it is found out now if that was left for later."""
    if isinstance(outcome, Reply):
        return outcome.value() if callable(outcome.value) else outcome.value
    return outcome


def _is_pair(pair):
    return type(pair) is tuple and len(pair) == 2


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
