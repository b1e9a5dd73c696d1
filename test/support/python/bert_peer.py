"""The other side of BERT-RPC, for test/reactor/bert_rpc/python_test.exs.

``client PORT`` calls what that test's server exposes, and prints what came of it, a line each. ``server`` prints its port, and
answers one client after the other until its standard input ends.
"""

import datetime
import logging
import re
import socket
import sys
import threading

from erlang import bert_rpc
from erlang.terms import Atom

VALUE = [
    {"a": None, 1: [True, ()]},
    1.5,
    -(2**70),
    "é",
    b"\xff",
    Atom("ok"),
    datetime.datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=datetime.timezone.utc),
    re.compile("a+", re.IGNORECASE),
]


def client(port):
    with bert_rpc.connect("127.0.0.1", port) as client:
        print("echo", client.call("calc", "echo", VALUE) == VALUE)
        print("cast", client.cast("calc", "add", 1, 2))
        print("sums", [client.call("calc", "add", n, n) for n in range(200)][-1])
        for module, function, args in (
            ("nowhere", "add", (1,)),
            ("calc", "nothing", ()),
            ("calc", "divide", (1, 0)),
        ):
            try:
                client.call(module, function, *args)
            except bert_rpc.Error as error:
                print("error", error.type, error.code, error.name)
        print("sent", client.call("calc", "count", stream=[b"x" * 70_000] * 3))
        print("received", len(client.call("calc", "download", 3, 70_000)))
        reply = client.request("calc", "tagged", "t")
        print("kept", reply.value, reply.cache)
        print("valid", client.request("calc", "tagged", "t", validation="t").valid)
        print("add", client.call("calc", "add", 1, 2))


def server():
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


def accept(listener):
    while True:
        connection, _address = listener.accept()
        with connection, connection.makefile("rb") as file:
            bert_rpc.serve(bert_rpc.Packets(file.read, connection.sendall), EXPOSE)


EXPOSE = {
    "calc": {
        "add": lambda a, b: a + b,
        "echo": lambda value: value,
        "divide": lambda a, b: a // b,
        "count": lambda chunks: sum(map(len, chunks)),
        "download": lambda count, size: bert_rpc.stream(b"x" * size for _ in range(count)),
        "tagged": lambda tag: bert_rpc.cached(42, validation=tag),
    }
}

# What fails here is meant to, and is not for the report of the tests.
logging.disable()
if sys.argv[1] == "client":
    client(int(sys.argv[2]))
else:
    server()
