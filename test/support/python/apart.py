"""A protocol of a context that has a process for itself, and what can become of that."""

import ctypes
import os
import select
import socket

import _reactor

import erlang
import erlang.reactor as reactor


def segfault():
    """Reads where nothing is."""
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


def twice(number):
    """Is called."""
    return 2 * number


def home():
    """The process and the context."""
    return f"{os.getpid()}/{_reactor.context()}"


def wait(gate):
    """In C, without the GIL, until the other end is closed."""
    gate.recv(1)


def hold(gate):
    """Likewise with the GIL."""
    ctypes.PyDLL(None).recv(gate.fileno(), ctypes.create_string_buffer(1), 1, 0)


def nest(gate):
    """Calls Elixir, which calls this context, again and again, until the other end is closed."""
    while not select.select([gate], [], [], 0)[0]:
        erlang.call("apart_nested", 0.2)


HANGS = {"spin": lambda _gate: spin(), "wait": wait, "hold": hold, "nest": nest}


class Apart(reactor.Protocol):
    """Does what it is told, and otherwise echoes."""

    def data_received(self, data):
        word, _, rest = bytes(data).decode("latin-1").partition(" ")
        if word == "pid":
            data = str(os.getpid()).encode()
        elif word == "home":
            data = home().encode()
        elif word == "segfault":
            segfault()
        elif word == "exhaust":
            exhaust()
        elif word == "leave":
            os._exit(3)
        elif word == "hang":
            # Whoever listens there knows then that it does.
            how, port = rest.split()
            with socket.create_connection(("127.0.0.1", int(port))) as gate:
                HANGS[how](gate)
        elif word == "spin":
            spin()
        self.write_buffer.extend(data)
        return "write_pending"

    def going_away(self):
        self.write_buffer.extend(b"bye")
        return "write_pending"
