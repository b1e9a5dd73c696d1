"""Protocols that fail in one of their methods, and a factory that does."""

import erlang.reactor as reactor


class Fails(reactor.Protocol):
    method = ""

    def connection_made(self, fd, client_info):
        self.fail_in("connection_made")

    def data_received(self, data):
        self.fail_in("data_received")
        self.write_buffer.extend(b"x" * 20_000_000 if data == b"pour" else data)
        return "write_pending"

    def write_ready(self):
        self.fail_in("write_ready")
        sent = self.write(self.write_buffer)
        del self.write_buffer[:sent]
        return "continue" if self.write_buffer else "read_pending"

    def going_away(self):
        self.fail_in("going_away")

    def eof_received(self):
        self.fail_in("eof_received")

    def connection_lost(self):
        self.fail_in("connection_lost")

    def fail_in(self, method):
        if method == self.method:
            raise RuntimeError(f"{method} failed")


class InConnectionMade(Fails):
    method = "connection_made"


class InDataReceived(Fails):
    method = "data_received"


class InWriteReady(Fails):
    method = "write_ready"


class InGoingAway(Fails):
    method = "going_away"


class InEofReceived(Fails):
    method = "eof_received"


class Pours(Fails):
    """What writes by itself is not told of the room that there is."""

    write_ready = reactor.Protocol.write_ready

    def pause_writing(self):
        self.fail_in("pause_writing")

    def resume_writing(self):
        self.fail_in("resume_writing")


class InPauseWriting(Pours):
    method = "pause_writing"


class InResumeWriting(Pours):
    method = "resume_writing"


class InConnectionLost(Fails):
    method = "connection_lost"


def in_factory():
    raise RuntimeError("factory failed")
