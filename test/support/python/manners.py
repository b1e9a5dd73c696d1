"""Protocols that begin, answer later, or end in ways of their own."""

import threading

import erlang.reactor as reactor


class Greets(reactor.Protocol):
    """Speaks first."""

    def connection_made(self, fd, client_info):
        self.write_buffer.extend(b"welcome")
        return "write_pending"

    def data_received(self, data):
        self.write_buffer.extend(b"goodbye")
        return "close"


class AnswersLater(reactor.Protocol):
    """Has a thread of its own make the answer."""

    def data_received(self, data):
        request = bytes(data)
        threading.Thread(target=self.answer, args=(request,)).start()
        return "async_pending"

    def answer(self, request):
        self.write_buffer.extend(request[::-1])
        reactor.signal_write_ready(self.fd)


class EndsOthers(reactor.Protocol):
    """Ends the connection whose descriptor it is sent, and says its own."""

    lost = []

    def data_received(self, data):
        if data == b"who":
            self.write_buffer.extend(b"%d" % self.fd)
        elif data == b"lost":
            self.write_buffer.extend(b"%d" % self.lost[-1])
        else:
            reactor.close_connection(int(data))
            self.write_buffer.extend(b"done")
        return "write_pending"

    def connection_lost(self):
        self.lost.append(self.fd)
