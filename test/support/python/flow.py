"""Protocols whose flow a second server, on a thread of its own, controls and asks about."""

import hashlib
import threading
import types
import weakref

import _reactor

import erlang.reactor as reactor

protocols = weakref.WeakValueDictionary()
"""By the name that their client gave them, while they live: other tests count protocols."""

ended = {}
"""What is to be known of those that were, likewise."""

gate = threading.Event()


class Flow(reactor.Protocol):
    """Is told its name first. Then it keeps what it gets, and notes what else happens."""

    name = None
    at_eof = None
    source = None
    waits = False

    def connection_made(self, fd, client_info):
        self.got = bytearray()
        self.notes = []
        self.peak = 0

    def data_received(self, data):
        if self.name is None:
            self.name, *orders = data.decode().split()
            protocols[self.name] = self
            self.at_eof = orders[0] if orders else None
            self.write_buffer.extend(b"ok")
            return "write_pending"
        return self.take(data)

    def take(self, data):
        self.got.extend(data)
        return "continue"

    def eof_received(self):
        self.notes.append("eof")
        if self.at_eof == "raise":
            raise ValueError("no end")
        if self.at_eof in ("close", "write_pending"):
            self.write_buffer.extend(b"bye")
        return self.at_eof

    def pause_writing(self):
        self.notes.append("pause")

    def resume_writing(self):
        self.notes.append("resume")

    def connection_lost(self, exc):
        self.notes.append(f"lost {self.close_reason} {type(exc).__name__}: {exc}")
        self.source = None
        ended[self.name] = types.SimpleNamespace(
            notes=self.notes, got=self.got, peak=self.peak, waits=self.waits
        )


class Plain(Flow):
    """Does not care for the end of the stream, nor for room."""

    eof_received = reactor.Protocol.eof_received
    pause_writing = reactor.Protocol.pause_writing
    resume_writing = reactor.Protocol.resume_writing


class Takes(Flow):
    """Keeps nothing."""

    def take(self, data):
        return "continue"


class Clears(Flow):
    """Gives up what it has to send when that is too much."""

    def pause_writing(self):
        super().pause_writing()
        self.write_buffer.clear()


class Sips(Flow):
    """Pauses after each piece."""

    def take(self, data):
        self.pause_reading()
        return super().take(data)


class Obeys(Flow):
    """Does what it is sent."""

    def take(self, data):
        order, _, name = data.decode().partition(" ")
        if order == "block":
            gate.clear()
            self.notes.append("blocked")
            gate.wait(30)
        elif order == "pause":
            protocols[name].pause_reading()
        elif order == "wait":
            self.waits = True
            return "async_pending"
        elif order == "raise":
            raise LookupError("raised on demand")
        elif order == "close":
            return "close"
        return super().take(data)


class WritesItself(Flow):
    """Overrides what makes the loop write."""

    def write_ready(self):
        return super().write_ready()


class Relay(Flow):
    """Passes what it gets on to the protocol named "sink", and stops while that one's peer is slow."""

    def take(self, data):
        sink = protocols["sink"]
        sink.source = self
        sink.write_buffer.extend(data)
        sink.peak = max(sink.peak, len(sink.write_buffer))
        reactor.signal_write_ready(sink.fd)
        return "continue"

    def pause_writing(self):
        super().pause_writing()
        self.source.pause_reading()

    def resume_writing(self):
        super().resume_writing()
        self.source.resume_reading()


class Hoards(reactor.Protocol):
    """Keeps what it gets, as it came or as a view of it, beyond its own end."""

    kept = []

    def data_received(self, data):
        if data == b"forget":
            self.kept.clear()
        elif data == b"digest":
            parts = hashlib.sha256()
            for part in self.kept:
                parts.update(part)
            self.write_buffer.extend(parts.hexdigest().encode())
            return "write_pending"
        else:
            self.kept.append(data if len(self.kept) % 2 else memoryview(data))
        self.write_buffer.extend(b"kept")
        return "write_pending"


class Greets(Flow):
    """Says something and ends its half before it is told anything."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.write_buffer.extend(b"hello")
        self.write_eof()


def tell(question):
    """Likewise for a call; None if the protocol is in another context."""
    word, name, *more = question.split()
    protocol = ended.get(name) or protocols.get(name)
    if protocol is None and word != "release":
        return None
    return str(getattr(Tells, word)(None, protocol, *more) or "done")


class Tells(reactor.Protocol):
    """Does something to the protocol of a name, or tells of it: ``pause NAME``, ``got NAME`` ..."""

    def data_received(self, data):
        word, name, *more = data.decode().split()
        answer = getattr(self, word)(ended.get(name) or protocols.get(name), *more)
        self.write_buffer.extend(str(answer or "done").encode())
        return "write_pending"

    def release(self, _protocol):
        gate.set()

    def pause(self, protocol):
        protocol.pause_reading()

    def resume(self, protocol):
        protocol.resume_reading()

    def send(self, protocol, count):
        protocol.write_buffer.extend(b"x" * int(count))
        reactor.signal_write_ready(protocol.fd)

    def send_eof(self, protocol, count):
        protocol.write_buffer.extend(b"x" * int(count))
        protocol.write_eof()

    def look(self, protocol):
        return _reactor.read(protocol._handle, 0)

    def close(self, protocol):
        reactor.close_connection(protocol.fd)

    def got(self, protocol):
        return bytes(protocol.got).decode() or "nothing"

    def digest(self, protocol):
        return hashlib.sha256(protocol.got).hexdigest()

    def peak(self, protocol):
        return protocol.peak

    def waits(self, protocol):
        return protocol.waits

    def notes(self, protocol):
        return "; ".join(protocol.notes) if protocol else None
