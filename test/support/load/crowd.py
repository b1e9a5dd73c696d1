"""Clients that all come at once to a server that has not room for all of them.

    crowd.py PORT CLIENTS SOURCES

Each connects (from SOURCES addresses in turn), sends 64 bytes that are its own, and expects them
back: then it is held. When it is let go it sends 64 more, expects them and the end of the stream:
then it was served. One that is closed before its first answer was refused. Anything else is wrong.

Commands: `dialed` waits until all are connected, if only with the kernel; `held N` until so many are
held; `settled` until every client is held or has ended; `done` until all have ended. `go` lets them
go, those that come later too. `times` answers when each was held, in seconds since the start. All
others answer the counts.
"""

import asyncio
import sys
import time

import lines


class Crowd:
    def __init__(self, port, clients, sources):
        self.port, self.clients, self.sources = port, clients, sources
        self.counts = dict.fromkeys(("held", "served", "refused", "wrong", "failed"), 0)
        self.dialed = 0
        self.times, self.refusals = [], []
        self.let_go, self.went, self.resumed = asyncio.Event(), None, None
        self.changes = lines.Changes()
        self.start = time.monotonic()

    async def run(self):
        clients = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        async for name, *arguments in lines.commands():
            count = int(arguments[0]) if arguments else 0
            waits = {
                "dialed": lambda: self.dialed + self.counts["failed"] == self.clients,
                "held": lambda n=count: self.counts["held"] >= n,
                "settled": lambda: self._ended() + self.counts["held"] == self.clients,
                "done": lambda: self._ended() == self.clients,
            }
            if name == "go":
                self.went = time.monotonic()
                self.let_go.set()
            elif name in waits:
                await self.changes.until(waits[name])
            if name == "times":
                lines.answer(times=self.times)
            else:
                self._answer()
        for client in clients:
            client.cancel()

    def _ended(self):
        return sum(self.counts.values()) - self.counts["held"]

    def _answer(self):
        refusals = sorted(self.refusals) or [0.0]
        lines.answer(
            **self.counts,
            dialed=self.dialed,
            refused_p50_ms=refusals[len(refusals) // 2] * 1e3,
            refused_max_ms=refusals[-1] * 1e3,
            resumed_ms=(self.resumed - self.went) * 1e3 if self.resumed else -1.0,
            seconds=time.monotonic() - self.start,
        )

    async def _client(self, number):
        source = number % self.sources + 1 if self.sources > 1 else None
        begun = time.monotonic()
        try:
            client = await lines.dial(self.port, source)
        except OSError as error:
            print(f"client {number}: {error}", flush=True)
            return self._count("failed")
        self.dialed += 1
        self.changes.tell()
        with client:
            outcome = await self._first(client, number, begun)
            if outcome == "held":
                self._count("held")
                await self.let_go.wait()
                outcome = await self._second(client, number)
                self.counts["held"] -= 1
        return self._count(outcome)

    async def _first(self, client, number, begun):
        data = await _exchange(client, b"%063d\n" % number, 64)
        now = time.monotonic()
        if data == b"":
            self.refusals.append(now - begun)
            return "refused"
        if data != b"%063d\n" % number:
            return "wrong"
        self.times.append(now - self.start)
        if self.went and not self.resumed:
            self.resumed = now
        return "held"

    async def _second(self, client, number):
        data = await _exchange(client, b"%063d!" % number, 65)
        return "served" if data == b"%063d!" % number else "wrong"

    def _count(self, outcome):
        self.counts[outcome] += 1
        self.changes.tell()


async def _exchange(client, data, count):
    """What comes back, up to `count` bytes; nothing if the connection ended before."""
    try:
        await asyncio.get_running_loop().sock_sendall(client, data)
        return await lines.receive(client, count)
    except (ConnectionResetError, BrokenPipeError):
        return b""


async def main():
    port, clients, sources = map(int, sys.argv[1:])
    await Crowd(port, clients, sources).run()


if __name__ == "__main__":
    asyncio.run(main())
