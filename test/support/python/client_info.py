"""Answers with what is known of the connection."""

import json

import erlang.reactor as reactor


class Who(reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(json.dumps(self.client_info).encode() + b"\n")
        return "write_pending"


class Tells(reactor.Protocol):
    """Answers anything with what it knows, as JSON; reads and writes by itself on request."""

    def data_received(self, data):
        if data == b"by hand":
            self.write(b"one ")
            self.write_buffer.extend(b"two")
            return "write_pending"
        tls = self.client_info["tls"]
        if tls is not None:
            certificate = tls["peer_certificate"]
            tls = {**tls, "peer_certificate": certificate and len(certificate)}
        self.write_buffer.extend(json.dumps(tls).encode())
        return "write_pending"
