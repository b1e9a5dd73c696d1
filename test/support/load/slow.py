"""Slow clients beside honest ones.

    slow.py HONEST PORT PORT PORT

Honest clients exchange 64 bytes twenty times a second, spread over the servers, from the start to
the end. Slow ones send one byte in every period: those at the first server after the first period,
the others at once too. A slow one that the server ends was cut.

Commands: `alone S` answers what honest clients see in so many seconds, `slow COUNT PERIOD` connects
the slow ones, `beside` answers what honest clients saw until all of those were cut, and `end` ends
the honest ones, each after one more exchange.
"""

import asyncio
import sys
import time

import lines

PAUSE_S = 0.05

# In which all slow ones come: at once they would mostly disturb this program.
ARRIVAL_S = 1


class Clients:
    def __init__(self, honest, ports):
        self.ports = ports
        self.latencies, self.failed, self.ended, self.ending = [], 0, 0, False
        self.slow_ones, self.dialed, self.cut = 0, 0, [0] * len(ports)
        self.first_cut = self.last_cut = None
        self.changes = lines.Changes()
        self.tasks = [asyncio.create_task(self._honest(number)) for number in range(honest)]

    async def run(self):
        async for name, *arguments in lines.commands():
            await getattr(self, name)(*arguments)
        for task in self.tasks:
            task.cancel()

    async def alone(self, seconds):
        self.latencies = []
        await asyncio.sleep(float(seconds))
        self._answer()

    async def slow(self, count, period):
        self.slow_ones = int(count)
        self.begun = time.monotonic()
        for number in range(self.slow_ones):
            self.tasks.append(asyncio.create_task(self._slow(number, float(period))))
        await self.changes.until(lambda: self.dialed == self.slow_ones)
        self.latencies = []
        lines.answer(dialed=self.dialed)

    async def beside(self):
        await self.changes.until(lambda: sum(self.cut) == self.slow_ones)
        self._answer()

    async def end(self):
        self.ending = True
        honest = len(self.tasks) - self.slow_ones
        await self.changes.until(lambda: self.ended + self.failed == honest)
        self._answer()

    def _answer(self):
        taken = sorted(self.latencies) or [0.0]
        lines.answer(
            exchanges=len(self.latencies),
            p50_ms=taken[len(taken) // 2] * 1e3,
            p99_ms=taken[len(taken) * 99 // 100] * 1e3,
            failed=self.failed,
            cut=self.cut,
            first_cut_s=(self.first_cut or self.begun) - self.begun if self.slow_ones else 0.0,
            last_cut_s=(self.last_cut or self.begun) - self.begun if self.slow_ones else 0.0,
        )

    async def _honest(self, number):
        loop, sent = asyncio.get_running_loop(), 0
        try:
            with await lines.dial(self.ports[number % len(self.ports)]) as client:
                ending = False
                while not ending:
                    ending = self.ending
                    data, begun = b"%031d %031d\n" % (number, sent), time.monotonic()
                    await loop.sock_sendall(client, data)
                    back = await lines.receive(client, len(data))
                    if back != data:
                        raise ConnectionError(f"{len(back)} of {len(data)} bytes came back")
                    self.latencies.append(time.monotonic() - begun)
                    sent += 1
                    if not ending:
                        await asyncio.sleep(PAUSE_S)
            self.ended += 1
        except OSError as error:
            print(f"honest client {number}: {error}", flush=True)
            self.failed += 1
        self.changes.tell()

    async def _slow(self, number, period):
        loop, server = asyncio.get_running_loop(), number % len(self.ports)
        await asyncio.sleep(number / self.slow_ones * ARRIVAL_S)
        with await lines.dial(self.ports[server]) as client:
            self.dialed += 1
            self.changes.tell()
            due = time.monotonic() + (period if server == 0 else 0)
            try:
                while True:
                    left = due - time.monotonic()
                    if left <= 0:
                        await loop.sock_sendall(client, b".")
                        due += period
                        continue
                    # The echo of a byte is nothing new; the end of the stream is.
                    try:
                        if not await asyncio.wait_for(loop.sock_recv(client, 64), left):
                            break
                    except asyncio.TimeoutError:
                        pass
            except ConnectionError:
                pass
        self.cut[server] += 1
        self.last_cut = time.monotonic()
        self.first_cut = self.first_cut or self.last_cut
        self.changes.tell()


async def main():
    honest, *ports = map(int, sys.argv[1:])
    await Clients(honest, ports).run()


if __name__ == "__main__":
    asyncio.run(main())
