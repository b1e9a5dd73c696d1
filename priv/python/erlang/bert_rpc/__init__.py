"""BERT-RPC: calls between programs in several languages, over anything that carries bytes.

A client of a server, as of ``Reactor.BertRpc``:

    from erlang import bert_rpc

    with bert_rpc.connect("localhost", 9999) as client:
        client.call("calc", "add", 1, 2)

A server, here for whoever has started this program with its standard input and output as pipes. What it prints goes
to standard error:

    from erlang import bert_rpc
    from erlang.port import streams

    reading, writing = streams.take()
    packets = bert_rpc.Packets(open(reading, "rb").read, open(writing, "wb", 0).write)
    bert_rpc.serve(packets, {"calc": {"add": lambda a, b: a + b, "print": print}})
"""

from .client import Client, connect
from .packets import Error, PacketError, Packets
from .reply import Reply, cached, stream
from .server import serve

__all__ = [
    "Client",
    "Error",
    "PacketError",
    "Packets",
    "Reply",
    "cached",
    "connect",
    "serve",
    "stream",
]
