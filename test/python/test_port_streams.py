"""Frames over descriptors, and how messages of each protocol look in them."""

import asyncio
import contextlib
import io
import os
import select
import struct
import subprocess
import sys
import threading
import unittest
from concurrent.futures import Future

from erlang import etf
from erlang.port import FrameError, Port, Protocol, RemoteError
from erlang.terms import Atom

PYTHON = os.path.join(os.path.dirname(__file__), "../../priv/python")


class Pipes(unittest.TestCase):
    def pipe(self):
        reading, writing = os.pipe()
        for descriptor in (reading, writing):
            self.addCleanup(self.close, descriptor)
        return reading, writing

    def close(self, descriptor):
        try:
            os.close(descriptor)
        except OSError:
            pass


class PortTest(Pipes):
    def port(self, packet=4, max_frame=1000):
        reading, self.theirs = self.pipe()
        self.read, writing = self.pipe()
        return Port(packet, max_frame, (reading, writing))

    def test_frames_come_in_any_pieces(self):
        for packet, form in ((2, ">H"), (4, ">I")):
            port = self.port(packet)
            frames = [b"", b"a", b"bc" * 200, b"", b"d" * 1000]
            data = b"".join(struct.pack(form, len(frame)) + frame for frame in frames)
            for size in (1, 3, 700, len(data)):

                def feed(size=size, data=data):
                    for at in range(0, len(data), size):
                        os.write(self.theirs, data[at : at + size])

                thread = threading.Thread(target=feed)
                thread.start()
                self.assertEqual([port.read() for _ in frames], frames)
                thread.join()

    def test_all_that_is_there_is_read_at_once(self):
        port = self.port()
        os.write(self.theirs, b"\0\0\0\1a\0\0\0\1b\0\0\0\2c")
        self.assertEqual(port.read_some(), [b"a", b"b"])
        os.write(self.theirs, b"d")
        self.assertEqual(port.read_some(), [b"cd"])

    def test_more_than_a_pipe_takes_is_written(self):
        port = self.port(max_frame=10_000_000)
        frame = os.urandom(3_000_000)
        thread = threading.Thread(target=port.write_some, args=((frame, b"x"),))
        thread.start()
        expected = struct.pack(">I", len(frame)) + frame + b"\0\0\0\1x"
        data = b""
        while len(data) < len(expected):
            data += os.read(self.read, 65_536)
        thread.join()
        self.assertEqual(data, expected)

    def test_descriptors_that_do_not_block_are_waited_for(self):
        port = self.port(max_frame=1_000_000)
        for descriptor in (port._input, port._output):
            os.set_blocking(descriptor, False)
        timer = threading.Timer(0.05, os.write, (self.theirs, b"\0\0\0\1a"))
        timer.start()
        self.assertEqual(port.read(), b"a")
        thread = threading.Thread(target=port.write, args=(b"x" * 500_000,))
        thread.start()
        left = 500_004
        while left:
            left -= len(os.read(self.read, 65_536))
        thread.join()

    def test_what_is_too_long_is_refused_both_ways(self):
        port = self.port()
        with self.assertRaisesRegex(FrameError, "1001 bytes, 1000 are allowed"):
            port.write(b"x" * 1001)
        os.write(self.theirs, struct.pack(">I", 1001))
        with self.assertRaisesRegex(FrameError, "1001 bytes, 1000 are allowed"):
            port.read()
        self.assertEqual(self.port(2, 1_000_000).max_frame, 65_535)
        with self.assertRaisesRegex(ValueError, "2 or 4 bytes, not 3"):
            Port(3)

    def test_what_is_closed_twice_is_closed_once(self):
        port = self.port()
        numbers = port.fileno(), port._output
        port.close()
        # The same numbers are somebody else's now.
        others = [os.open(os.devnull, os.O_RDWR) for _ in numbers]
        for descriptor in others:
            self.addCleanup(self.close, descriptor)
        port.close()
        for descriptor in others:
            os.fstat(descriptor)
        with self.assertRaises(OSError):
            port.read_once()

    def test_standard_input_that_was_closed_is_not_taken_again(self):
        code = """
from erlang.port import Port
port = Port()
port.close()
port.close()
try:
    Port()
except ValueError as error:
    if str(error) == "standard input and output were taken before, and are closed":
        raise SystemExit(7)
"""
        environment = {**os.environ, "PYTHONPATH": PYTHON}
        status = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        self.assertEqual(status.returncode, 7)

    def test_the_end_is_told(self):
        for sent in (b"", b"\0\0", b"\0\0\0\5abc"):
            port = self.port()
            os.write(self.theirs, sent)
            os.close(self.theirs)
            with self.assertRaises(EOFError):
                port.read()
        port = self.port()
        os.close(self.read)
        with self.assertRaises(EOFError):
            port.write(b"x")


