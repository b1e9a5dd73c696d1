"""A server of one request per connection."""

import erlang.reactor as reactor


class SmallHTTP(reactor.Protocol):
    def __init__(self):
        super().__init__()
        self.request = bytearray()

    def data_received(self, data):
        self.request.extend(data)
        if b"\r\n\r\n" not in self.request:
            return "continue"
        method, target, _version = self.request.split(b"\r\n", 1)[0].split(b" ", 2)
        body = b"%s of %s" % (method, target)
        self.write_buffer.extend(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.write_buffer.extend(body)
        return "write_pending"

    def write_ready(self):
        sent = self.write(bytes(self.write_buffer))
        del self.write_buffer[:sent]
        return "continue" if self.write_buffer else "close"
