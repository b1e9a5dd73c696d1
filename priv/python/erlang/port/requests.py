"""What frames say, whatever the protocol."""

# The kinds of frames.
CALL = 0
CAST = 1
ANSWER = 2
ERROR = 3
HELLO = 4
# Something that is not meant for us.
NOTHING = 5

# The largest id.
MOST_ID = 0x7FFFFFFF


class Failure:
    """Why a request has no result: a kind, and what else there is to say."""

    __slots__ = ("detail", "kind")

    def __init__(self, kind, *detail):
        self.kind = kind
        self.detail = tuple(map(_text, detail))


def _text(part):
    # What an exception or a key says need not be Unicode, as names of files are not.
    if isinstance(part, str):
        try:
            part.encode()
        except UnicodeEncodeError:
            return part.encode(errors="backslashreplace").decode()
    return part
