"""What is said of terms that cannot be decoded, and of objects that cannot be encoded."""


class DecodeError(ValueError):
    """Bytes that are no term, or one that is beyond a limit, or that Python has nothing for.

    Attributes:
        offset: Where in the data, in bytes, or None. Of a compressed term: where in what it expands to.
        tag: The number that says what kind of term is there, or None.
    """

    def __init__(self, reason, offset=None, tag=None):
        place = "" if offset is None else f"byte {offset}: "
        if tag is not None:
            place = f"byte {offset} (tag {tag}): "
        super().__init__(place + reason)
        self.reason = reason
        self.offset = offset
        self.tag = tag

    def __reduce__(self):
        return type(self), (self.reason, self.offset, self.tag)


class EncodeError(ValueError):
    """An object that has no counterpart outside Python, or that is beyond a limit.

    Attributes:
        path: Where it is, as ``value["rows"][3]``.
        reason: What is wrong with it.
    """

    def __init__(self, reason, path="value"):
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self):
        return f"{self.path}: {self.reason}"
