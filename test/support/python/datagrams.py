"""Datagram protocols for the tests."""

import threading

import erlang.reactor as reactor


class Echo(reactor.DatagramProtocol):
    def datagram_received(self, data, addr):
        self.send_to(data, addr)


class Asyncio(reactor.DatagramProtocol):
    """Written as for asyncio."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        host, port = self.transport.get_extra_info("sockname")[:2]
        missing = self.transport.get_extra_info("peername", "none")
        text = f"{addr[0]}:{addr[1]} {host}:{port} {missing} {self.transport.is_closing()}"
        self.transport.sendto(text.encode(), addr)


class Commands(reactor.DatagramProtocol):
    """Does what it is told to, and tells the last one who wrote what happens."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1
        self.number = type(self).made
        self.peer = None

    def datagram_received(self, data, addr):
        self.peer = addr
        command, _, rest = bytes(data).partition(b" ")
        getattr(self, "do_" + command.decode())(rest.decode(), addr)

    def do_number(self, _rest, addr):
        self.send_to(str(self.number).encode(), addr)

    def do_raise(self, rest, addr):
        self.send_to(b"raising", addr)
        raise ValueError(rest)

    def do_large(self, rest, addr):
        self.send_to(bytes(int(rest)), addr)

    def do_many(self, rest, addr):
        for number in range(int(rest)):
            self.send_to(str(number).encode(), addr)

    def do_thread(self, rest, addr):
        threading.Thread(target=self.send_to, args=(rest.encode(), addr)).start()

    def do_wrong(self, rest, addr):
        wrong = {
            "name": (b"x", ("localhost", 9)),
            "port": (b"x", (addr[0], 70000)),
            "data": ("text", addr),
            "addr": (b"x", addr[0]),
            "long": (b"x", (addr[0], 9, 0, 0, 0)),
        }
        try:
            self.send_to(*wrong[rest])
        except Exception as error:
            self.send_to(f"{type(error).__name__}: {error}".encode(), addr)

    def do_close(self, _rest, _addr):
        self.close()

    def error_received(self, exc):
        text = f"{type(exc).__name__} {exc.errno}"
        self.send_to(text.encode(), self.peer)

    def connection_lost(self, exc):
        if self.peer:
            self.send_to(f"lost {exc} {self.is_closing()}".encode(), self.peer)


class Shout(reactor.DatagramProtocol):
    def datagram_received(self, data, addr):
        self.send_to(bytes(data).upper(), addr)


class FailsTwice(Echo):
    """Fails in its factory, then in connection_made."""

    made = 0

    def __init__(self):
        super().__init__()
        FailsTwice.made += 1
        if FailsTwice.made == 1:
            raise RuntimeError("in the factory")

    def connection_made(self, transport):
        if FailsTwice.made == 2:
            raise RuntimeError("in connection_made")


class Stream(reactor.Protocol):
    pass


class Threads(reactor.DatagramProtocol):
    """Says on which thread it runs."""

    def datagram_received(self, data, addr):
        self.send_to(str(threading.get_ident()).encode(), addr)
