"""What frames say, whatever the protocol."""

# The kinds of frames.
CALL = 0
CAST = 1
ANSWER = 2
ERROR = 3
HELLO = 4
# Something that is not meant for us.
NOTHING = 5


class Failure:
    """Why a request has no result: a kind, and what else there is to say."""

    __slots__ = ("detail", "kind")

    def __init__(self, kind, *detail):
        self.kind = kind
        self.detail = detail
