"""Functions that others call."""

import inspect
import logging
import traceback

from ..etf import DecodeError, EncodeError
from ..terms import Atom
from .infos import Infos
from .packets import Error, PacketError
from .reply import answer_to, value_of

_log = logging.getLogger(__name__)


def serve(packets, expose, *, call_back=None):
    """Answers requests, one after the other, until the other side closes.

    What a function raises is answered as an error that says what kind and where, and is logged; `Error` is
    answered as it is. With a stream a function gets one argument more, an iterator of chunks.

    Args:
        packets: `Packets` to the client.
        expose: What can be called, and nothing else: ``{"module": {"function": function}}``.
        call_back: A function that is called with the service, module, function and arguments of a callback, when the cast
            that wants it is over. Without one such casts are refused: a callback has this program connect to what
            the client names.

    Raises:
        OSError: The connection fails otherwise than by its end, as by a timeout.
    """
    connection = _Connection(packets, expose, call_back)
    try:
        while True:
            connection.turn()
    except (ConnectionError, EOFError, _Broken):
        pass


class _Connection:
    def __init__(self, packets, expose, call_back):
        self.packets = packets
        self.expose = expose
        self.call_back = call_back
        self.infos = Infos()

    def turn(self):
        """Reads a packet and answers it."""
        try:
            term = self.packets.receive_term()
        except PacketError as error:
            self.refuse(Error(str(error), type="protocol", code=1))
        except DecodeError as error:
            self.refuse(Error(str(error), type="protocol", code=2))
        else:
            if type(term) is tuple and len(term) == 3 and term[0] == "info":
                self.infos.add(*term[1:])
            else:
                self.answer(term)

    def refuse(self, error):
        infos, self.infos = self.infos, Infos()
        if infos.stream:
            self.skip(_Incoming(self.packets))
        self.fail(error)

    def answer(self, term):
        try:
            kind, function, args = self.meant(term)
        except Error as error:
            self.refuse(error)
            return
        infos, self.infos = self.infos, Infos()
        chunks = _Incoming(self.packets) if infos.stream else None
        if kind == "cast":
            self.packets.send_term("noreply")
        if infos.stream:
            outcome = _outcome(function, [*args, chunks])
            self.skip(chunks)
        else:
            outcome = _outcome(function, args)
        if kind == "call":
            self.reply(outcome, infos.validation)
        elif infos.callback and not isinstance(outcome, Error):
            service, module, name, first = infos.callback
            value = _outcome(value_of, [outcome])
            if not isinstance(value, Error):
                _outcome(self.call_back, [service, module, name, [*first, value]])

    def skip(self, chunks):
        """Takes what is left of a stream, so that the next packet is a request."""
        try:
            for _chunk in chunks:
                pass
        except _Broken as broken:
            self.fail(Error(str(broken), type="server"))
            raise

    def meant(self, term):
        """What a request asks for, or an `Error` is raised."""
        if type(term) is not tuple or len(term) != 4 or term[0] not in ("call", "cast"):
            term = (None, None, None, None)
        kind, module, name, args = term
        if type(module) is not Atom or type(name) is not Atom or type(args) is not list:
            detail = "a request is {call, Module, Function, Arguments}, a cast, or an info packet"
            raise Error(detail, type="protocol")
        refused = self.infos.refused(kind, self.call_back)
        if refused:
            raise refused
        if module not in self.expose:
            raise Error(f"module '{module:.100}' not found", type="server", code=1)
        function = self.expose[module].get(name)
        count = len(args) + (1 if self.infos.stream else 0)
        if function is None or not _takes(function, count):
            detail = f"function '{name:.100}/{count}' not found on module '{module:.100}'"
            raise Error(detail, type="server", code=2)
        return str(kind), function, args

    def reply(self, outcome, token):
        if not isinstance(outcome, Error):
            outcome = _outcome(answer_to, [outcome, token])
        if isinstance(outcome, Error):
            self.fail(outcome)
            return
        terms, chunks = outcome
        try:
            packets = [self.packets.encode(*term) for term in terms]
        except EncodeError as error:
            self.fail(Error(str(error), type="server"))
            return
        for packet in packets:
            self.packets.send(packet)
        if chunks is not None:
            self.stream(chunks)

    def stream(self, chunks):
        try:
            self.packets.send_stream(chunks)
        except OSError:
            raise
        except Exception as error:
            # An error cannot be answered in the middle of it: the connection ends without the stream's end.
            _log.exception("a stream failed")
            raise EOFError("a stream failed") from error

    def fail(self, error):
        term = (Atom(error.type), error.code, error.name, error.detail, error.backtrace)
        try:
            packet = self.packets.encode("error", term)
        except EncodeError:
            # What a function of theirs has put into it.
            detail = "the error cannot be told: it is too large, or BERT has nothing for it"
            term = (Atom("server"), 0, "BERTError", detail, [])
            packet = self.packets.encode("error", term)
        self.packets.send(packet)


def _takes(function, count):
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        # Some that are written in C do not say what they take.
        return True
    return True


def _outcome(function, args):
    """What a function returns, or an `Error` with what it raises: not with its message, which may tell secrets."""
    try:
        return function(*args)
    except Error as error:
        return error
    except _Broken as broken:
        return Error(str(broken), type="server")
    except Exception as error:
        _log.exception("a function failed")
        frames = traceback.extract_tb(error.__traceback__)[1:]
        lines = [f"{frame.filename}:{frame.lineno}: {frame.name}" for frame in frames]
        detail = "the function failed, see the server's log"
        return Error(detail, name=type(error).__name__, backtrace=lines)


class _Broken(Exception):
    """A stream that comes in has no end. Nobody knows where the next request is."""


class _Incoming:
    """The chunks of a stream that comes in; once it is broken it stays so."""

    def __init__(self, packets):
        self._chunks = packets.receive_stream()
        self._broken = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._broken is None:
            try:
                return next(self._chunks)
            except (EOFError, OSError, PacketError) as error:
                self._broken = str(error)
        raise _Broken(self._broken)
