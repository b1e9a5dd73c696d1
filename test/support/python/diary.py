"""Protocols that do as they are told, and tell the tests' VM what happens to them."""

import contextlib
import os
import socket
import threading

import _reactor

import erlang
import erlang.reactor as reactor


def note(page, word):
    """Writes a word on the page of the client with this port."""
    erlang.send("Elixir.Reactor.Diary.Pages", (str(page), word))


class Keeps(reactor.Protocol):
    """Does as it is told, and otherwise echoes."""

    farewell = "none"
    gate = None

    def connection_made(self, fd, client_info):
        self.page = client_info["port"]
        note(self.page, "made")

    def data_received(self, data):
        word, _, rest = bytes(data).decode().partition(" ")
        if word == "farewell":
            self.farewell = rest
        elif word == "hoard":
            self.gate = socket.create_connection(("127.0.0.1", int(rest)))
            # Waits to be let go, in a thread of its own.
            threading.Thread(target=self.answer_later, args=(b"answer",)).start()
            return "async_pending"
        elif word == "pour":
            self.write_buffer.extend(b"x" * int(rest))
            return "write_pending"
        elif word == "done":
            self.write_buffer.extend(b"farewell")
            return "close"
        elif word == "context":
            # Counted in each process.
            self.write_buffer.extend(b"%d/%d" % (os.getpid(), _reactor.context()))
            return "write_pending"
        self.write_buffer.extend(data)
        return "write_pending"

    def answer_later(self, answer):
        if self.gate is not None:
            with self.gate, contextlib.suppress(OSError):
                self.gate.recv(1)
        self.write_buffer.extend(answer)
        reactor.signal_write_ready(self.fd)

    def going_away(self):
        note(self.page, "away")
        if self.farewell == "none":
            return None
        if self.farewell == "raise":
            raise RuntimeError("no goodbyes")
        if self.farewell == "later":
            threading.Thread(target=self.answer_later, args=(b"bye",)).start()
            return "async_pending"
        if self.farewell == "stay":
            self.write_buffer.extend(b"going")
            reactor.signal_write_ready(self.fd)
            return "read_pending"
        if self.farewell in ("write_pending", "close"):
            self.write_buffer.extend(b"bye")
        return self.farewell

    def connection_lost(self):
        note(self.page, "lost")
        if self.gate is not None:
            # A thread that waits would keep this alive.
            with contextlib.suppress(OSError):
                self.gate.shutdown(socket.SHUT_RDWR)


class KeepsAndWrites(Keeps):
    """Likewise, but writes by itself."""

    def write_ready(self):
        sent = self.write(self.write_buffer)
        del self.write_buffer[:sent]
        return "continue" if self.write_buffer else "read_pending"
