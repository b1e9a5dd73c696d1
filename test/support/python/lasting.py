"""A connection that is never idle, for servers that have to cut it."""

import erlang.reactor as reactor


class Chatter(reactor.Protocol):
    def data_received(self, data):
        return self.write_ready()

    def write_ready(self):
        self.write(b"x" * 65536)
        return "write_pending"
