"""Protocol, the registry and the entry points."""

import errno
import os
import select
import sys
import threading
import unittest

import erlang.reactor as reactor
import live
from cases import INFO, Pair, Recorder


class AttributeTest(unittest.TestCase):
    def test_a_fresh_protocol(self):
        protocol = reactor.Protocol()
        self.assertEqual(protocol.fd, -1)
        self.assertEqual(protocol.client_info, {})
        self.assertEqual(protocol.write_buffer, bytearray())
        self.assertIs(type(protocol.write_buffer), bytearray)
        self.assertIs(protocol.closed, False)

    def test_subclasses_need_not_call_super(self):
        class Silent(reactor.Protocol):
            def __init__(self, greeting, *, loud=False):
                self.greeting = greeting

        protocol = Silent("hello", loud=True)
        self.assertEqual((protocol.greeting, protocol.fd, protocol.closed), ("hello", -1, False))
        self.assertIsNot(protocol.write_buffer, Silent("x").write_buffer)

    def test_the_base_class_takes_no_argument_and_keeps_no_dict(self):
        self.assertRaises(TypeError, reactor.Protocol, 1)
        self.assertFalse(hasattr(reactor.Protocol(), "__dict__"))

    def test_connection_made_by_hand_sets_the_attributes(self):
        protocol = reactor.Protocol()
        protocol.connection_made(7, INFO)
        self.assertEqual((protocol.fd, protocol.client_info), (7, INFO))

    def test_going_away_says_nothing_by_itself(self):
        self.assertIsNone(reactor.Protocol().going_away())

    def test_without_data_received(self):
        class Lazy(reactor.Protocol):
            pass

        with self.assertRaisesRegex(NotImplementedError, "Lazy"):
            Lazy().data_received(b"x")

    def test_an_idle_connection_is_small(self):
        class Usual(reactor.Protocol):
            def data_received(self, data):
                return "continue"

        protocol = Usual()
        info = {"addr": "203.0.113.250", "port": 65000, "type": "tcp"}
        parts = (
            protocol,
            protocol.write_buffer,
            info,
            info["addr"],
            info["port"],
            100_000,
            1 << 62,
        )
        per_entry = sys.getsizeof(dict.fromkeys(range(1000))) // 1000
        gc_header = 16
        self.assertLess(sum(map(sys.getsizeof, parts)) + 2 * gc_header + per_entry, 900)


class NotConnectedTest(unittest.TestCase):
    def test_reading_and_writing_before_there_is_a_connection(self):
        with self.assertRaisesRegex(RuntimeError, "Protocol.read: there is no connection"):
            reactor.Protocol().read(10)
        with self.assertRaisesRegex(RuntimeError, "Protocol.write: there is no connection"):
            reactor.Protocol().write(b"x")

    def test_a_size_that_reads_nothing(self):
        for size in (0, -1):
            self.assertRaises(ValueError, reactor.Protocol().read, size)


