"""A small HTTP/1.0 server: one request for each connection, answered with a greeting.

Served by ``Reactor.start(..., python: "hello_http:HelloProtocol")``; then try
``curl http://localhost:<port>/world``.
"""

import erlang.reactor as reactor

LIMIT = 8192  # bytes of a request that are looked at


class HelloProtocol(reactor.Protocol):
    def __init__(self):
        super().__init__()
        self.request = bytearray()

    def data_received(self, data):
        self.request.extend(data)
        end = self.request.find(b"\r\n\r\n")
        if end >= 0:
            self.write_buffer.extend(answer(bytes(self.request[:end])))
        elif len(self.request) > LIMIT:
            self.write_buffer.extend(response("431 Request Header Fields Too Large", "too long\n"))
        else:
            return "continue"
        return "write_pending"

    def write_ready(self):
        # The base class sends as much as fits; when nothing is left, the answer is complete.
        super().write_ready()
        return "continue" if self.write_buffer else "close"


def answer(head):
    request_line = head.split(b"\r\n", 1)[0].decode("latin-1")
    try:
        method, path, _version = request_line.split()
    except ValueError:
        return response("400 Bad Request", "that is not HTTP\n")
    if method not in ("GET", "HEAD"):
        return response("405 Method Not Allowed", "only GET and HEAD\n")
    reply = response("200 OK", f"Hello, {path.strip('/') or 'stranger'}!\n")
    # The answer to HEAD has the headers alone.
    return reply if method == "GET" else reply[: reply.index(b"\r\n\r\n") + 4]


def response(status, text):
    body = text.encode("latin-1")
    head = (
        f"HTTP/1.0 {status}\r\n"
        "Content-Type: text/plain; charset=latin-1\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


reactor.set_protocol_factory(HelloProtocol)
