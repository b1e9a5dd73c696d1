"""Protocols that answer twice and close, of which one counts itself in and out."""

import erlang
import erlang.reactor as reactor


class Twice(reactor.Protocol):
    """Echoes 64 bytes twice, and closes."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.received = 0

    def data_received(self, data):
        self.received += len(data)
        self.write_buffer.extend(data)
        return "close" if self.received >= 128 else "write_pending"


class Counted(Twice):
    """Likewise, and tells the tests' VM when it comes and goes."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        erlang.send("Elixir.Reactor.LimitsTest.Count", 1)

    def connection_lost(self):
        erlang.send("Elixir.Reactor.LimitsTest.Count", -1)
