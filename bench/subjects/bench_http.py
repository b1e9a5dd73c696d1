"""The HTTP/1.1 server of Reactor, with the parser that the peers have."""

from http_parser import Parser

import erlang.reactor as reactor


class HttpProtocol(reactor.Protocol):
    def connection_made(self, fd, client_info):
        self.parser = Parser()

    def data_received(self, data):
        reply, stays = self.parser.feed(data)
        self.write_buffer += reply
        return "write_pending" if stays else "close"
