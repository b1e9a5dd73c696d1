"""Clients in request/response loops, over one connection after another.

    loops.py PORT CLIENTS NEVER

A request is 16 bytes: which client's it is, its number, and a letter; the answer is 64 times as long.
The letter is f for one that is answered at once. Every second client sends every tenth as s, which
takes the server a while, in turn; the first NEVER clients send n only, which is never answered. A
client makes a few requests on a connection, then takes another; where it is refused it tries again.
Before it sends, it looks whether the server has ended the connection.

Commands: `answered N` waits until so many were answered; `refused` until each client has been refused
at least once since the command before; `again` until each has had an answer since then; `end` ends
them all.
"""

import asyncio
import random
import select
import sys

import lines

ANSWER = 64
RETRY_S = 0.02


class Loops:
    def __init__(self, port, clients, never):
        self.port, self.never = port, never
        # Of each client: whole answers. Of all: requests that had none, and those that had a part.
        self.answered, self.unanswered, self.partial = [0] * clients, 0, 0
        self.refused, self.served = set(), set()
        self.changes, self.ending = lines.Changes(), False
        self.tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def run(self):
        everybody = set(range(len(self.tasks)))
        async for name, *arguments in lines.commands():
            count = int(arguments[0]) if arguments else 0
            waits = {
                "answered": lambda n=count: sum(self.answered) >= n,
                "refused": lambda: self.refused == everybody,
                "again": lambda: self.served | set(range(self.never)) == everybody,
                "end": lambda: all(task.done() for task in self.tasks),
            }
            self.ending = name == "end"
            await self.changes.until(waits[name])
            self.refused.clear()
            self.served.clear()
            lines.answer(
                answered=self.answered,
                total=sum(self.answered),
                unanswered=self.unanswered,
                partial=self.partial,
            )

    async def _client(self, number):
        sent = 0
        while not self.ending:
            try:
                client = await lines.dial(self.port)
            except ConnectionError:
                self.refused.add(number)
                self.changes.tell()
                await asyncio.sleep(RETRY_S)
                continue
            with client:
                for _ in range(random.randint(1, 30)):
                    sent += 1
                    if not await self._ask(client, number, sent) or self.ending:
                        break
        asyncio.get_running_loop().call_soon(self.changes.tell)

    async def _ask(self, client, number, sent):
        if _ended(client):
            return False
        slow = number % 2 and (number // 2 + sent) % 10 == 0
        letter = "n" if number < self.never else "s" if slow else "f"
        request = b"%03d%012d%s" % (number, sent, letter.encode())
        data = await _exchange(client, request)
        if data == request * ANSWER:
            self.answered[number] += 1
            self.served.add(number)
        elif data == b"":
            self.unanswered += 1
        else:
            print(f"client {number}, request {sent}: {len(data)} bytes", flush=True)
            self.partial += 1
        self.changes.tell()
        return data == request * ANSWER


def _ended(client):
    """Nothing can be there to be read but the end of the stream."""
    return bool(select.select([client], [], [], 0)[0])


async def _exchange(client, request):
    """The answer, or what there was of it."""
    loop, data = asyncio.get_running_loop(), b""
    try:
        await loop.sock_sendall(client, request)
        while len(data) < len(request) * ANSWER:
            more = await loop.sock_recv(client, 4096)
            if not more:
                break
            data += more
    except ConnectionError:
        pass
    return data


async def main():
    port, clients, never = map(int, sys.argv[1:])
    await Loops(port, clients, never).run()


if __name__ == "__main__":
    asyncio.run(main())
