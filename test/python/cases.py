"""What the tests of protocols have in common: a protocol that remembers, and two sockets."""

import socket
import sys
import unittest

import erlang.reactor as reactor
from erlang.reactor import factory as factories

INFO = {"addr": "127.0.0.1", "port": 4000, "type": "tcp"}


class Recorder(reactor.Protocol):
    """Remembers its calls, and answers what it is told to."""

    answer = "continue"

    def __init__(self):
        super().__init__()
        self.calls = []

    def connection_made(self, fd, client_info):
        self.calls.append(("made", fd, client_info, self.fd, self.client_info, self.closed))

    def data_received(self, data):
        self.calls.append(("data", bytes(data)))
        return self.answer

    def connection_lost(self):
        self.calls.append(("lost", self.closed))


class Pair(unittest.TestCase):
    """Gives each test two connected sockets and undoes what it did to the factories."""

    def setUp(self):
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.settimeout(10)
        self.fd = self.ours.fileno()
        saved = dict(factories._by_context), dict(factories._by_module), list(sys.path)
        self.addCleanup(self.restore, *saved)
        self.addCleanup(self.theirs.close)
        self.addCleanup(self.ours.close)
        self.addCleanup(reactor.close_connection, self.fd)

    def restore(self, by_context, by_module, path):
        for table, saved in (
            (factories._by_context, by_context),
            (factories._by_module, by_module),
        ):
            table.clear()
            table.update(saved)
        sys.path[:] = path

    def connect(self, factory=Recorder):
        reactor.set_protocol_factory(factory)
        return reactor.init_connection(self.fd, INFO)
