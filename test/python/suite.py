"""Runs the test_*.py files beside it inside a running server.

A client sends "run\\n", or "run test_buffer seed=7\\n" for some files and for the random data of an
earlier report, and reads to the end: the report of unittest, and a last line "OK <n> tests" or
"FAILED (...)".

The tests want real read buffers and a live connection, so the suite first dials its own server:
each sample that it sends down that connection comes back to it as the argument of data_received.
All of it happens in the context's thread, in turns of its event loop.
"""

import fnmatch
import gc
import importlib
import io
import os
import random
import socket
import sys
import traceback
import unittest

import erlang.reactor as reactor
import live

DIRECTORY = os.path.dirname(os.path.abspath(__file__))


class SuiteProtocol(reactor.Protocol):
    """Either the connection that asked for the tests, or the one that they dialed."""

    def __init__(self):
        super().__init__()
        self.role = None

    def data_received(self, data):
        if self.role is None:
            if data.startswith(b"run"):
                self.role = Control(self, data.decode().split()[1:])
            else:
                self.role = Collector(self)
        return self.role.data_received(data)

    def write_ready(self):
        return self.role.write_ready()

    def connection_lost(self):
        if self.role is not None:
            self.role.connection_lost()


class Control:
    """The connection that asked, and waits for the report."""

    waiting = None

    def __init__(self, protocol, words):
        self.protocol = protocol
        self.files = [word for word in words if "=" not in word]
        seeds = [int(word[5:]) for word in words if word.startswith("seed=")]
        live.seed = seeds[0] if seeds else random.randrange(1 << 32)

    def data_received(self, _data):
        if Control.waiting is not None:
            self.protocol.write_buffer.extend(b"FAILED (the tests are running already)\n")
            return "write_pending"
        Control.waiting = self
        # A duplicate, so that closing this object does not close the reactor's descriptor.
        with socket.socket(fileno=os.dup(self.protocol.fd)) as duplicate:
            address = duplicate.getsockname()
        # The kernel completes the handshake while the loop, which will accept, is busy here.
        live.client = socket.create_connection(address[:2], timeout=10)
        live.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        live.client.sendall(b"collect\n")
        return "async_pending"

    def report(self, text):
        self.protocol.write_buffer.extend(text.encode())
        reactor.signal_write_ready(self.protocol.fd)

    def write_ready(self):
        # The base class by its name: an overridden write_ready is what this connection has.
        action = reactor.Protocol.write_ready(self.protocol)
        return action if self.protocol.write_buffer else "close"

    def connection_lost(self):
        if Control.waiting is self:
            Control.waiting = None


class Collector:
    """The dialed connection: what arrives is kept as it came, sample by sample."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.samples = live.samples()
        self.expected = b"collect\n"
        self.report = "FAILED (the connection of the tests was lost)\n"
        live.connection = protocol
        live.buffers = []

    def data_received(self, data):
        # A sample may come in several reads.
        live.buffers.append((data, self.expected[: len(data)]))
        self.expected = self.expected[len(data) :]
        if self.expected:
            return "continue"
        self.expected = next(self.samples, b"")
        if self.expected:
            live.client.sendall(self.expected)
            return "continue"
        try:
            self.report = run(Control.waiting.files)
        except Exception:
            self.report = f"{traceback.format_exc()}FAILED (the tests could not be loaded)\n"
        live.client.close()
        return "close"

    def write_ready(self):
        return reactor.Protocol.write_ready(self.protocol)

    def connection_lost(self):
        if Control.waiting is not None:
            Control.waiting.report(self.report)
        live.connection = None
        live.buffers = []
        # So that the counters of read buffers tell of leaks, not of cycles that tests left behind.
        gc.collect()


def run(files=()):
    """Runs the tests, those in `files` if there are any named, and returns the report."""
    stream = io.StringIO()
    suite = unittest.TestSuite()
    loader = unittest.TestLoader()
    for file in sorted(os.listdir(DIRECTORY)):
        name = file[:-3]
        if fnmatch.fnmatch(file, "test_*.py") and (not files or name in files):
            # Afresh, so that a file that was edited is what runs.
            sys.modules.pop(name, None)
            suite.addTests(loader.loadTestsFromModule(importlib.import_module(name)))
    stream.write(f"Python {sys.version.split()[0]}, seed {live.seed}\n")
    result = unittest.TextTestRunner(stream=stream, verbosity=2).run(suite)
    if result.wasSuccessful() and result.testsRun:
        stream.write(f"OK {result.testsRun} tests\n")
    else:
        stream.write(f"FAILED (of {result.testsRun} tests)\n")
    return stream.getvalue()