class LifecycleTest(Pair):
    def test_a_connection_from_its_beginning_to_its_end(self):
        protocol = self.connect()
        self.assertIs(reactor.get_protocol(self.fd), protocol)
        self.assertEqual(reactor.on_read_ready(self.fd, live.buffers[0][0]), "continue")
        reactor.close_connection(self.fd)
        self.assertIsNone(reactor.get_protocol(self.fd))
        reactor.close_connection(self.fd)
        self.assertEqual(
            protocol.calls,
            [
                ("made", self.fd, INFO, self.fd, INFO, False),
                ("data", live.buffers[0][1]),
                ("lost", True),
            ],
        )

    def test_connection_lost_once_even_if_the_protocol_says_closed_itself(self):
        protocol = self.connect()
        protocol.closed = True
        reactor._lost(protocol)
        reactor._lost(protocol)
        self.assertEqual(protocol.calls[1:], [("lost", True)])

    def test_a_connection_made_that_raises(self):
        made = []

        class Refusing(Recorder):
            def connection_made(self, fd, client_info):
                made.append(self)
                raise OverflowError("enough")

        with self.assertRaisesRegex(OverflowError, "enough"):
            self.connect(Refusing)
        self.assertIsNone(reactor.get_protocol(self.fd))
        self.assertTrue(made[0].closed)
        reactor._lost(made[0])
        self.assertEqual(made[0].calls, [])
        self.assertRaises(BrokenPipeError, made[0].write, b"x")

    def test_a_connection_lost_that_raises(self):
        class Failing(Recorder):
            def connection_lost(self):
                super().connection_lost()
                raise OverflowError("at the end")

        protocol = self.connect(Failing)
        self.assertRaisesRegex(OverflowError, "at the end", reactor._lost, protocol)
        reactor._lost(protocol)
        self.assertIsNone(reactor.get_protocol(self.fd))
        self.assertEqual(protocol.calls[1:], [("lost", True)])

    def test_a_number_that_is_used_again_is_not_mistaken(self):
        old = self.connect()
        new = Recorder()
        reactor._open(old._handle, self.fd, INFO, new)
        self.assertIs(reactor.get_protocol(self.fd), new)
        reactor._lost(old)
        self.assertIs(reactor.get_protocol(self.fd), new)
        self.assertEqual((old.closed, new.closed), (True, False))

    def test_what_is_no_descriptor(self):
        reactor.set_protocol_factory(Recorder)
        for fd in (-1, None, "3"):
            self.assertRaisesRegex(ValueError, "not a file", reactor.init_connection, fd, {})
        protocol = self.connect()
        with self.assertRaisesRegex(ValueError, "served by"):
            reactor.init_connection(self.fd, {})
        self.assertIs(reactor.get_protocol(self.fd), protocol)


class ActionTest(Pair):
    def test_every_action(self):
        protocol = self.connect()
        for action in ("continue", "write_pending", "read_pending", "close", "async_pending"):
            protocol.answer = action
            self.assertEqual(reactor.on_read_ready(self.fd, b"x"), action)
        self.assertEqual(len(reactor.ACTIONS), 5)

    def test_what_is_no_action(self):
        protocol = self.connect()
        for answer, error, text in (
            ("continu", ValueError, "Recorder.data_received returned 'continu'.*'async_pending'"),
            ("", ValueError, "returned ''.*'continue', 'write_pending', 'read_pending', 'close'"),
            (None, TypeError, "Recorder.data_received returned None"),
            (b"close", TypeError, "returned an instance of bytes"),
            (1, TypeError, "returned an instance of int"),
        ):
            protocol.answer = answer
            self.assertRaisesRegex(error, text, reactor.on_read_ready, self.fd, b"x")

    def test_connection_made_may_answer_with_an_action(self):
        class Greeting(Recorder):
            def connection_made(self, fd, client_info):
                super().connection_made(fd, client_info)
                return self.answer

        for answer in (None, "write_pending", "close"):
            Greeting.answer = answer
            protocol = Greeting()
            self.assertEqual(reactor._open(-1, self.fd, INFO, protocol), answer)
            reactor._lost(protocol)
        Greeting.answer = 5
        with self.assertRaisesRegex(TypeError, "Greeting.connection_made returned an inst.*int"):
            reactor._open(-1, self.fd, INFO, Greeting())
        self.assertIsNone(reactor.get_protocol(self.fd))

    def test_an_exception_of_the_protocol_passes_through(self):
        class Failing(Recorder):
            def data_received(self, data):
                raise OverflowError("mine")

            def write_ready(self):
                return None

        self.connect(Failing)
        self.assertRaisesRegex(OverflowError, "mine", reactor.on_read_ready, self.fd, b"x")
        self.assertRaisesRegex(
            TypeError, "write_ready returned None", reactor.on_write_ready, self.fd
        )

    def test_a_descriptor_that_nobody_serves(self):
        self.assertEqual(reactor.on_read_ready(self.fd, b"x"), "close")
        self.assertEqual(reactor.on_write_ready(self.fd), "close")
        self.assertIsNone(reactor.get_protocol(self.fd))
        self.assertIs(reactor.signal_write_ready(self.fd), False)


