"""A protocol that takes time, or has others take the interpreter's lock."""

import threading
import time

import erlang.reactor as reactor


class Busy(reactor.Protocol):
    """Echoes; ``work MS`` after so many milliseconds of work; after ``hold MS`` a thread has the lock so long."""

    def data_received(self, data):
        order, _, count = data.decode().partition(" ")
        if order == "work":
            spin(int(count))
        elif order == "hold":
            go = threading.Event()
            threading.Thread(target=hold, args=(go, int(count))).start()
            go.set()
        self.write_buffer.extend(data)
        return "write_pending"


def spin(ms):
    end = time.monotonic() + ms / 1000
    while time.monotonic() < end:
        pass


def hold(go, ms):
    go.wait(10)
    end = time.monotonic() + ms / 1000
    while time.monotonic() < end:
        # One call of C, in which nobody else gets the lock.
        sum(range(20_000_000))
