"""BERT-RPC: ``{call, module, function, arguments}`` is answered by ``{reply, result}``, in order.

The one pipe carries both directions: ``call``, ``cast`` and ``info`` are requests, the rest are answers. A stream is put
together before it is sent, and taken whole before it counts: all requests and answers of a direction come one after the
other, so one that waits would hold up everything behind it.
"""

import struct
from functools import partial

from .. import bert
from ..bert_rpc.infos import Infos
from ..bert_rpc.packets import Error, PacketError, error_of, request_terms
from ..bert_rpc.reply import Reply, answer_to, value_of
from ..etf import DecodeError, EncodeError
from ..terms import Atom
from .errors import Refused, Undecodable
from .requests import ANSWER, CALL, CAST, ERROR, NOTHING

_KINDS = {"call": CALL, "cast": CAST}
_NAMES = {CALL: "call", CAST: "cast"}

# Of a function that is called without one.
_MODULE = "port"

# Type, code and class of what failed, by the specification's numbers.
_NO_FUNCTION = ("server", 2, "BERTError")
_BAD_ARGUMENTS = ("user", 0, "TypeError")
_UNREADABLE = ("protocol", 2, "BERTError")
_UNDESIGNATED = ("server", 0, "BERTError")

_NOTHING = (NOTHING, None, None, None)
_PIECE = 64 * 1024
# Of one request or answer: there are three kinds.
_MOST_INFOS = 16
_TOO_MANY_INFOS = f"more than {_MOST_INFOS} info packets in a row"
_length = struct.Struct(">H").unpack_from