class DescriptorTest(Pair):
    """read, write and write_ready of a connection that init_connection made."""

    def test_writing_until_the_kernel_is_full(self):
        protocol = self.connect()
        sent = os.urandom(4 << 20)
        protocol.write_buffer.extend(sent)
        self.assertEqual(reactor.on_write_ready(self.fd), "continue")
        self.assertEqual(protocol.write(b"more"), 0)
        received = bytearray()
        while len(received) < len(sent):
            received += self.theirs.recv(1 << 20)
            action = reactor.on_write_ready(self.fd)
            self.assertEqual(action, "continue" if protocol.write_buffer else "read_pending")
        self.assertEqual(received, sent)
        self.assertEqual(reactor.on_write_ready(self.fd), "read_pending")

    def test_reading(self):
        protocol = self.connect()
        self.assertRaises(BlockingIOError, protocol.read, 10)
        self.theirs.sendall(b"hello")
        self.assertEqual(protocol.read(2), b"he")
        self.assertEqual(protocol.read(100), b"llo")
        self.theirs.close()
        self.assertEqual(protocol.read(100), b"")

    def test_a_broken_connection(self):
        protocol = self.connect()
        self.theirs.close()
        self.assertRaises(BrokenPipeError, protocol.write, b"x")
        self.assertEqual(protocol.read(1), b"")

    def test_after_the_end(self):
        protocol = self.connect()
        self.theirs.sendall(b"unread")
        reactor.close_connection(self.fd)
        self.assertEqual(protocol.read(10), b"")
        with self.assertRaisesRegex(BrokenPipeError, f"fd {self.fd} is closed") as caught:
            protocol.write(b"x")
        self.assertEqual(caught.exception.errno, errno.EPIPE)
        self.assertEqual(protocol.fd, self.fd)

    def test_no_event_loop_serves_it(self):
        self.connect()
        self.assertIs(reactor.signal_write_ready(self.fd), False)


class LiveTest(unittest.TestCase):
    """The same over a connection of the server that runs these tests."""

    def setUp(self):
        self.protocol = live.connection

    def await_readable(self):
        self.assertTrue(select.select([self.protocol.fd], [], [], 10)[0])

    def test_it_is_registered_and_described(self):
        self.assertIs(reactor.get_protocol(self.protocol.fd), self.protocol)
        address, port = live.client.getsockname()[:2]
        self.assertEqual(self.protocol.client_info["addr"], address)
        self.assertEqual(self.protocol.client_info["port"], port)
        self.assertEqual(self.protocol.client_info["type"], "tcp")
        self.assertFalse(self.protocol.closed)

    def test_write(self):
        for data in (
            b"bytes",
            bytearray(b"bytearray"),
            memoryview(b"view"),
            live.buffers[-1][0][:99],
        ):
            self.assertEqual(self.protocol.write(data), len(data))
            self.assertEqual(live.client.recv(100), bytes(data))

    def test_write_takes_a_read_buffer(self):
        buffer, oracle = next(pair for pair in live.buffers if len(pair[1]) == 255)
        self.assertEqual(self.protocol.write(buffer), 255)
        self.assertEqual(live.client.recv(300), oracle)

    def test_write_refuses_text(self):
        self.assertRaises(TypeError, self.protocol.write, "text")

    def test_read(self):
        self.assertRaises(BlockingIOError, self.protocol.read, 10)
        live.client.sendall(b"hello there")
        self.await_readable()
        self.assertEqual(self.protocol.read(5), b"hello")
        self.assertEqual(self.protocol.read(1 << 16), b" there")
        self.assertRaises(BlockingIOError, self.protocol.read, 10)

    def test_signal_write_ready_from_another_thread(self):
        answers = []
        fd = self.protocol.fd
        thread = threading.Thread(target=lambda: answers.append(reactor.signal_write_ready(fd)))
        thread.start()
        thread.join(10)
        self.assertEqual(answers, [True])


class LiveUntilFullTest(unittest.TestCase):
    """In a class of its own, which unittest runs after LiveTest: once the kernel had no room, only
    the event loop finds out that there is room again, and it has to wait for these tests."""

    def test_a_full_kernel_takes_nothing(self):
        write = live.connection.write
        chunk = os.urandom(1 << 16)
        sent = bytearray()
        while taken := write(chunk):
            sent += chunk[:taken]
        self.assertGreater(len(sent), 0)
        self.assertEqual(write(b"more"), 0)
        received = bytearray()
        while len(received) < len(sent):
            received += live.client.recv(1 << 20)
        self.assertEqual(received, sent)
