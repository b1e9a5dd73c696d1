"""BERT-RPC as the script behind a port reads and writes it."""

import os
import threading
import unittest

from erlang import bert
from erlang.bert_rpc import Error, cached, stream
from erlang.port import Port, Protocol
from erlang.port.bert import Bert
from erlang.port.errors import Refused, Undecodable
from erlang.port.requests import ANSWER, CALL, CAST, ERROR, NOTHING, Failure
from erlang.port.terms import Terms
from erlang.terms import Atom


def packet(name, *rest):
    return bert.encode((Atom(name), *rest))


STREAM = packet("info", Atom("stream"), [])
ADD = packet("call", Atom("calc"), Atom("add"), [1, 2])
# An answer with a map that no dict can be, which is an error to who waits for it.
UNREADABLE = b"\x83h\x02w\x05replyt\x00\x00\x00\x01jj"


class BertTest(unittest.TestCase):
    def setUp(self):
        self.wire = Bert(Terms(10_000, 10))

    def read(self, *frames):
        *before, last = frames
        for frame in before:
            self.assertEqual(self.wire.read(frame)[0], NOTHING)
        return self.wire.read(last)

    def decoded(self, packets):
        return [bert.decode(packet) for packet in packets]

    def test_requests_and_answers(self):
        kind, _asked, name, args = self.read(ADD)
        self.assertEqual((kind, name, args), (CALL, "add", [1, 2]))
        kind, asked, _name, _args = self.read(packet("cast", Atom("a"), Atom("b"), []))
        self.assertEqual((kind, asked.kind), (CAST, CAST))
        kind, _id, reply, _ = self.read(packet("reply", 3))
        self.assertEqual((kind, reply.value), (ANSWER, 3))
        self.assertEqual(self.read(packet("noreply"))[0], ANSWER)
        kind, _id, error, _ = self.read(packet("error", (Atom("user"), 7, "Class", "text", [])))
        self.assertEqual((kind, error.code, error.name), (ERROR, 7, "Class"))

    def test_infos_are_of_what_comes_next(self):
        token = packet("info", Atom("cache"), [(Atom("validation"), "t")])
        self.assertEqual(self.read(token, ADD)[1].validation, "t")
        self.assertIsNone(self.read(ADD)[1].validation)
        hints = packet("info", Atom("cache"), [(Atom("access"), Atom("public"))])
        self.assertEqual(self.read(hints, packet("reply", 1))[2].cache, {"access": "public"})

    def test_streams(self):
        kind, _asked, _name, args = self.read(STREAM, ADD, b"ab", b"c", b"")
        self.assertEqual((kind, args[:2], list(args[2])), (CALL, [1, 2], [b"ab", b"c"]))
        reply = self.read(STREAM, packet("reply", []), b"ab", b"c", b"")[2]
        self.assertEqual(reply.value, b"abc")
        # No stream follows these.
        self.assertEqual(self.read(STREAM, packet("noreply"))[0], ANSWER)

    def test_a_stream_that_is_too_long_is_skipped(self):
        with self.assertRaisesRegex(Refused, "more than 10 bytes"):
            self.read(STREAM, ADD, b"0123456", b"0123456", b"0", b"")
        kind, _id, error, _ = self.read(STREAM, packet("reply", []), b"0" * 11, b"")
        self.assertEqual((kind, error.type), (ERROR, "server"))
        self.assertEqual(self.read(ADD)[0], CALL)

    def test_what_cannot_be_decoded_is_of_who_asked(self):
        with self.assertRaises(Undecodable) as caught:
            self.read(UNREADABLE)
        self.assertEqual(caught.exception.kind, ANSWER)
        with self.assertRaises(Undecodable) as caught:
            self.read(UNREADABLE.replace(b"\x05reply", b"\x04call"))
        self.assertEqual(caught.exception.kind, CALL)
        # Its stream is not taken for requests.
        with self.assertRaises(Undecodable):
            self.read(STREAM, UNREADABLE, b"chunk", b"")
        for rubbish in (b"", b"\x83", b"\x83h\x02w", packet("rubbish"), packet("call", 1, 2)):
            with self.assertRaises(Undecodable):
                self.read(rubbish)
        self.assertEqual(self.read(ADD)[0], CALL)

    def test_infos_that_make_no_sense_are_refused(self):
        callback = packet(
            "info",
            Atom("callback"),
            [(Atom("service"), "a:1"), (Atom("mfa"), Atom("m"), Atom("f"), [])],
        )
        for info in (
            callback,
            packet("info", Atom("valid"), []),
            packet("info", Atom("nonsense"), []),
            packet("info", Atom("stream"), 1),
            UNREADABLE.replace(b"\x05reply", b"\x04info"),
        ):
            frames = [info, ADD, b""] if b"stream" in info else [info, ADD]
            with self.assertRaises(Refused):
                self.read(*frames)

    def test_more_infos_than_there_may_be_are_answered_once(self):
        token = packet("info", Atom("cache"), [(Atom("validation"), "t")])
        self.assertEqual(self.read(*[token] * 16, ADD)[0], CALL)
        for infos in ([token] * 17, [token] * 40):
            with self.assertRaisesRegex(Refused, "more than 16") as caught:
                self.read(*infos, ADD)
            self.assertEqual(caught.exception.kind, CALL)
            self.assertEqual(self.read(ADD)[0], CALL)
        # The stream behind them is not taken for requests.
        for infos in ([STREAM] + [token] * 20, [token] * 20 + [STREAM] + [token]):
            with self.assertRaisesRegex(Refused, "more than 16"):
                self.read(*infos, ADD, b"ab", b"")
        with self.assertRaisesRegex(Undecodable, "more than 16") as caught:
            self.read(*[token] * 17, packet("reply", 1))
        self.assertEqual(caught.exception.kind, ANSWER)
        self.assertEqual(self.read(ADD)[0], CALL)

    def test_results(self):
        asked = self.read(ADD)[1]
        self.assertEqual(self.decoded(self.wire.answer(asked, 3)), [("reply", 3)])
        result = self.wire.answer(asked, stream([b"ab", b"c"]))
        self.assertEqual(self.decoded(result[:2]), [("info", "stream", []), ("reply", [])])
        self.assertEqual(result[2:], [b"ab", b"c", b""])
        with self.assertRaisesRegex(Error, "more than 10 bytes"):
            self.wire.answer(asked, stream([b"0123456", b"0123456"]))
        self.assertEqual(
            self.decoded(self.wire.answer(asked, cached(lambda: 42, validation="t")))[1],
            ("reply", 42),
        )

    def test_an_error_that_cannot_be_told(self):
        asked = self.read(ADD)[1]
        for error in (Error(object()), Error("x" * 20_000), Error("\ud800")):
            kind, (type, _code, _name, text, _trace) = bert.decode(
                self.wire.failure(asked, Failure("said", error))
            )
            self.assertEqual((kind, type), ("error", "server"))
            self.assertIn("cannot be told", text)


