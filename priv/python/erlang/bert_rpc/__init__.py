"""BERT-RPC: calls between programs in several languages, over anything that carries bytes.

A client of a server, as of ``Reactor.BertRpc``:

    from erlang import bert_rpc

    with bert_rpc.connect("localhost", 9999) as client:
        client.call("calc", "add", 1, 2)

A server, here for whoever has started this program with its standard input and output as pipes:

    packets = bert_rpc.Packets(sys.stdin.buffer.read, sys.stdout.buffer.raw.write)
    bert_rpc.serve(packets, {"calc": {"add": lambda a, b: a + b}})
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
