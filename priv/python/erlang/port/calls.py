"""Calls in the other direction: from Python to Elixir."""

import asyncio
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from ..terms import Atom
from .errors import FrameError, RemoteError
from .requests import ANSWER, CALL, CAST, ERROR, MOST_ID

# Where answers come in order, one that nobody waits for any more keeps its place: of so many.
_MOST_PENDING = 1_024


class Calls:
    """The calls of one protocol that have no answer yet. `runner` reads the answers."""

    def __init__(self, port, wire):
        self._port = port
        self._wire = wire
        # Held while one is sent: the first that is sent is the first that is answered, where the order counts.
        self._lock = threading.Lock()
        # Futures by their numbers, in order; in place of one there is the name of what was cast.
        self._pending = {}
        self._last = 0
        self.runner = None

    def call(self, name, args, timeout, options):
        """See `Protocol.call`. By BERT-RPC it returns a `Reply`."""
        self._check(options)
        if _in_event_loop():
            raise RuntimeError("an event loop runs in this thread: await call_async(...) there")
        id, future = self._send(name, args, options)
        try:
            self.runner.wait(future, timeout)
            return future.result(0)
        except FutureTimeout:
            raise TimeoutError(f"no answer of {name} within {timeout} s") from None
        finally:
            self._give_up(id)

    async def call_async(self, name, args, timeout, options):
        """See `Protocol.call_async`. By BERT-RPC it returns a `Reply`."""
        self._check(options)
        id, future = self._send(name, args, options)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer of {name} within {timeout} s") from None
        finally:
            self._give_up(id)

    def cast(self, name, args, options):
        """See `Protocol.cast`."""
        self._check(options)
        with self._lock:
            frame = self._request(CAST, 0, name, args, options)
            if self._wire.ordered:
                self._pending[self._next_id()] = name
            self.runner.send(frame)

    def answered(self, id, kind, body):
        """An answer has come; to the oldest where it has no number. Nobody may wait for it any more."""
        if self._wire.ordered:
            id = next(iter(self._pending), None)
            if id is None:
                raise FrameError("an answer that nobody waits for")
        future = self._pending.pop(id, None)
        if type(future) is not Future:
            if future is not None and kind == ERROR:
                print(f"a cast to {future} failed: {body}", file=sys.stderr)
            return
        # It may have been cancelled just now, and cannot be from here on.
        if not future.set_running_or_notify_cancel():
            return
        if kind == ANSWER:
            future.set_result(body)
        elif isinstance(body, Exception):
            future.set_exception(body)
        elif isinstance(body, tuple) and body:
            future.set_exception(RemoteError(*(str(p) if isinstance(p, Atom) else p for p in body)))
        else:
            future.set_exception(RemoteError(str(body)))

    def fail_all(self):
        """The other side has closed."""
        while self._pending:
            _id, future = self._pending.popitem()
            if type(future) is Future and future.set_running_or_notify_cancel():
                future.set_exception(EOFError("the other side has closed"))

    def _check(self, options):
        if not hasattr(self._wire, "request"):
            raise RuntimeError("the protocol plain has no calls from Python to Elixir")
        if self.runner is None:
            raise RuntimeError("the protocol does not run")
        for name in options:
            if not self._wire.ordered:
                raise ValueError(f"{name} is for the protocol bert, and this is envelope")

    def _send(self, name, args, options):
        future = Future()
        with self._lock:
            id = self._next_id()
            frame = self._request(CALL, id, name, args, options)
            self._pending[id] = future
            self.runner.send(frame)
        return id, future

    def _give_up(self, id):
        if not self._wire.ordered:
            self._pending.pop(id, None)

    def _next_id(self):
        if self._wire.ordered and len(self._pending) >= _MOST_PENDING:
            raise RuntimeError(f"{_MOST_PENDING} requests have no answer yet")
        self._last = self._last + 1 if self._last < MOST_ID else 1
        return self._last

    def _request(self, kind, id, name, args, options):
        frame = self._wire.request(kind, id, name, list(args), **options)
        # Here, where it is the caller's error: later others' answers may be written with it. BERT's are checked already.
        if type(frame) is bytes and len(frame) > self._port.max_frame:
            raise FrameError(f"a frame of {len(frame)} bytes, {self._port.max_frame} are allowed")
        return frame


def _in_event_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
