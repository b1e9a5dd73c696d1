"""Protocols for descriptors that are handed over."""

import json
import os
import select
import socket
import threading
import tty

import erlang.reactor as reactor

received = {}
"""What came, by the name that the info gave."""

gate, blocked = threading.Event(), threading.Event()
"""What holds a context up, and whether it does."""

ended = set()
"""The names of those that are over."""


class Handed(reactor.Protocol):
    """Does what it is told, and otherwise echoes."""

    def connection_made(self, fd, client_info):
        self.name = client_info.get("name")
        received[self.name] = bytearray()
        greeting = client_info.get("greeting")
        if greeting == "raise":
            raise RuntimeError("not welcome")
        if greeting is not None:
            self.write_buffer.extend(greeting.encode())
            return "write_pending"
        return "continue"

    def data_received(self, data):
        received[self.name].extend(data)
        if self.client_info.get("quiet"):
            return "continue"
        word, _, rest = bytes(data).decode("latin-1").strip().partition(" ")
        if word == "info":
            answer = {key: repr(value) for key, value in self.client_info.items()}
            self.write_buffer.extend(json.dumps(answer).encode())
        elif word == "fd":
            mine = reactor.get_protocol(self.fd) is self
            self.write_buffer.extend(f"{self.fd} {mine}".encode())
        elif word == "received":
            self.write_buffer.extend(received.get(rest, b"nothing") or b"(empty)")
        elif word == "ended":
            self.write_buffer.extend(str(rest in ended).encode())
        elif word == "say":
            name, times, text = rest.split(" ")
            other = next(p for p in living if p.name == name)
            answer = text.encode() * int(times)
            threading.Thread(target=later, args=(other, answer)).start()
            self.write_buffer.extend(b"said")
        elif word == "pour":
            self.write_buffer.extend(b"x" * int(rest))
        elif word == "later":
            threading.Thread(target=later, args=(self, b"at last")).start()
            return "async_pending"
        elif word == "raise":
            raise RuntimeError("as told")
        elif word == "close":
            self.write_buffer.extend(b"bye")
            return "close"
        elif word == "block":
            blocked.set()
            gate.wait(30)
            self.write_buffer.extend(data)
        else:
            self.write_buffer.extend(data)
        return "write_pending"

    def connection_lost(self):
        ended.add(self.name)
        living.discard(self)


living = set()


class Remembered(Handed):
    """Likewise, and others find it by its name."""

    def connection_made(self, fd, client_info):
        # Whoever is not welcome is not told of its end either.
        answer = super().connection_made(fd, client_info)
        living.add(self)
        return answer


class Leaves(Handed):
    """Says goodbye, or does not wait for that to be sent."""

    def going_away(self):
        self.write_buffer.extend(b"goodbye")
        return "close" if self.name == "hasty" else "write_pending"


def later(protocol, answer):
    protocol.write_buffer.extend(answer)
    reactor.signal_write_ready(protocol.fd)


class Opens(reactor.Protocol):
    """Opens what tests hand over, in this process, and does to it what Erlang cannot."""

    def data_received(self, data):
        word, *args = bytes(data).decode().split()
        numbers = [int(arg) for arg in args if arg.isdigit()]
        if word == "pipe":
            result = os.pipe()
        elif word == "pty":
            master, slave = os.openpty()
            tty.setraw(slave)
            result = (master, slave)
        elif word == "unix":
            kind = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}.get(args[0])
            pair = socket.socketpair(socket.AF_UNIX, kind or socket.SOCK_SEQPACKET)
            result = tuple(one.detach() for one in pair)
        elif word == "epoll":
            epoll = select.epoll()
            result = (os.dup(epoll.fileno()),)
        elif word == "open":
            result = (os.open(args[0], os.O_RDONLY),)
        elif word == "blocking":
            result = (int(os.get_blocking(numbers[0])),)
        elif word == "write":
            result = (os.write(numbers[0], args[1].encode()),)
        elif word == "pour_60000":
            result = (os.write(numbers[0], b"pour 60000"),)
        elif word == "pour":
            result = (os.write(numbers[0], b"x" * numbers[1]),)
        elif word == "read":
            os.set_blocking(numbers[0], True)
            wanted = numbers[1] if len(numbers) > 1 else 1
            while len(self.write_buffer) < wanted:
                self.write_buffer.extend(os.read(numbers[0], 65536))
            return "write_pending"
        elif word == "lengths":
            messages = (os.read(numbers[0], 65536) for _ in range(numbers[1]))
            result = tuple(len(message) for message in messages)
        elif word == "close":
            os.close(numbers[0])
            result = (0,)
        elif word == "blocked":
            result = (int(blocked.is_set()),)
        elif word == "unblock":
            gate.set()
            result = (0,)
        self.write_buffer.extend(" ".join(map(str, result)).encode())
        return "write_pending"
