"""An echo that leaves writing to the reactor."""

import erlang.reactor as reactor


class PlainEcho(reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(data)
        return "write_pending"
