"""An HTTP/1.1 server on asyncio, with the parser that Reactor's has."""

import asyncio
import sys
from pathlib import Path

from asyncio_echo import serve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "subjects"))

from http_parser import Parser


class HttpProtocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.parser = Parser()

    def data_received(self, data):
        reply, stays = self.parser.feed(data)
        if reply:
            self.transport.write(reply)
        if not stays:
            self.transport.close()


if __name__ == "__main__":
    asyncio.run(serve(protocol=HttpProtocol))
