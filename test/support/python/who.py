"""Answers with what is known of the connection."""

import json

import erlang.reactor as reactor


class Who(reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(json.dumps(self.client_info).encode() + b"\n")
        return "write_pending"
