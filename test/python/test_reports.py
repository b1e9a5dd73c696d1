"""Where logging and the streams go."""

import _thread
import io
import logging
import sys
import threading
import unittest

from erlang.reactor import reports


class Kept(reports.LoggerHandler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


class Heard(reports.LoggerStream):
    def __init__(self):
        super().__init__("heard", logging.INFO)
        self.said = []
        self.heard = threading.Event()

    def say(self, text, caller):
        self.said.append((text, caller))
        self.heard.set()


def record():
    return logging.LogRecord("it", logging.INFO, "file.py", 1, "said", (), None)


class HandlerTest(unittest.TestCase):
    def test_it_waits_for_no_lock(self):
        handler = Kept()
        done = threading.Event()

        def log():
            handler.handle(record())
            done.set()

        # No daemon: an interpreter of its own has none.
        thread = threading.Thread(target=log)
        handler.acquire()
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(handler.release)
        self.assertTrue(done.wait(5))
        self.assertEqual(len(handler.records), 1)

    def test_filters_count(self):
        handler = Kept()
        handler.addFilter(lambda record: record.levelno > logging.INFO)
        self.assertFalse(handler.handle(record()))
        self.assertEqual(handler.records, [])

    @unittest.skipIf(sys.version_info < (3, 12), "a filter only answers yes or no")
    def test_a_filter_may_give_another_record(self):
        handler, other = Kept(), record()
        handler.addFilter(lambda record: other)
        self.assertIs(handler.handle(record()), other)
        self.assertIs(handler.records[0], other)


class StreamTest(unittest.TestCase):
    def start(self, method, *args):
        _thread.start_new_thread(method, args)

    def test_no_python_need_have_called_it(self):
        stream = Heard()
        self.start(stream.write, "line\n")
        self.assertTrue(stream.heard.wait(5))
        self.assertEqual(stream.said, [("line", None)])
        # What is left of a line is said at its thread's end anyhow.
        stream = Heard()
        self.start(stream.write, "x" * (reports.LONGEST + 1))
        self.assertTrue(stream.heard.wait(5))
        self.assertEqual(stream.said[0][1], None)

    def test_who_called_it_is_known(self):
        stream = Heard()
        stream.write("line\nrest")
        stream.flush()
        self.assertEqual([text for text, _ in stream.said], ["line", "rest"])
        for _, caller in stream.said:
            self.assertIs(caller, sys._getframe())


class InstallTest(unittest.TestCase):
    def test_a_replaced_stream_does_not_bring_a_second_handler(self):
        root = logging.getLogger()
        handlers, out, err = root.handlers[:], sys.stdout, sys.stderr
        try:
            sys.stdout = io.StringIO()
            reports.install()
            self.assertEqual(root.handlers, handlers)
            self.assertIsInstance(sys.stdout, io.StringIO)
        finally:
            root.handlers[:] = handlers
            sys.stdout, sys.stderr = out, err
