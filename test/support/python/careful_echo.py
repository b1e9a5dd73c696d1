"""An echo that writes by itself, and registers its factory instead of being named."""

import erlang.reactor as reactor


class CarefulEcho(reactor.Protocol):
    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.turns = 0
        # What every protocol is promised.
        assert self.fd == fd and reactor.get_protocol(fd) is self
        assert client_info["addr"] == "127.0.0.1" and client_info["port"] > 0
        assert client_info["type"] == "tcp"

    def data_received(self, data):
        if not data:
            return "close"
        self.turns += 1
        self.write_buffer.extend(data)
        return "write_pending"

    def write_ready(self):
        if self.write_buffer:
            sent = self.write(bytes(self.write_buffer))
            del self.write_buffer[:sent]
            if self.write_buffer:
                return "continue"
        return "read_pending"


reactor.set_protocol_factory(CarefulEcho)
