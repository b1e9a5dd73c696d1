"""Calls in the other direction: from Python to Elixir."""

import asyncio
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from ..terms import Atom
from .errors import FrameError, RemoteError
from .requests import ANSWER, CALL, CAST, MOST_ID


class Calls:
    """The calls of one protocol that have no answer yet. `runner` reads the answers."""

    def __init__(self, port, wire):
        self._port = port
        self._wire = wire
        self._lock = threading.Lock()
        self._pending = {}
        self._last = 0
        self.runner = None

    def call(self, name, args, timeout):
        """See `Protocol.call`."""
        self._check()
        if _in_event_loop():
            raise RuntimeError("an event loop runs in this thread: await call_async(...) there")
        id, future = self._send(name, args)
        try:
            self.runner.wait(future, timeout)
            return future.result(0)
        except FutureTimeout:
            raise TimeoutError(f"no answer of {name} within {timeout} s") from None
        finally:
            self._pending.pop(id, None)

    async def call_async(self, name, args, timeout):
        """See `Protocol.call_async`."""
        self._check()
        id, future = self._send(name, args)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer of {name} within {timeout} s") from None
        finally:
            self._pending.pop(id, None)

    def cast(self, name, args):
        """See `Protocol.cast`."""
        self._check()
        self.runner.send(self._request(CAST, 0, name, args))

    def answered(self, id, kind, body):
        """An answer has come. Nobody may wait for it any more."""
        future = self._pending.pop(id, None)
        # It may have been cancelled just now, and cannot be from here on.
        if future is None or not future.set_running_or_notify_cancel():
            return
        if kind == ANSWER:
            future.set_result(body)
        elif isinstance(body, tuple) and body:
            future.set_exception(RemoteError(*(str(p) if isinstance(p, Atom) else p for p in body)))
        else:
            future.set_exception(RemoteError(str(body)))

    def fail_all(self):
        """The other side has closed."""
        while self._pending:
            _id, future = self._pending.popitem()
            if future.set_running_or_notify_cancel():
                future.set_exception(EOFError("the other side has closed"))

    def _check(self):
        if self._wire.ordered:
            raise RuntimeError("only the protocol envelope has calls from Python to Elixir")
        if self.runner is None:
            raise RuntimeError("the protocol does not run")

    def _send(self, name, args):
        future = Future()
        with self._lock:
            self._last = id = self._last + 1 if self._last < MOST_ID else 1
        frame = self._request(CALL, id, name, args)
        self._pending[id] = future
        self.runner.send(frame)
        return id, future

    def _request(self, kind, id, name, args):
        frame = self._wire.request(kind, id, name, list(args))
        # Here, where it is the caller's error: later others' answers may be written with it.
        if len(frame) > self._port.max_frame:
            raise FrameError(f"a frame of {len(frame)} bytes, {self._port.max_frame} are allowed")
        return frame


def _in_event_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
