"""What test/reactor/port/bert_calls_test.exs calls, and what calls it back. With the argument ``async`` it has an event loop."""

import asyncio
import sys

from erlang import bert_rpc
from erlang.port import Protocol


class Script(Protocol):
    def handler_call(self, name, *args):
        return self.call(name, *args)

    def handler_call_briefly(self, name):
        try:
            self.call(name, timeout=0.05)
        except TimeoutError:
            return "timeout"

    def handler_request(self, name, args, validation):
        reply = self.request(name, *args, validation=validation)
        return reply.value, sorted(reply.cache.items()), reply.valid

    def handler_upload(self, name, count, size):
        return self.call(name, stream=(b"x" * size for _ in range(count)))

    def handler_cast(self, name, *args):
        self.cast(name, *args)

    def handler_cast_back(self, name, args, service, tag):
        self.cast(name, *args, callback=(service, "told", "tell", [tag]))

    def handler_error(self, name, *args):
        try:
            self.call(name, *args)
        except bert_rpc.Error as error:
            return error.type, error.code, error.name, error.detail

    def handler_count(self, *args):
        *_, chunks = args
        return sum(map(len, chunks))

    def handler_download(self, count, size):
        return bert_rpc.stream(b"x" * size for _ in range(count))

    def handler_broken_stream(self):
        def chunks():
            yield b"x"
            raise KeyError("in the middle")

        return bert_rpc.stream(chunks())

    def handler_tagged(self, tag):
        return bert_rpc.cached(lambda: 42, validation=tag)

    def handler_sold_out(self):
        raise bert_rpc.Error("2 are left", code=100, name="OutOfStock")

    def handler_twice(self, x):
        return 2 * x


class Asynchronous(Script):
    async def handler_call_many(self, name, count):
        """From the loop and from threads: each has its own answer."""
        loop = asyncio.get_running_loop()
        threads = [
            loop.run_in_executor(None, lambda n=n: self.call(name, n, n)) for n in range(count)
        ]
        tasks = [self.call_async(name, n, n) for n in range(count)]
        return await asyncio.gather(asyncio.gather(*threads), asyncio.gather(*tasks))

    async def handler_backlog(self, name, count):
        """How much waits for this handler when it has made so many calls."""
        for n in range(count):
            await self.call_async(name, n, n)
        return self._calls.runner._queue.qsize()


def call_back(service, module, function, args):
    host, port = service.split(":")
    with bert_rpc.connect(host, int(port)) as client:
        client.cast(module, function, *args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["envelope"]:
        Script().run()
    elif sys.argv[1:2] == ["async"]:
        Asynchronous(call_back=call_back).run()
    elif sys.argv[1:2] == ["no callbacks"]:
        Script().run()
    else:
        Script(call_back=call_back).run()
