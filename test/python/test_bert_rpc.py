"""A client and a server of BERT-RPC over a pair of sockets. Against Elixir's: test/reactor/bert_rpc/python_test.exs."""

import io
import logging
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import unittest
from pathlib import Path

from erlang import bert, bert_rpc, etf
from erlang.terms import Atom

PYTHON = str(Path(__file__).resolve().parents[2] / "priv" / "python")


def failing(secret):
    raise FileNotFoundError(secret)


def out_of_stock():
    raise bert_rpc.Error("2 are left", code=100, name="OutOfStock")


def cannot_be_told():
    raise bert_rpc.Error("caf\udce9", code=100)


def breaks():
    def chunks():
        yield b"n"
        raise RuntimeError("no")

    return bert_rpc.stream(chunks())


EXPOSE = {
    "calc": {
        "add": lambda a, b: a + b,
        "echo": lambda value: value,
        "failing": failing,
        "out_of_stock": out_of_stock,
        "cannot_be_told": cannot_be_told,
        "no_text_inside": lambda: {"caf\udce9": None},
        "function": lambda: failing,
        "count": lambda chunks: sum(map(len, chunks)),
        "first": lambda name, chunks: (name, len(next(chunks))),
        "download": lambda count, size: bert_rpc.stream(b"x" * size for _ in range(count)),
        "breaks": breaks,
        "minute": lambda: bert_rpc.cached(17, expiration=60),
        "tagged": lambda tag, n: bert_rpc.cached(lambda: 84 // n, "private", validation=tag),
    }
}


class RpcTest(unittest.TestCase):
    def setUp(self):
        logging.getLogger("erlang.bert_rpc.server").disabled = True
        self.addCleanup(setattr, logging.getLogger("erlang.bert_rpc.server"), "disabled", False)
        self.called_back = []
        self.client = self.start()
        self.call = self.client.call

    def start(self, **options):
        """A client of a server in a thread, which ends with the test."""
        ours, theirs = socket.socketpair()
        self.ours = ours
        ours.settimeout(10)
        theirs.settimeout(10)

        def run():
            with theirs, theirs.makefile("rb") as file:
                packets = bert_rpc.Packets(
                    file.read, theirs.sendall, max_packet=100_000, max_stream=1_000_000
                )
                bert_rpc.serve(packets, EXPOSE, call_back=self.call_back)

        thread = threading.Thread(target=run)
        thread.start()
        file = ours.makefile("rb")

        def close():
            file.close()
            ours.close()

        self.addCleanup(thread.join)
        self.addCleanup(close)
        self.packets = bert_rpc.Packets(file.read, ours.sendall, **options)
        return bert_rpc.Client(self.packets, close)

    def call_back(self, *what):
        self.called_back.append(what)

    def assertFails(self, call, *args, type, code, name="BERTError", detail, **options):
        with self.assertRaises(bert_rpc.Error) as caught:
            call(*args, **options)
        error = caught.exception
        self.assertEqual((error.type, error.code, error.name), (type, code, name))
        self.assertRegex(error.detail, detail)
        return error

    def test_calls(self):
        self.assertEqual(self.call("calc", "add", 1, 2), 3)
        value = [{"a": None, 1: [True, ()]}, 1.5, 2**70, "é", Atom("ok")]
        self.assertEqual(self.call("calc", "echo", value), value)
        self.assertIsNone(self.client.cast("calc", "add", 1, 2))
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_what_is_not_exposed(self):
        for module, name, args, code, detail in (
            ("nowhere", "add", (), 1, "^module 'nowhere' not found$"),
            ("calc", "nothing", (), 2, "^function 'nothing/0' not found on module 'calc'$"),
            ("calc", "add", (1,), 2, "^function 'add/1' not found on module 'calc'$"),
            ("calc", "__class__", (), 2, "not found"),
        ):
            for call in (self.call, self.client.cast):
                self.assertFails(call, module, name, *args, type="server", code=code, detail=detail)
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_an_error_that_cannot_be_told(self):
        for name, detail in (("cannot_be_told", "cannot be told"), ("no_text_inside", "Unicode")):
            self.assertFails(self.call, "calc", name, type="server", code=0, detail=detail)
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_the_name_of_a_struct_may_be_any_term(self):
        struct_ = b"t\0\0\0\1w\x0a__struct__k\0\1\1"
        self.packets.send(b"\x83h\4w\4callw\4calcw\4echol\0\0\0\1" + struct_ + b"j")
        self.assertEqual(self.packets.receive_term(), (Atom("reply"), {Atom("__struct__"): [1]}))

    def test_what_is_raised(self):
        error = self.assertFails(
            self.call,
            "calc",
            "failing",
            "hunter2",
            type="user",
            code=0,
            name="FileNotFoundError",
            detail="^the function failed, see the server's log$",
        )
        self.assertRegex(error.backtrace[0], r"test_bert_rpc.py:\d+: failing$")
        self.assertNotIn("hunter2", str(error) + str(error.backtrace))
        self.assertFails(
            self.call,
            "calc",
            "out_of_stock",
            type="user",
            code=100,
            name="OutOfStock",
            detail="^2 are left$",
        )
        self.assertFails(
            self.call, "calc", "function", type="server", code=0, detail="nothing for an instance"
        )
        self.assertFails(
            self.call,
            "calc",
            "tagged",
            "t",
            0,
            type="user",
            code=0,
            name="ZeroDivisionError",
            detail="failed",
        )
        self.client.cast("calc", "failing", "x")
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_caches(self):
        reply = self.client.request("calc", "minute")
        self.assertEqual((reply.value, reply.cache), (17, {"access": "public", "expiration": 60}))
        reply = self.client.request("calc", "tagged", "t1", 2)
        self.assertEqual((reply.value, reply.valid), (42, False))
        self.assertEqual(reply.cache, {"access": "private", "validation": "t1"})
        # It is not called, so it does not divide.
        reply = self.client.request("calc", "tagged", "t1", 0, validation="t1")
        self.assertEqual((reply.value, reply.valid), (None, True))
        self.assertEqual(self.call("calc", "tagged", "t1", 2, validation="t0"), 42)
        for wrong in ({"access": "all"}, {}, {"expiration": 1, "validation": "a"}):
            with self.assertRaises(ValueError):
                bert_rpc.cached(1, **wrong)

    def test_streams(self):
        chunks = [b"x" * (n * 100) for n in range(1, 51)]
        self.assertEqual(self.call("calc", "count", stream=chunks), 127_500)
        self.assertEqual(self.call("calc", "count", stream=[]), 0)
        self.assertEqual(self.call("calc", "first", 1, stream=[b"abc", b"", b"d"]), (1, 3))
        self.assertFails(
            self.call, "calc", "add", 1, 2, stream=chunks, type="server", code=2, detail="add/3"
        )
        self.client.cast("calc", "count", stream=chunks)
        self.assertEqual(self.call("calc", "download", 25, 100_000), b"x" * 2_500_000)
        self.assertEqual(self.call("calc", "download", 0, 0), b"")
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_streams_that_are_too_long(self):
        chunks = [b"x" * 60_000] * 40
        with self.assertRaises((bert_rpc.Error, OSError, EOFError)):
            self.call("calc", "count", stream=chunks)
        client = self.start(max_stream=1_000)
        with self.assertRaisesRegex(bert_rpc.PacketError, "more than 1000 bytes"):
            client.call("calc", "download", 2, 1_000)
        with self.assertRaises((OSError, ValueError)):
            client.call("calc", "add", 1, 2)

    def test_streams_that_break_off(self):
        with self.assertRaises(EOFError):
            self.call("calc", "breaks")
        client = self.start()

        def chunks():
            yield b"n"
            raise RuntimeError("no")

        with self.assertRaisesRegex(RuntimeError, "no"):
            client.call("calc", "count", stream=chunks())
        with self.assertRaises((OSError, ValueError)):
            client.call("calc", "add", 1, 2)

    def test_callbacks(self):
        self.client.cast("calc", "add", 40, 2, callback=("cron:1", "cron", "done", ["t"]))
        self.assertEqual(self.call("calc", "add", 1, 2), 3)
        self.assertEqual(self.called_back, [("cron:1", "cron", "done", ["t", 42])])

    def say(self, *term):
        self.packets.send(etf.encode(term))

    def hear(self):
        return self.packets.receive_term()

    def test_what_is_no_request(self):
        for packet, kind, code, detail in (
            (b"nonsense", "protocol", 2, "version 131"),
            (etf.encode((Atom("call"), Atom("calc"))), "protocol", 0, "a request is"),
            (etf.encode((Atom("call"), "calc", Atom("add"), [])), "protocol", 0, "a request is"),
            (etf.encode((Atom("call"), Atom("calc"), Atom("add"), 3)), "protocol", 0, "a request"),
            (etf.encode([Atom("bert"), (Atom("bert"),)]), "protocol", 2, "none of BERT's types"),
            (b"x" * 200_000, "protocol", 1, "the packet has 200000 bytes, 100000 are allowed"),
        ):
            self.packets.send(packet)
            answer = self.hear()
            self.assertEqual((answer[0], answer[1][:3]), ("error", (kind, code, "BERTError")))
            self.assertIn(detail, answer[1][3])
        self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_infos_that_make_no_sense(self):
        for command, options in (
            ("stream", [1]),
            ("cache", [1]),
            ("callback", []),
            ("callback", [(Atom("service"), "a:1"), (Atom("mfa"), 1)]),
            ("something", []),
        ):
            self.say(Atom("info"), Atom(command), options)
            self.assertFails(
                self.call, "calc", "add", 1, 2, type="server", code=0, detail="is not understood"
            )
            self.assertEqual(self.call("calc", "add", 1, 2), 3)

    def test_a_server_that_answers_nonsense(self):
        ours, theirs = socket.socketpair()
        with theirs, ours.makefile("rb") as file:
            client = bert_rpc.Client(bert_rpc.Packets(file.read, ours.sendall), ours.close)
            for packet in (
                etf.encode((Atom("answer"), 1)),
                etf.encode((Atom("error"), (Atom("who"), 1, "", "", []))),
                etf.encode(7),
                b"nonsense",
            ):
                theirs.sendall(struct.pack(">I", len(packet)) + packet)
                with self.assertRaises((bert_rpc.PacketError, etf.DecodeError)):
                    client.call("a", "b")
            answer = bert.encode((Atom("reply"), 1))
            theirs.sendall(struct.pack(">I", len(answer)) + answer)
            self.assertEqual(client.call("a", "b"), 1)
            with self.assertRaises(etf.EncodeError):
                client.call("a", "b", object())


class PacketsTest(unittest.TestCase):
    def test_what_is_no_packet_is_named(self):
        packets = bert_rpc.Packets(None, None)
        for wrong, name in ((None, "NoneType"), ("text", "str"), (("call",), "tuple")):
            with self.assertRaisesRegex(
                TypeError, f"^a packet is bytes, not an instance of {name}$"
            ):
                packets.send(wrong)


class PipesTest(unittest.TestCase):
    def test_the_example_serves_by_standard_input_and_output(self):
        example = textwrap.dedent(bert_rpc.__doc__.split("to standard error:")[1])
        for options in ([], ["-u"]):
            with subprocess.Popen(
                [sys.executable, *options, "-c", example],
                bufsize=0,
                env={"PYTHONPATH": PYTHON},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as server:
                self.addCleanup(server.kill)
                packets = bert_rpc.Packets(
                    io.BufferedReader(server.stdout).read, server.stdin.write
                )
                client = bert_rpc.Client(packets)
                self.assertIsNone(client.call("calc", "print", "printed"))
                self.assertEqual(client.call("calc", "add", 1, 2), 3)
                server.stdin.close()
                self.assertEqual(server.stderr.read(), b"printed\n")
                self.assertEqual(server.wait(10), 0)


if __name__ == "__main__":
    unittest.main()
