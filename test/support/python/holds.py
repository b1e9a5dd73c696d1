"""A protocol that keeps a hold of the bytearray which its write buffer is."""

import erlang.reactor as reactor


class Holds(reactor.Protocol):
    """Answers a number by so many bytes, each time another one, while it can; ``look N`` as if somebody
    looked into the buffer meanwhile."""

    looking = None

    def connection_made(self, fd, client_info):
        self.held = self.write_buffer
        self.answers = 0

    def data_received(self, data):
        *look, size = data.split()
        if self.held is not self.write_buffer or self.held:
            return "close"
        self.held.extend(bytes([97 + self.answers % 26]) * int(size))
        self.answers += 1
        if look:
            self.looking = memoryview(self.held)
        return "write_pending"
