"""An echo server: what arrives goes back.

Served by ``Reactor.start(..., python: "echo:EchoProtocol")``, or by ``python: "echo"`` through the
factory that is set at the end.
"""

import erlang.reactor as reactor


class EchoProtocol(reactor.Protocol):
    def data_received(self, data):
        # Copies the bytes into the write buffer; the event loop sends them.
        self.write_buffer.extend(data)
        return "write_pending"


reactor.set_protocol_factory(EchoProtocol)