class Calling(Protocol):
    def handler_cast(self):
        self.cast("note")

    def handler_call(self):
        return self.call(("calc", "add"), 1, 2)

    def handler_give_up(self):
        try:
            self.call("slow", timeout=0)
        except TimeoutError:
            return "timeout"


class CallsTest(unittest.TestCase):
    """Both directions over one pipe, of which this is the other end."""

    def setUp(self):
        reading, self.output = os.pipe()
        self.input, writing = os.pipe()
        script = Calling(protocol="bert", packet=4, descriptors=(reading, writing))
        self.port = Port(4, descriptors=(self.input, self.output))
        thread = threading.Thread(target=script.run)
        thread.start()
        self.addCleanup(script.port.close)
        self.addCleanup(os.close, self.input)
        self.addCleanup(thread.join)
        self.addCleanup(os.close, self.output)

    def tell(self, *packets):
        self.port.write_some(packets)

    def hear(self):
        return bert.decode(self.port.read())

    def handler(self, name):
        return packet("call", Atom("port"), Atom(name), [])

    def test_answers_that_come_behind_a_request_are_older_than_its_own(self):
        self.tell(self.handler("cast"))
        self.assertEqual(self.hear(), ("cast", "port", "note", []))
        self.assertEqual(self.hear(), ("reply", None))
        # At once, so that the handler begins before the answer to the cast has been looked at.
        self.tell(self.handler("call"), packet("noreply"))
        self.assertEqual(self.hear(), ("call", "calc", "add", [1, 2]))
        self.tell(packet("reply", 3))
        self.assertEqual(self.hear(), ("reply", 3))

    def test_one_that_was_given_up_keeps_its_place(self):
        self.tell(self.handler("give_up"))
        self.assertEqual(self.hear(), ("call", "port", "slow", []))
        self.assertEqual(self.hear(), ("reply", "timeout"))
        self.tell(self.handler("call"))
        self.assertEqual(self.hear()[2], "add")
        self.tell(packet("reply", "late"), packet("reply", 3))
        self.assertEqual(self.hear(), ("reply", 3))

    def test_what_comes_while_a_handler_waits_is_answered_behind_it_in_order(self):
        self.tell(self.handler("call"))
        self.assertEqual(self.hear()[2], "add")
        self.tell(self.handler("missing"), self.handler("call"), self.handler("missing"))
        self.tell(packet("reply", 3))
        self.assertEqual(self.hear(), ("reply", 3))
        self.assertEqual(self.hear()[0], "error")
        self.assertEqual(self.hear()[2], "add")
        self.tell(packet("reply", 4))
        self.assertEqual(self.hear(), ("reply", 4))
        self.assertEqual(self.hear()[0], "error")


if __name__ == "__main__":
    unittest.main()
