"""Handlers that are called by name."""

import inspect
import sys
import traceback

from ..etf import EncodeError
from . import watch
from .bert import Bert
from .calls import Calls
from .envelope import Envelope
from .errors import FrameError, Undecodable
from .plain import Plain
from .requests import ANSWER, CALL, CAST, ERROR, Failure
from .serial import Serial
from .settings import Settings
from .streams import Port
from .tasks import Tasks
from .terms import Terms
from .threads import Threads

_PROTOCOLS = {"envelope": Envelope, "plain": Plain, "bert": Bert}
_PREFIX = "handler_"


class Protocol:
    """Answers calls by its methods. A subclass has one ``handler_NAME`` for each name that may be called.

    A handler gets the arguments of the call and returns the result. Nothing else of the object can be called. It may be
    an ``async def``: then `run` has an event loop of asyncio in the main thread, and calls of such handlers overlap.
    With ``workers=n`` the other handlers run in as many threads, and overlap too. Without either, one call is answered
    after the other. So it is in any case with the protocols ``plain`` and ``bert``, whose answers have to be in order.

    What a handler raises is the answer to that call and nothing more; ``SystemExit`` ends the program, except in
    one of the ``workers``.

    Args:
        workers: How many threads run handlers; 0 for the main thread.
        protocol: ``"envelope"``, ``"plain"`` or ``"bert"``; by default what ``Reactor.Port`` speaks, else ``"plain"``.
        packet: Bytes of a frame's length, 2 or 4; by default what ``Reactor.Port`` says, else 2.
        max_frame: The longest frame, in bytes; by default what ``Reactor.Port`` says, else 64 MiB.
        descriptors: What is read and written, see :class:`Port`.

    Raises:
        ValueError: One of these is none of that.
    """

    def __init__(self, *, workers=0, protocol=None, packet=None, max_frame=None, descriptors=None):
        protocol = protocol or Settings.protocol
        if protocol not in _PROTOCOLS:
            raise ValueError(f"protocol is one of {', '.join(_PROTOCOLS)}, not {protocol!r}")
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers is a number of threads, not {workers!r}")
        packet = packet or Settings.packet
        self.port = Port(packet, max_frame or Settings.max_frame, descriptors)
        self._wire = _PROTOCOLS[protocol](Terms(self.port.max_frame))
        self._calls = Calls(self.port, self._wire)
        self._handlers = {}
        self._workers = workers
        self._standard = descriptors is None

    def run(self):
        """Answers calls until the other side closes, and returns then.

        A program that is called by its standard input, and has not ended two seconds later, or what ``Reactor.Port``
        gives it as ``shutdown:`` and one more, is killed.
        """
        if self._standard:
            watch.watch(self.port.fileno(), Settings.shutdown_s)
        runner = self._runner()
        self._calls.runner = runner
        try:
            hello = self._wire.hello()
            if hello is not None:
                self.port.write(hello)
            runner.run()
        except EOFError:
            pass
        finally:
            runner.end()

    def call(self, name, *args, timeout=60.0):
        """Calls a function of Elixir's, one of the ``functions:`` of the ``Reactor.Port``, and returns its result.

        In the main thread it reads what comes meanwhile, and keeps it for later. In an event loop it would hold that up: there
        it is ``await self.call_async(...)``.

        Args:
            name: The function's name.
            timeout: How long to wait, in seconds, or None.

        Raises:
            RemoteError: There is no such function, it does not take these arguments, or it raised.
            TimeoutError: There was no answer in time. One that comes later is dropped.
            EOFError: The other side has closed.
            etf.EncodeError, FrameError: An argument cannot be sent, or they are too large.
            RuntimeError: The protocol has no calls this way, or this is an event loop.
        """
        return self._calls.call(name, args, timeout)

    async def call_async(self, name, *args, timeout=60.0):
        """Does what `call` does, in an event loop."""
        return await self._calls.call_async(name, args, timeout)

    def cast(self, name, *args):
        """Calls a function of Elixir's, and waits for nothing."""
        self._calls.cast(name, args)

    def _runner(self):
        asynchronous = any(
            inspect.iscoroutinefunction(getattr(self, name))
            for name in dir(type(self))
            if name.startswith(_PREFIX)
        )
        if asynchronous:
            return Tasks(self)
        if self._workers and not self._wire.ordered:
            return Threads(self, self._workers)
        return Serial(self)

    # ---- for those that run handlers ------------------------------------------

    @property
    def ordered(self):
        """Whether answers have to be in the order of the calls."""
        return self._wire.ordered

    def closed(self):
        """The other side has closed: whoever waits for an answer of its hears so."""
        self._calls.fail_all()

    def receive(self, frame):
        """Takes a frame.

        Returns:
            A request to be answered: its kind, its id, its handler and its arguments. Or None, and then there may be
            something to send at once, which is the second of the two values.
        """
        try:
            kind, id, name, args = self._wire.read(frame)
        except Undecodable as error:
            if error.kind == ANSWER or error.kind == ERROR:
                self._calls.answered(error.id, ERROR, ("undecodable", str(error)))
                return None, None
            return None, self._undecodable(error)
        if kind == CALL or kind == CAST:
            handler = None
            # It may be any term.
            if isinstance(name, str):
                handler = self._handlers.get(name) or self._handler(name)
            if handler is not None:
                return (kind, id, handler, args), None
            return None, self.fail(kind, id, Failure("undefined", _text(name)))
        if kind == ANSWER or kind == ERROR:
            self._calls.answered(id, kind, name)
        return None, None

    def _handler(self, name):
        handler = getattr(self, _PREFIX + name, None)
        if not callable(handler):
            return None
        self._handlers[name] = handler
        return handler

    def _undecodable(self, error):
        if error.id is None and not self._wire.ordered:
            # Nobody waits for it.
            print(f"a frame cannot be decoded: {error}", file=sys.stderr)
            return None
        return self._wire.failure(error.id, Failure("undecodable", str(error)))

    def handle(self, request):
        """Calls the handler of a request, and returns the frame that answers it, or None."""
        kind, id, handler, args = request
        try:
            value = handler(*args)
        except Exception as error:
            return self.raised(request, error)
        return self.answer(kind, id, value)

    def answer(self, kind, id, value):
        """The frame of a result, or of why it cannot be sent; None where nobody waits for it."""
        if kind == CAST and not self._wire.ordered:
            return None
        try:
            frame = self._wire.answer(id, value)
        except EncodeError as error:
            return self._wire.failure(id, Failure("unencodable", str(error)))
        if len(frame) > self.port.max_frame:
            return self._wire.failure(id, Failure("too_large", len(frame), self.port.max_frame))
        return frame

    def raised(self, request, error):
        """The frame of an exception of a handler."""
        kind, id, handler, _args = request
        below = error.__traceback__ and error.__traceback__.tb_next
        # Nothing of the handler has run.
        if isinstance(error, TypeError) and below is None:
            return self.fail(kind, id, Failure("bad_arguments", str(error)))
        trace = "".join(traceback.format_exception(type(error), error, below))
        return self.fail(
            kind, id, Failure("exception", type(error).__name__, _message(error), trace)
        )

    def fail(self, kind, id, failure):
        """The frame of a failure. Of a cast's there is a line in the log, and None where nobody waits for it."""
        if kind == CAST:
            print(f"a cast failed: {failure.kind}: {failure.detail[-1]}", file=sys.stderr)
            if not self._wire.ordered:
                return None
        frame = self._wire.failure(id, failure)
        if len(frame) <= self.port.max_frame:
            return frame
        # As long as a traceback may be.
        most = self.port.max_frame // 8
        detail = [part[:most] if isinstance(part, str) else part for part in failure.detail]
        frame = self._wire.failure(id, Failure(failure.kind, *detail))
        if len(frame) > self.port.max_frame:
            raise FrameError(f"max_frame is {self.port.max_frame}, too little to tell of an error")
        return frame


def _text(name):
    try:
        return name if isinstance(name, str) else repr(name)
    except ValueError:
        # An integer may be too long.
        return f"a name of type {type(name).__name__}"


def _message(error):
    # The text of an exception is its class's code, which may fail too.
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had)"
