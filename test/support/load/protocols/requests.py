"""A protocol that answers requests, and counts those it has received."""

import threading

import erlang.reactor as reactor

CLIENTS = 64
REQUEST, ANSWER = 16, 64
SLOW_S = 0.1

# Only of its own client's number: no lock is needed.
received = [0] * CLIENTS


class Requests(reactor.Protocol):
    def __init__(self):
        super().__init__()
        self.request = b""

    def data_received(self, data):
        self.request += bytes(data)
        if len(self.request) < REQUEST:
            return "continue"
        received[int(self.request[:3])] += 1
        if self.request[-1:] == b"f":
            self.reply()
            return "write_pending"
        if self.request[-1:] == b"s":
            threading.Timer(SLOW_S, self.reply_later).start()
        return "async_pending"

    def reply(self):
        self.write_buffer.extend(self.request * ANSWER)
        self.request = b""

    def reply_later(self):
        self.reply()
        reactor.signal_write_ready(self.fd)


def tell():
    """How many requests of each client have been received in this interpreter."""
    return received


def clear():
    """Starts anew."""
    received[:] = [0] * CLIENTS
