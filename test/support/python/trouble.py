"""Protocols that do what they should not."""

import select

import erlang.reactor as reactor


class OnDemand(reactor.Protocol):
    """Fails in the way that it is asked for; echoes anything else."""

    def data_received(self, data):
        if data == b"raise":
            raise ValueError("raised on demand")
        if data == b"upstream":
            raise ConnectionRefusedError("no database")
        if data == b"write":
            self.write(b"go")
            # Until the peer is gone.
            poll = select.poll()
            poll.register(self.fd, select.POLLHUP)
            poll.poll(10_000)
            self.write(b"too late")
        if data == b"unknown":
            return "dance"
        if data == b"none":
            return None
        if data == b"number":
            return 42
        if data == b"close":
            return "close"
        self.write_buffer.extend(data)
        return "write_pending"


def factory():
    """Makes every second protocol only."""
    factory.calls += 1
    if factory.calls % 2 == 1:
        raise RuntimeError("no protocol today")
    return OnDemand()


factory.calls = 0

not_callable = 3
