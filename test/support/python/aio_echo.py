"""Connections that are given to asyncio code, as descriptors."""

import asyncio
import contextlib
import socket
import ssl
import threading


def _socket(fd):
    taken = socket.socket(fileno=fd)
    taken.setblocking(False)
    return taken


async def _echo(reader, writer):
    try:
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def handle_connection(fd):
    """Takes the descriptor over, and echoes until the peer ends."""
    reader, writer = await asyncio.open_connection(sock=_socket(fd))
    await _echo(reader, writer)
    return "over"


def handle_connection_sync(fd):
    """Likewise, for who knows nothing of loops."""
    return asyncio.run(handle_connection(fd))


_secure = {}


def _context(certfile, keyfile):
    if certfile not in _secure:
        _secure[certfile] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _secure[certfile].load_cert_chain(certfile, keyfile)
    return _secure[certfile]


async def handle_secure(fd, certfile, keyfile):
    """Likewise, with TLS."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    taken = _socket(fd)
    try:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, taken, ssl=_context(certfile, keyfile)
        )
    except BaseException:
        taken.close()
        raise
    await _echo(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
    return "over"


async def upgrade(fd, certfile, keyfile):
    """Begins in the clear, and goes on with TLS."""
    loop = asyncio.get_running_loop()
    # Kept to the end, since a writer that nobody has any more closes what it writes to.
    reader, plain = await asyncio.open_connection(sock=_socket(fd))
    assert await reader.readline() == b"STARTTLS\n"
    plain.write(b"go ahead\n")
    await plain.drain()
    protocol = plain.transport.get_protocol()
    transport = await loop.start_tls(
        plain.transport, protocol, _context(certfile, keyfile), server_side=True
    )
    await _echo(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
    return "over"


async def census():
    """How many tasks there are besides this one, and how many threads Python has started."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    threads = [t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)]
    return len(tasks), len(threads)
