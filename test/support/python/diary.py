"""Protocols that write down what happens to them, and one that tells it."""

import threading

import _reactor

import erlang.reactor as reactor

pages = {}
"""What happened, by the port of the client."""

gates = {}
"""What connections wait for before they answer, likewise."""

lock = threading.Lock()
living = peak = 0


class Keeps(reactor.Protocol):
    """Does as it is told, and otherwise echoes."""

    farewell = "none"

    def connection_made(self, fd, client_info):
        global living, peak
        with lock:
            living += 1
            peak = max(peak, living)
        self.port = str(client_info["port"])
        pages[self.port] = ["made"]
        gates[self.port] = threading.Event()

    def data_received(self, data):
        word, _, rest = bytes(data).decode().partition(" ")
        if word == "farewell":
            self.farewell = rest
        elif word == "hoard":
            # Waits to be let go, in a thread of its own.
            threading.Thread(target=self.answer_later, args=(b"answer",)).start()
            return "async_pending"
        elif word == "pour":
            self.write_buffer.extend(b"x" * int(rest))
            return "write_pending"
        elif word == "done":
            self.write_buffer.extend(b"farewell")
            return "close"
        elif word == "context":
            self.write_buffer.extend(b"%d" % _reactor.context())
            return "write_pending"
        self.write_buffer.extend(data)
        return "write_pending"

    def answer_later(self, answer):
        gates[self.port].wait(30)
        self.write_buffer.extend(answer)
        reactor.signal_write_ready(self.fd)

    def going_away(self):
        pages[self.port].append("away")
        if self.farewell == "none":
            return None
        if self.farewell == "raise":
            raise RuntimeError("no goodbyes")
        if self.farewell == "later":
            gates[self.port].set()
            threading.Thread(target=self.answer_later, args=(b"bye",)).start()
            return "async_pending"
        if self.farewell == "stay":
            self.write_buffer.extend(b"going")
            reactor.signal_write_ready(self.fd)
            return "read_pending"
        if self.farewell in ("write_pending", "close"):
            self.write_buffer.extend(b"bye")
        return self.farewell

    def connection_lost(self):
        global living
        with lock:
            living -= 1
        pages[self.port].append("lost")
        # A thread that waits would keep this alive.
        gates[self.port].set()


class KeepsAndWrites(Keeps):
    """Likewise, but writes by itself."""

    def write_ready(self):
        sent = self.write(self.write_buffer)
        del self.write_buffer[:sent]
        return "continue" if self.write_buffer else "read_pending"


class Tells(reactor.Protocol):
    """Is sent a port and tells what happened; or lets that one go; or says how many lived at once."""

    def data_received(self, data):
        global peak
        word, _, port = bytes(data).decode().partition(" ")
        if word == "release":
            gates[port].set()
            answer = "released"
        elif word == "peak":
            answer = str(peak)
            peak = living
        else:
            answer = " ".join(pages.get(word, ["nothing"]))
        self.write_buffer.extend(answer.encode())
        return "write_pending"
