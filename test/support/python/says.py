"""A protocol that says things to Python's log, streams and warnings, as it is told."""

import logging
import sys
import threading
import warnings

import erlang.reactor as reactor

log = logging.getLogger("says.it")


class Wordy:
    """Logs while it is turned into text."""

    def __str__(self):
        log.error("from inside __str__")
        return "wordy"


class Unprintable:
    def __str__(self):
        raise ValueError("no text for this")


class Says(reactor.Protocol):
    def data_received(self, data):
        word, _, rest = data.decode().partition(" ")
        answer = getattr(self, word)(rest) or "said"
        self.write_buffer.extend(answer.encode())
        return "write_pending"

    def debug(self, text):
        log.debug("%s", text)

    def info(self, text):
        log.info("%s", text)

    def endless(self, text):
        while True:
            log.info("%s", text)

    def warning(self, text):
        log.warning("%s", text)

    def error(self, text):
        log.error("%s", text)

    def critical(self, text):
        log.critical("%s", text)

    def exception(self, text):
        try:
            raise KeyError("inner")
        except KeyError:
            log.exception("%s", text)

    def warn(self, text):
        warnings.warn(text, UserWarning, stacklevel=1)

    def print(self, text):
        print("printed", text)

    def partial(self, text):
        sys.stdout.write(text)

    def flush(self, _text):
        sys.stdout.flush()

    def stderr(self, text):
        sys.stderr.write(text + "\n")

    def bytes(self, text):
        sys.stdout.buffer.write(text.encode() + b"\xff\n")

    def lines(self, text):
        sys.stdout.write(f"{text} 1\n\n{text} 2\n")

    def long(self, text):
        print(text + "x" * 40_000)

    def surrogate(self, text):
        print(text, "\ud800")

    def wordy(self, text):
        log.error("%s %s", text, Wordy())

    def unprintable(self, text):
        log.error("%s %s", text, Unprintable())

    def flood(self, text):
        for number in range(20_000):
            print(text, number)

    def thread(self, text):
        def partial():
            sys.stdout.write(text)

        thread = threading.Thread(target=partial)
        thread.start()
        thread.join()

    def raises(self, text):
        def fail():
            raise RuntimeError(text)

        thread = threading.Thread(target=fail, name="failing thread")
        thread.start()
        thread.join()

    def unraisable(self, text):
        class Fails:
            def __del__(self):
                raise RuntimeError(text)

        Fails()

    def real(self, _text):
        return "real" if sys.__stdout__ is not sys.stdout and sys.stdout.writable() else "not"