class Bert:
    """Packets of BERT-RPC.

    Args:
        terms: What encodes and decodes.
        call_back: What makes a callback, see `Protocol`, or None.
    """

    ordered = True
    # Exceptions of handlers that are answered as they are.
    errors = (Error,)

    def __init__(self, terms, call_back=None):
        self._decode = partial(bert.decode, max_size=terms.max_size)
        self._encode = partial(bert.encode, max_size=terms.max_size)
        self._max_size = terms.max_size
        self._max_stream = terms.max_stream
        self._call_back = call_back
        # What info packets have said of the packet that comes next.
        self._infos = []
        # What waits for the end of its stream: a packet's term, its infos, the chunks so far and what they may still have.
        self._streamed = None

    def hello(self):
        """Nothing is said that was not asked."""

    # ---- what comes -------------------------------------------------------------

    def read(self, frame):
        """Returns what a frame says: its kind, who asked, its function and its arguments; of an answer its `Reply` or error."""
        if self._streamed is not None:
            return self._chunk(frame)
        try:
            term = self._decode(frame)
        except DecodeError as error:
            name = _name_of(frame)
            kind = ANSWER if name in ("reply", "noreply", "error") else CALL
            term = Undecodable(None, str(error), kind)
        else:
            name = term[0] if type(term) is tuple and term and type(term[0]) is Atom else None
        if name == "info":
            known = type(term) is tuple and len(term) == 3
            info = term[1:] if known else (None, None)
            # Of those that are too many one is kept: that of a stream, which still has to be skipped.
            if len(self._infos) <= _MOST_INFOS or info[0] == "stream":
                self._infos[_MOST_INFOS:] = [info]
            return _NOTHING
        infos, self._infos = self._infos, []
        if name in ("call", "cast", "reply") and any(command == "stream" for command, _ in infos):
            self._streamed = [term, infos, [], self._max_stream]
            return _NOTHING
        return self._whole(term, infos, None)

    def _chunk(self, frame):
        streamed = self._streamed
        if frame:
            # All of it comes in any case. What is too much is not kept.
            streamed[3] -= len(frame)
            if streamed[3] >= 0:
                streamed[2].append(frame)
            else:
                streamed[2].clear()
            return _NOTHING
        self._streamed = None
        term, infos, chunks, left = streamed
        return self._whole(term, infos, chunks, left < 0)

    def _whole(self, term, infos, chunks, too_large=False):
        if isinstance(term, Undecodable):
            raise term
        if type(term) is tuple and term and isinstance(term[0], str):
            name = term[0]
            if name in _KINDS and len(term) == 4 and type(term[3]) is list:
                return self._request(term, infos, chunks, too_large)
            if name == "reply" and len(term) == 2 or name == "noreply" and len(term) == 1:
                return self._reply(term, infos, chunks, too_large)
            if name == "error" and len(term) == 2:
                try:
                    error = error_of(term[1])
                except PacketError as wrong:
                    raise Undecodable(None, str(wrong), ANSWER) from None
                return ERROR, None, error, error
        raise Undecodable(None, "a request is {call or cast, module, function, arguments}")

    def _request(self, term, infos, chunks, too_large):
        name, _module, function, args = term
        said = Infos()
        for command, options in infos:
            said.add(command, options)
        kind = _KINDS[name]
        asked = _Asked(kind, said)
        if len(infos) > _MOST_INFOS:
            raise Refused(kind, asked, _TOO_MANY_INFOS)
        refused = said.refused(name, self._call_back)
        if refused:
            raise Refused(kind, asked, refused.detail)
        if too_large:
            raise Refused(kind, asked, self._too_large())
        if chunks is not None:
            args = [*args, iter(chunks)]
        return kind, asked, function, args

    def _reply(self, term, infos, chunks, too_large):
        if len(infos) > _MOST_INFOS:
            raise Undecodable(None, _TOO_MANY_INFOS, ANSWER)
        if too_large:
            error = Error(self._too_large(), type="server")
            return ERROR, None, error, error
        reply = Reply(*term[1:] if chunks is None else [b"".join(chunks)])
        for command, options in infos:
            reply.add(command, options)
        return ANSWER, None, reply, reply

    def _too_large(self):
        return f"the stream has more than {self._max_stream} bytes"

    # ---- what goes --------------------------------------------------------------

    def request(self, kind, _id, name, arguments, stream=None, validation=None, callback=None):
        """The packets that call a function of the other side: a module and a function, or the latter alone."""
        module, function = name if type(name) is tuple else (_MODULE, name)
        terms = request_terms(
            _NAMES[kind], module, function, arguments, stream, validation, callback
        )
        return self._packets(terms, stream)

    def answer(self, asked, value):
        """The packets of a result. What a result leaves for later is done now, and a callback made."""
        if asked.kind == CAST:
            if asked.callback is not None:
                service, module, function, first = asked.callback
                self._call_back(service, module, function, [*first, value_of(value)])
            return self._encode((Atom("noreply"),))
        return self._packets(*answer_to(value, asked.validation))

    def _packets(self, terms, stream):
        packets = [self._encode((Atom(name), *rest)) for name, *rest in terms]
        return packets if stream is None else packets + self._stream(stream)

    def _stream(self, chunks):
        pieces, left, most = [], self._max_stream, min(_PIECE, self._max_size)
        for chunk in chunks:
            data = bytes(memoryview(chunk).cast("B"))
            left -= len(data)
            if left < 0:
                raise Error(self._too_large(), type="server")
            pieces += [data[at : at + most] for at in range(0, len(data), most)]
        return [*pieces, b""]

    def failure(self, asked, failure):
        """The packet of a failure. Who casts hears of none."""
        if asked is not None and asked.kind == CAST:
            return self._encode((Atom("noreply"),))
        (kind, code, name), text, backtrace = _FAILURES[failure.kind](*failure.detail)
        try:
            return self._encode((Atom("error"), (Atom(kind), code, name, text, backtrace)))
        except EncodeError:
            # What a handler has put into it.
            text = "the error cannot be told: it is too large, or BERT has nothing for it"
            return self._encode((Atom("error"), (Atom("server"), 0, "BERTError", text, [])))


class _Asked:
    """What has to be known of a request when it is answered."""

    __slots__ = ("callback", "kind", "validation")

    def __init__(self, kind, infos):
        self.kind = kind
        self.validation = infos.validation
        self.callback = infos.callback


def _name_of(frame):
    # The atom in front of a tuple that cannot be decoded as a whole.
    if frame[:2] == b"\x83h" and len(frame) > 6:
        tag = frame[3:4]
        if tag in (b"w", b"s"):
            return frame[5 : 5 + frame[4]].decode("latin-1")
        if tag in (b"d", b"v"):
            return frame[6 : 6 + _length(frame, 4)[0]].decode("latin-1")
    return None


_FAILURES = {
    "undefined": lambda name: (_NO_FUNCTION, f"there is no handler for {name!s:.100}", []),
    "bad_arguments": lambda text: (_BAD_ARGUMENTS, text, []),
    "undecodable": lambda text: (_UNREADABLE, text, []),
    "unencodable": lambda text: (_UNDESIGNATED, text, []),
    "refused": lambda text: (_UNDESIGNATED, text, []),
    "too_large": lambda size, most: (_UNDESIGNATED, f"an answer of {size} bytes, {most} fit", []),
    "exception": lambda kind, text, traceback: (("user", 0, kind), text, traceback.splitlines()),
    "said": lambda error: (
        (error.type, error.code, error.name),
        error.detail,
        error.backtrace,
    ),
}
