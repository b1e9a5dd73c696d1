"""A parser for HTTP/1.1 requests without a body, as small as it can be and still be one.

Both sides of the benchmark use it: what is compared is what is under it.
"""

LIMIT = 65_536
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Parser:
    """Takes what has come; gives what is to be sent, and whether the connection stays."""

    def __init__(self):
        self.pending = b""

    def feed(self, data):
        if self.pending:
            data = self.pending + data
        replies = []
        start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            head = data[start:end].decode("latin-1")
            start = end + 4
            request, *lines = head.split("\r\n")
            parts = request.split(" ")
            if len(parts) != 3 or parts[2] != "HTTP/1.1":
                return b"".join(replies) + BAD, False
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            replies.append(REPLY)
            if headers.get("connection", "").lower() == "close":
                return b"".join(replies), False
        self.pending = bytes(data[start:])
        if len(self.pending) > LIMIT:
            return b"".join(replies) + BAD, False
        return b"".join(replies), True
