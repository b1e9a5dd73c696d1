"""What the tests get from the running server: real read buffers and a live connection.

`suite` fills this in before it runs the tests.
"""

import random

connection = None
"""The protocol of a connection that is open while the tests run."""

client = None
"""The other end of it, a blocking socket with a timeout."""

buffers = []
"""Pairs of a ReactorBuffer, as data_received got it, and the bytes that were sent."""

seed = 0
"""Of all that is random in a run: the report names it."""


def samples():
    """What to send for the buffers: little texts that methods of bytes care about, and noise."""
    dice = random.Random(seed)
    yield from (b"\0", b"\xff", b" ", b"A", b"\n", b"7")
    for alphabet in (
        b"ab",
        b"aA zZ",
        b" \t\r\n",
        b"0123456789abcdef",
        b"a\r\nb \x0b\x1c\t",
        b"%sd",
    ):
        for _ in range(12):
            yield bytes(dice.choice(alphabet) for _ in range(dice.randint(1, 40)))
    for text in ("Grüße, Welt", "naïve 日本語", "title Case Words", "  padded  "):
        yield text.encode()
    yield b"GET /index.html?q=1 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
    yield b'{"name": "reactor", "list": [1, 2, 3]}'
    for size in (255, 2047, 2048, 2049, 5000, 16384, 30000):
        yield bytes(dice.getrandbits(8) for _ in range(size))
