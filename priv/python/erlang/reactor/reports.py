"""What Python says goes to Elixir's Logger.

===========================  ==================================================================
:mod:`logging`               at its own level; ``logger`` in the metadata is the logger's name
:mod:`warnings`              at ``warning``; ``logger`` is ``"py.warnings"``
``sys.stdout``               line by line at ``info``; ``logger`` is ``"stdout"``
``sys.stderr``               line by line at ``warning``; ``logger`` is ``"stderr"``
exceptions that end threads  at ``error``, with the traceback; ``logger`` is ``"threading"``
===========================  ==================================================================

The metadata has ``target: "python"``, the ``file``, ``line``, ``module`` and ``function`` that said it, and the
``context`` if that was on a context's own thread.

Nothing here waits: what comes faster than Logger takes it is dropped and counted, and the count is
logged. A message is cut after 16 KiB, a line that is longer becomes several. What is left of a
line is passed on by ``flush()``, and when its thread or its context ends. ``sys.__stdout__`` and
``sys.__stderr__`` are the real ones.

The root logger has the level that Logger had when the application was started, so
``logging.basicConfig`` is not needed, and does nothing.
"""

import io
import logging
import sys
import threading
import traceback
import warnings

import _reactor

LONGEST = 16 * 1024  # characters of a line

_WARNINGS = "py.warnings"
_installed = False


class LoggerHandler(logging.Handler):
    """Passes the records of :mod:`logging` on.

    Its lock is not used: nothing here waits, and a callback that is interrupted when it has just taken
    it would keep it from all others for ever.
    """

    def __init__(self):
        super().__init__()
        self._here = threading.local()

    def handle(self, record):
        kept = self.filter(record)
        # Since 3.12 a filter may give another record.
        if isinstance(kept, logging.LogRecord):
            record = kept
        if kept:
            self.emit(record)
        return kept

    def emit(self, record):
        # What is logged while a record is formatted, as by a __str__, would come back for ever.
        if getattr(self._here, "busy", False):
            return
        try:
            self._here.busy = True
            _reactor.log(
                record.levelno,
                record.name,
                self.format(record),
                record.pathname,
                record.lineno,
                record.module,
                record.funcName,
            )
        except Exception:
            self.handleError(record)
        finally:
            self._here.busy = False


class _Line:
    """What a thread has written of a line so far."""

    __slots__ = ("stream", "text")

    def __init__(self, stream):
        self.stream = stream
        self.text = ""

    def __del__(self):
        # Its thread has ended.
        if self.text:
            self.stream.say(self.text, None)


class _Bytes(io.RawIOBase):
    """What ``sys.stdout.buffer`` is: bytes that are text."""

    def __init__(self, stream):
        super().__init__()
        self._stream = stream

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        self._stream.write(data.decode("utf-8", "backslashreplace"))
        return len(data)

    def flush(self):
        self._stream.flush()


class LoggerStream(io.TextIOBase):
    """A text stream of which each line is logged. Each thread writes lines of its own."""

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True

    def __init__(self, name, level):
        super().__init__()
        self.name = f"<{name}>"
        self.mode = "w"
        self.buffer = _Bytes(self)
        self._logger = name
        self._level = level
        self._here = threading.local()

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        line = self._line()
        head, newline, rest = text.rpartition("\n")
        if newline:
            whole, line.text = line.text + head, ""
            caller = _caller()
            for one in whole.split("\n"):
                self.say(one, caller)
        line.text += rest
        if len(line.text) > LONGEST:
            self._pass_on(line, _caller())
        return len(text)

    def reconfigure(self, **_settings):
        """There is nothing to configure: it is UTF-8, and each line is passed on."""

    def flush(self):
        line = self._line()
        if line.text:
            self._pass_on(line, _caller())

    def say(self, text, caller):
        """Logs one line, in pieces if it is long; an empty one is none."""
        place = (None, None, None, None)
        if caller is not None:
            code = caller.f_code
            module = caller.f_globals.get("__name__")
            module = module if isinstance(module, str) else None
            place = (code.co_filename, caller.f_lineno, module, code.co_name)
        text = text.rstrip("\r")
        for start in range(0, len(text), LONGEST):
            piece = text[start : start + LONGEST]
            _reactor.log(self._level, self._logger, piece, *place)

    def _line(self):
        line = getattr(self._here, "line", None)
        if line is None:
            line = self._here.line = _Line(self)
        return line

    def _pass_on(self, line, caller):
        text, line.text = line.text, ""
        self.say(text, caller)


def _caller():
    """The frame that called a method of the stream; None if no Python did, as at a thread's start."""
    try:
        return sys._getframe(2)
    except ValueError:
        return None


def install():
    """Has all of it go there, in this interpreter. Only the first call does anything."""
    global _installed
    # Not to be seen by sys.stdout, which a program may have replaced.
    if _installed:
        return
    _installed = True
    sys.stdout = LoggerStream("stdout", logging.INFO)
    sys.stderr = LoggerStream("stderr", logging.WARNING)
    root = logging.getLogger()
    root.addHandler(LoggerHandler())
    root.setLevel(_reactor.log_level())
    warnings.showwarning = _show_warning
    threading.excepthook = _thread_raised
    sys.unraisablehook = _could_not_raise


def flush():
    """Passes on what the calling thread has written of lines that have not ended."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LoggerStream):
            stream.flush()


def _show_warning(message, category, filename, lineno, file=None, line=None):
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    logger = logging.getLogger(_WARNINGS)
    if logger.isEnabledFor(logging.WARNING):
        text = f"{category.__name__}: {message}"
        args = (_WARNINGS, logging.WARNING, filename, lineno, text, (), None)
        logger.handle(logger.makeRecord(*args))


def _thread_raised(args):
    if issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "a thread"
    _log_raised(f"{name} ended by an exception", args)


def _could_not_raise(args):
    what = args.err_msg or "Exception ignored in"
    _log_raised(f"{what} {args.object!r}", args)


def _log_raised(what, args):
    lines = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
    text = f"{what}\n{''.join(lines).rstrip()}"
    place = (None, None, None, None)
    if args.exc_traceback is not None:
        last = traceback.extract_tb(args.exc_traceback)[-1]
        place = (last.filename, last.lineno, None, last.name)
    _reactor.log(logging.ERROR, "threading", text, *place)
