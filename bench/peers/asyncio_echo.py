"""An echo server on asyncio's own event loop: a Protocol, as its documentation writes one.

asyncio (and uvloop) set TCP_NODELAY on every accepted connection themselves.

Prints READY and the port. Ends at the end of standard input, or on SIGTERM.
"""

import asyncio
import signal
import sys
import threading


class EchoProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def serve(context=None, protocol=EchoProtocol):
    """Over TLS with an ssl.SSLContext."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024, ssl=context)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    def wait_for_end_of_input():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    # A thread that sleeps in a read: nothing more for the loop to watch.
    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    print("READY", server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
