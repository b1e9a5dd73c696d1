"""Clients of two servers: some are left alone, the others come and go in every way there is.

    churn.py CONNECTIONS STEADY_PORTS... / CHURNED_PORTS...

Half of the connections are left alone: each sends up to 4 KiB now and then, all its life, and expects
it back. The other half end, after an exchange or in the middle of one, and others take their places:
closed, half-closed, reset, reset while the server writes, or by an exception of their protocol.

`run SECONDS` lets them; it answers how many there were of each kind when all have ended. `wrong` are
answers that were not what was sent; `lost`, of those that were left alone, who got none, or were closed.
Those of the others whose context was killed are `cut`. `alone` is how many stayed until the end.
"""

import asyncio
import os
import random
import socket
import struct
import sys
import time

import lines

# Addresses of our own that connections share, or there would be too few ports.
SOURCES = 100
# So many dial at once, at first: more than that would be refused by the backlog.
DIALS = 500

RESET = struct.pack("ii", 1, 0)


class Churn:
    def __init__(self, connections, steady, churned):
        self.connections, self.steady, self.churned = connections, steady, churned
        self.dials = asyncio.Semaphore(DIALS)

    async def run(self, seconds):
        self.counts = dict.fromkeys(
            ("alone", "exchanges", "lost", "wrong", "cut", "failed", "peak")
            + tuple(way.__name__.strip("_") for way in WAYS),
            0,
        )
        self.open = 0
        self.end = time.monotonic() + seconds
        half = self.connections // 2
        await asyncio.gather(
            *(self._alone(number) for number in range(half)),
            *(self._churned(number) for number in range(half, self.connections)),
        )
        lines.answer(**self.counts)

    async def _dial(self, ports, number):
        async with self.dials:
            client = await lines.dial(ports[number % len(ports)], number % SOURCES + 1)
        self.open += 1
        self.counts["peak"] = max(self.counts["peak"], self.open)
        return client

    async def _alone(self, number):
        try:
            client = await self._dial(self.steady, number)
        except OSError as error:
            print(f"client {number}: {error}", flush=True)
            self.counts["failed"] += 1
            return
        with client:
            try:
                while time.monotonic() < self.end:
                    await self._exchange(client)
                    await asyncio.sleep(min(random.uniform(0.5, 3), self.end - time.monotonic()))
                self.counts["alone"] += 1
            except OSError as error:
                print(f"client {number}: {error}", flush=True)
                self.counts["lost"] += 1
        self.open -= 1

    async def _churned(self, number):
        while time.monotonic() < self.end:
            try:
                client = await self._dial(self.churned, number)
            except OSError:
                # Its context was killed before it had the connection.
                self.counts["cut"] += 1
                await asyncio.sleep(0.1)
                continue
            with client:
                try:
                    for _ in range(random.randrange(3)):
                        await self._exchange(client)
                    await asyncio.sleep(random.uniform(0, 3))
                    way = random.choice(WAYS)
                    await way(self, client)
                    self.counts[way.__name__.strip("_")] += 1
                except OSError:
                    self.counts["cut"] += 1
            self.open -= 1

    async def _exchange(self, client):
        """Raises ConnectionError if nothing, or not all, comes back."""
        data = b"=" + os.urandom(random.randrange(1, 4096))
        await asyncio.get_running_loop().sock_sendall(client, data)
        async with asyncio.timeout(60):
            back = await lines.receive(client, len(data))
        self.counts["exchanges"] += 1
        if back != data:
            if data.startswith(back):
                raise ConnectionError(f"{len(back)} of {len(data)} bytes came back")
            self.counts["wrong"] += 1

    async def _closed(self, client):
        client.close()

    async def _half_closed(self, client):
        data = b"=" + os.urandom(20_000)
        await asyncio.get_running_loop().sock_sendall(client, data)
        client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(60):
            back = await lines.receive(client, len(data) + 1)
        if not data.startswith(back):
            self.counts["wrong"] += 1
        elif back != data:
            raise ConnectionError("not all came back")

    async def _reset(self, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()

    async def _reset_in_a_write(self, client):
        await asyncio.get_running_loop().sock_sendall(client, b"pour")
        await lines.receive(client, 10_000)
        await self._reset(client)

    async def _exception(self, client):
        await asyncio.get_running_loop().sock_sendall(client, b"raise")
        async with asyncio.timeout(60):
            if await lines.receive(client, 1):
                self.counts["wrong"] += 1


WAYS = (
    Churn._closed,
    Churn._half_closed,
    Churn._reset,
    Churn._reset_in_a_write,
    Churn._exception,
)


async def main():
    middle = sys.argv.index("/")
    connections, *steady = map(int, sys.argv[1:middle])
    churn = Churn(connections, steady, list(map(int, sys.argv[middle + 1 :])))
    lines.answer(ready=1)
    async for _run, seconds in lines.commands():
        await churn.run(float(seconds))


if __name__ == "__main__":
    asyncio.run(main())
