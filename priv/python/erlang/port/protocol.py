"""Handlers that are called by name."""

import inspect
import sys
import traceback

from ..etf import EncodeError
from . import watch
from .bert import Bert
from .calls import Calls
from .envelope import Envelope
from .errors import FrameError, Refused, Undecodable
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
        max_stream: The longest stream of BERT-RPC, in bytes; by default what ``Reactor.Port`` says, else 64 MiB.
        call_back: With the protocol ``bert``, a function that is called with the service, module, function and arguments of
            a callback when the cast that wants it is over. Without one such casts are refused: a callback has this
            program connect to what the caller names.

    Raises:
        ValueError: One of these is none of that.
    """

    def __init__(
        self,
        *,
        workers=0,
        protocol=None,
        packet=None,
        max_frame=None,
        descriptors=None,
        max_stream=None,
        call_back=None,
    ):
        protocol = protocol or Settings.protocol
        if protocol not in _PROTOCOLS:
            raise ValueError(f"protocol is one of {', '.join(_PROTOCOLS)}, not {protocol!r}")
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"workers is a number of threads, not {workers!r}")
        if call_back is not None and protocol != "bert":
            raise ValueError(f"call_back is for the protocol bert, not for {protocol}")
        packet = packet or Settings.packet
        self.port = Port(packet, max_frame or Settings.max_frame, descriptors)
        terms = Terms(
            self.port.max_frame, Settings.max_stream if max_stream is None else max_stream
        )
        self._wire = Bert(terms, call_back) if protocol == "bert" else _PROTOCOLS[protocol](terms)
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

    def call(self, name, *args, timeout=60.0, stream=None, validation=None):
        """Calls a function of Elixir's, one of the ``functions:`` of the ``Reactor.Port``, and returns its result.

        In the main thread it reads what comes meanwhile, and keeps it for later. In an event loop it would hold that up: there
        it is ``await self.call_async(...)``.

        With the protocol ``bert`` it is one of those that ``expose:`` names. An Elixir function that is called so must not wait for
        a call of the same script: that would be answered after the handler that waits here.

        Args:
            name: The function's name; with ``bert`` also ``(module, function)``, else the module is ``port``.
            timeout: How long to wait, in seconds, or None.
            stream, validation: With ``bert``, see `request`.

        Raises:
            RemoteError: It failed, or there is no such function.
            bert_rpc.Error: So with ``bert``.
            TimeoutError: There was no answer in time. What had begun goes on.
            EOFError: The other side has closed.
            EncodeError, FrameError: An argument cannot be sent, or they are too large.
            ValueError: There are options that the protocol does not have.
            RuntimeError: The protocol has no calls this way, or this is an event loop; or, with ``bert``, 1,024 requests have no
                answer yet.
        """
        options = _given(stream=stream, validation=validation)
        return self._value(self._calls.call(name, args, timeout, options))

    async def call_async(self, name, *args, timeout=60.0, stream=None, validation=None):
        """Does what `call` does, in an event loop."""
        options = _given(stream=stream, validation=validation)
        return self._value(await self._calls.call_async(name, args, timeout, options))

    def _value(self, result):
        # By BERT-RPC it is a Reply.
        return result.value if self._wire.ordered else result

    def request(self, name, *args, timeout=60.0, stream=None, validation=None):
        """Calls as `call` does, by the protocol ``bert``, and returns a ``bert_rpc.Reply``: all that is said of the result.

        Args:
            stream: An iterable of bytes, which the function gets as one argument more. It is taken as a whole before
                it is sent.
            validation: The token of a value that is kept. If that is valid the reply says so and has no value.
        """
        return self._calls.call(name, args, timeout, self._for_request(stream, validation))

    async def request_async(self, name, *args, timeout=60.0, stream=None, validation=None):
        """Does what `request` does, in an event loop."""
        options = self._for_request(stream, validation)
        return await self._calls.call_async(name, args, timeout, options)

    def _for_request(self, stream, validation):
        if not isinstance(self._wire, Bert):
            raise ValueError("request is for the protocol bert: use call")
        return _given(stream=stream, validation=validation)

    def cast(self, name, *args, stream=None, callback=None):
        """Calls a function of Elixir's, and waits for nothing. With ``bert`` it is told by a line in the log if that failed.

        Args:
            stream: With ``bert``, see `request`.
            callback: With ``bert``, ``(service, module, function, args)``: ``"host:port"``, and who is sent a cast there
                with these arguments and the result, if ``callbacks:`` allows it.
        """
        self._calls.cast(name, args, _given(stream=stream, callback=callback))

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
        except Refused as error:
            return None, self.fail(error.kind, error.id, Failure("refused", str(error)))
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
            return self.fail(kind, id, Failure("unencodable", str(error)))
        except Exception as error:
            # Of what the result has left for later, as a stream.
            return self.raised((kind, id, None, None), error)
        # What is a list of frames has been looked at.
        if type(frame) is bytes and len(frame) > self.port.max_frame:
            return self._wire.failure(id, Failure("too_large", len(frame), self.port.max_frame))
        return frame

    def raised(self, request, error):
        """The frame of an exception of a handler."""
        kind, id, _handler, _args = request
        if isinstance(error, self._wire.errors):
            return self.fail(kind, id, Failure("said", error))
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


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


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
