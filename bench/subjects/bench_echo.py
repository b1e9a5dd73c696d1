"""The Python echo of Reactor: the protocol that its documentation shows."""

import erlang.reactor as reactor


class EchoProtocol(reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(data)
        return "write_pending"
