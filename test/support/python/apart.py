"""A protocol of a context that has a process for itself, and what can become of that."""

import os

import erlang.reactor as reactor


def segfault():
    """Reads where nothing is."""
    import ctypes

    ctypes.string_at(0)


def exhaust():
    """Takes all the memory that there is."""
    kept = []
    while True:
        kept.append(bytearray(16 * 1024 * 1024))


def spin():
    """Never ends."""
    while True:
        pass


class Apart(reactor.Protocol):
    """Does what it is told, and otherwise echoes."""

    def data_received(self, data):
        word = bytes(data)
        if word == b"pid":
            data = str(os.getpid()).encode()
        elif word == b"segfault":
            segfault()
        elif word == b"leave":
            os._exit(3)
        elif word == b"spin":
            spin()
        self.write_buffer.extend(data)
        return "write_pending"

    def going_away(self):
        self.write_buffer.extend(b"bye")
        return "write_pending"
