"""The other end of plain_port.exs: reads a call, answers it, reads the next.

Its codec knows the few types that are called with, as such programs' do.
"""

import os
import struct


class Port:
    """Frames with two bytes of length, over standard input and output."""

    def read(self):
        (size,) = struct.unpack(">H", self._exactly(2))
        return self._exactly(size)

    def _exactly(self, size):
        data = b""
        while len(data) < size:
            more = os.read(0, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def write(self, data):
        os.write(1, struct.pack(">H", len(data)) + data)


def decode(data):
    if data[0] != 131:
        raise ValueError(f"version {data[0]}")
    return _decode(data[1:])[0]


def _decode(data):
    """A term, and the bytes behind it."""
    tag = data[0]
    if tag == 97:
        return data[1], data[2:]
    if tag == 98:
        return struct.unpack(">i", data[1:5])[0], data[5:]
    if tag in (100, 119):
        start = 3 if tag == 100 else 2
        size = data[start - 1]
        return data[start : start + size].decode(), data[start + size :]
    if tag == 104:
        items, rest = [], data[2:]
        for _ in range(data[1]):
            item, rest = _decode(rest)
            items.append(item)
        return tuple(items), rest
    raise ValueError(f"tag {tag}")


def encode(term):
    if 0 <= term <= 255:
        return b"\x83a" + bytes([term])
    return b"\x83b" + struct.pack(">i", term)


class Calculator:
    def handler_twice(self, x):
        return 2 * x

    def handler_sum(self, x, y):
        return x + y


def main():
    port, calculator = Port(), Calculator()
    try:
        while True:
            name, *arguments = decode(port.read())
            port.write(encode(getattr(calculator, f"handler_{name}")(*arguments)))
    except EOFError:
        pass


if __name__ == "__main__":
    main()
