"""What the programs beside it share: commands on standard input, answers on standard output."""

import asyncio
import socket
import sys
import threading

# Linux's <netinet/in.h>; not in Python's socket module before 3.12.
IP_BIND_ADDRESS_NO_PORT = 24

PATIENCE_S = 50


def answer(**values):
    """Prints the line that answers a command."""
    print("=", *(f"{name}={_text(value)}" for name, value in values.items()), flush=True)


def _text(value):
    if isinstance(value, list):
        return ",".join(map(_text, value)) + ","
    return f"{value:.6f}" if isinstance(value, float) else str(value)


async def commands():
    """The lines of standard input, until its end."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue()

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(queue.put_nowait, line.split())
        loop.call_soon_threadsafe(queue.put_nowait, None)

    # A thread that sleeps in a read: nothing more for the loop to watch.
    threading.Thread(target=read, daemon=True).start()
    while (command := await queue.get()) is not None:
        yield command


class Changes:
    """Lets one task wait for what others count."""

    def __init__(self):
        self._waiting = []

    def tell(self):
        for entry in [entry for entry in self._waiting if entry[0]()]:
            self._waiting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(True)

    async def until(self, true):
        """Waits until `true()`. Gives up quietly: the counts that are answered then say enough."""
        if true():
            return
        entry = (true, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        await asyncio.wait([entry[1]], timeout=PATIENCE_S)


async def dial(port, source=None):
    """A connection to a server on this machine; `source` is the last number of the own address."""
    client = socket.socket()
    client.setblocking(False)
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            # The port is chosen when the peer is known, so that addresses share the range.
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((f"127.0.0.{source}", 0))
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


async def receive(client, count):
    """So many bytes, or fewer at the end of the stream."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < count and (more := await loop.sock_recv(client, count - len(data))):
        data += more
    return data