class Patient(Port):
    """Waits ten seconds and no longer."""

    def _read(self):
        if not select.select([self], [], [], 10)[0]:
            raise TimeoutError("nothing has come")
        return super()._read()


class Calculator(Protocol):
    def handler_twice(self, x):
        return 2 * x

    def handler_fail(self):
        raise KeyError("x")

    def handler_odd(self):
        class OddError(Exception):
            def __str__(self):
                raise RuntimeError

        raise OddError

    def handler_no_text(self):
        raise FileNotFoundError("caf\udce9")

    def handler_no_text_inside(self):
        return {"caf\udce9": 1}

    def handler_call_long(self, size):
        self.call("f", "x" * size)

    def handler_call(self, *args):
        try:
            return self.call("f", *args)
        except RemoteError as error:
            return error.kind, list(error.detail)


class ProtocolTest(Pipes):
    """Conversations with a protocol that runs to the end of its input."""

    def talk(self, protocol, *messages):
        reading, theirs = self.pipe()
        ours, writing = self.pipe()
        port = Port(4, 100_000, (ours, theirs))
        for message in messages:
            port.write(message if isinstance(message, bytes) else etf.encode(message))
        os.close(theirs)
        Calculator(protocol=protocol, packet=4, descriptors=(reading, writing)).run()
        os.close(writing)
        answers = []
        try:
            while True:
                answers.append(etf.decode(port.read()))
        except EOFError:
            return answers

    def test_plain(self):
        answers = self.talk(
            "plain", (Atom("twice"), 21), ("twice", 4), (Atom("nope"),), (Atom("twice"),), b"\x83h"
        )
        self.assertEqual(answers[:2], [42, 8])
        self.assertEqual(answers[2][0], "Error")
        self.assertEqual(answers[3], ("TypeError", "function_clause"))
        self.assertEqual(answers[4][0], "ValueError")

    def test_envelope(self):
        answers = self.talk(
            "envelope",
            (0, 7, ("twice", [21])),
            (0, 2**31 - 1, ("twice", [4])),
            (1, 0, ("twice", [4])),
            (0, 9, ("nope", [])),
            (0, 10, ("fail", [])),
            (0, 11, "no request"),
            (0, 12, ("twice", 1)),
            (0, 13, ("odd", [])),
        )
        self.assertEqual(answers[0][0], 4)
        self.assertEqual(answers[1:3], [(2, 7, 42), (2, 2**31 - 1, 8)])
        self.assertEqual(answers[3], (3, 9, (Atom("undefined"), "nope")))
        self.assertEqual(answers[4][:2], (3, 10))
        self.assertEqual(answers[4][2][:3], (Atom("exception"), "KeyError", "'x'"))
        self.assertEqual(answers[5][2][0], "undecodable")
        self.assertEqual(answers[6][2][0], "undecodable")
        self.assertEqual(answers[7][2][1:3], ("OddError", "(its text cannot be had)"))

    def test_a_request_whose_arguments_cannot_be_decoded_is_answered(self):
        for id in (5, 500):
            bad = etf.encode((0, id, ("twice", ["x" * 5])))[:-3] + b"\xff"
            answers = self.talk("envelope", (0, 1, ("twice", [1])), bad)
            self.assertEqual(answers[-1][:2], (3, id))
            self.assertEqual(answers[-1][2][0], "undecodable")

    def test_a_name_may_be_any_term(self):
        long = 10**5000
        answers = self.talk("plain", ([1], 2), (long, 2), ("twice", 4))
        self.assertEqual([answer[0] for answer in answers[:2]], ["Error", "Error"])
        self.assertEqual(answers[2], 8)
        answers = self.talk(
            "envelope", (0, 1, ([1], [])), (0, 2, (long, [])), (0, 3, ("twice", [4]))
        )
        self.assertEqual([answer[2][0] for answer in answers[1:3]], ["undefined", "undefined"])
        self.assertEqual(answers[3], (2, 3, 8))
        call = Atom("call"), Atom("m"), Atom("twice"), [4]
        answers = self.talk("bert", ([1], *call[1:]), (*call[:2], [1], []), call)
        self.assertEqual([answer[0] for answer in answers], ["error", "error", "reply"])

    def test_frames_that_are_none_end_nothing(self):
        whole = etf.encode((0, 500, ("twice", [1])))
        with contextlib.redirect_stderr(io.StringIO()) as said:
            answers = self.talk(
                "envelope",
                *(whole[:size] for size in range(len(whole))),
                *((0, id, ("twice", [1])) for id in (-1, 2**31, 2**80, "x", [1], None)),
                (2, [1], "nobody asked"),
                (3, 1, ()),
                (0, 2, ("twice", [4])),
            )
        self.assertEqual(answers[-1], (2, 2, 8))
        self.assertEqual({answer[1:] for answer in answers[1:-1]}.pop()[0], 500)
        self.assertEqual({answer[2][0] for answer in answers[1:-1]}, {"undecodable"})
        self.assertIn("an id is an integer from 0 to 2147483647", said.getvalue())

    def test_no_bit_of_a_frame_that_is_wrong_ends_anything(self):
        call = Atom("call"), Atom("m"), Atom("twice"), [[1, "x"]]
        for protocol, term in (
            ("plain", (Atom("twice"), {"a": (1.5, 2)})),
            ("envelope", (0, 500, ("twice", [{Atom("__struct__"): Atom("Elixir.Date")}]))),
            ("envelope", (2, 1, {"a": 1})),
            ("envelope", (3, 1, (Atom("undefined"), "f"))),
            ("bert", call),
        ):
            server = Calculator(protocol=protocol, packet=4, descriptors=self.pipe())
            frame = etf.encode(term)
            for at in range(8 * len(frame)):
                wrong = bytearray(frame)
                wrong[at // 8] ^= 1 << at % 8
                with contextlib.redirect_stderr(io.StringIO()):
                    request, _answer = server.receive(bytes(wrong))
                    if request is not None:
                        server.handle(request)

    def test_what_is_no_unicode_is_told_all_the_same(self):
        for protocol in ("plain", "bert", "envelope"):
            asked = [("no_text",), ("no_text_inside",), ("twice", 4)]
            if protocol == "envelope":
                asked = [(0, id, (name, args)) for id, (name, *args) in enumerate(asked)]
            elif protocol == "bert":
                call = Atom("call"), Atom("m")
                asked = [(*call, Atom(name), args) for name, *args in asked]
            first, second, third = self.talk(protocol, *asked)[-3:]
            self.assertIn("caf\\\\udce9", repr(first))
            self.assertIn("a str is not Unicode text", repr(second))
            self.assertIn("8", repr(third))

    def test_an_answer_that_cannot_be_decoded_fails_its_call(self):
        port, end = self.start()
        port.write(etf.encode((0, 7, ("call", []))))
        self.assertEqual(etf.decode(port.read()), (0, 1, ("f", [])))
        # A map with a list as its key.
        port.write(b"\x83h\x03a\x02a\x01t\0\0\0\1k\0\1\1a\1")
        id, (kind, detail) = etf.decode(port.read())[1:]
        self.assertEqual((id, kind), (7, "undecodable"))
        self.assertRegex(detail[0], "a list.* cannot be a key")
        end()

    def test_a_call_that_is_too_large_fails_alone(self):
        port, end = self.start()
        twice, long = (0, 1, ("twice", [1])), (0, 2, ("call_long", [1000]))
        for request in (twice, long):
            port.write(etf.encode(request))
            port.read()
        # Both are known to be quick by now, so that the first answer waits for the second.
        port.write_some([etf.encode(twice), etf.encode(long)])
        self.assertEqual(etf.decode(port.read()), (2, 1, 2))
        self.assertEqual(etf.decode(port.read())[2][:2], ("exception", "FrameError"))
        end()

    def test_an_answer_to_a_call_that_was_cancelled_just_now_is_dropped(self):
        server = Calculator(protocol="envelope", descriptors=self.pipe())
        for settle in (lambda: server._calls.answered(1, 2, "late"), server._calls.fail_all):
            future = server._calls._pending[1] = Future()
            future.cancel()
            settle()
            self.assertEqual(server._calls._pending, {})

    def test_a_coroutine_that_is_cancelled_is_answered(self):
        class Cancelled(Calculator):
            async def handler_cancelled(self):
                task = asyncio.ensure_future(asyncio.sleep(1000))
                task.cancel()
                await task

        port, end = self.start(Cancelled)
        port.write(etf.encode((0, 1, ("cancelled", []))))
        self.assertEqual(etf.decode(port.read())[2][:2], ("exception", "CancelledError"))
        port.write(etf.encode((0, 2, ("twice", [4]))))
        self.assertEqual(etf.decode(port.read()), (2, 2, 8))
        end()

    def test_a_coroutine_that_is_cancelled_holds_up_no_order(self):
        class Cancelled(Calculator):
            async def handler_cancelled(self):
                raise asyncio.CancelledError

        port, end = self.start(Cancelled, protocol="plain")
        port.write(etf.encode(("cancelled",)))
        self.assertEqual(etf.decode(port.read())[0], "CancelledError")
        port.write(etf.encode(("twice", 4)))
        self.assertEqual(etf.decode(port.read()), 8)
        end()

    def test_a_worker_survives_what_its_handler_raises(self):
        class Raises(Calculator):
            def handler_exit(self):
                raise SystemExit(3)

            def handler_cancelled(self):
                raise asyncio.CancelledError

        port, end = self.start(Raises, 1)
        for name, kind in (("exit", "SystemExit"), ("cancelled", "CancelledError")):
            port.write(etf.encode((0, 1, (name, []))))
            self.assertEqual(etf.decode(port.read())[2][:2], ("exception", kind))
        port.write(etf.encode((0, 2, ("twice", [4]))))
        self.assertEqual(etf.decode(port.read()), (2, 2, 8))
        end()

    def test_calls_to_the_other_side(self):
        port, end = self.start()

        def tell(*frames):
            port.write_some([etf.encode(frame) for frame in frames])

        tell((0, 7, ("call", [1])), (0, 8, ("twice", [1])))
        self.assertEqual(etf.decode(port.read()), (0, 1, ("f", [1])))
        # What comes meanwhile is handled later.
        tell((2, 99, "nobody asked"), (0, 9, ("twice", [2])), (2, 1, "result"))
        answers = [etf.decode(port.read()) for _ in range(3)]
        self.assertEqual(answers, [(2, 7, "result"), (2, 8, 2), (2, 9, 4)])
        tell((0, 10, ("call", [])))
        self.assertEqual(etf.decode(port.read()), (0, 2, ("f", [])))
        tell((3, 2, (Atom("undefined"), "f")))
        self.assertEqual(etf.decode(port.read()), (2, 10, ("undefined", ["f"])))
        end()

    def start(self, factory=Calculator, workers=0, protocol="envelope"):
        """A protocol that runs in a thread: our end of it, after its hello, and what ends it."""
        reading, theirs = self.pipe()
        ours, writing = self.pipe()
        port = Patient(4, 1000, (ours, theirs))
        server = factory(
            protocol=protocol,
            packet=4,
            max_frame=1000,
            descriptors=(reading, writing),
            workers=workers,
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        if protocol == "envelope":
            self.assertEqual(etf.decode(port.read())[0], 4)

        def end():
            os.close(theirs)
            thread.join(10)
            self.assertFalse(thread.is_alive())

        return port, end

    def test_workers_answer_all(self):
        class Slow(Calculator):
            barrier = threading.Barrier(3)

            def handler_meet(self):
                self.barrier.wait(10)
                return threading.current_thread().name

        sent = [(0, n, ("meet", [])) for n in range(3)]
        port, end = self.start(Slow, 3)
        port.write_some([etf.encode(request) for request in sent])
        answers = [etf.decode(port.read()) for _ in sent]
        self.assertEqual({answer[1] for answer in answers}, {0, 1, 2})
        self.assertEqual(len({answer[2] for answer in answers}), 3)
        end()

    def test_what_is_asked_for_has_to_exist(self):
        with self.assertRaisesRegex(ValueError, "envelope, plain, bert, not 'soap'"):
            Protocol(protocol="soap", descriptors=(0, 1))
        with self.assertRaisesRegex(ValueError, "a number of threads"):
            Protocol(workers=-1, descriptors=(0, 1))
        server = Protocol(protocol="plain", descriptors=self.pipe())
        with self.assertRaisesRegex(RuntimeError, "the protocol plain has no calls"):
            server.call("f")


if __name__ == "__main__":
    unittest.main()
