"""Protocols that count themselves in and out, and one that tells the counts."""

import threading

import erlang.reactor as reactor

# Contexts are threads, and `+=` is not one step.
lock = threading.Lock()
inside = most = 0


class Counted(reactor.Protocol):
    """Echoes 64 bytes twice, and closes."""

    def connection_made(self, fd, client_info):
        global inside, most
        super().connection_made(fd, client_info)
        self.received = 0
        with lock:
            inside += 1
            most = max(most, inside)

    def data_received(self, data):
        self.received += len(data)
        self.write_buffer.extend(data)
        return "close" if self.received >= 128 else "write_pending"

    def connection_lost(self):
        global inside
        with lock:
            inside -= 1


class Count(reactor.Protocol):
    """Answers how many are inside and how many ever were, and starts anew."""

    def data_received(self, data):
        global most
        with lock:
            self.write_buffer.extend(b"%d %d" % (inside, most))
            most = inside
        return "close"
