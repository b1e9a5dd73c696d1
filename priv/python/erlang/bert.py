"""BERT: terms for programs in several languages.

It is Erlang's external term format with fewer kinds of terms. The rest are tuples that begin with the atom ``bert``:

    =====================  ===================================================
    Python                 BERT
    =====================  ===================================================
    None, True, False      ``{bert, nil}``, ``{bert, true}``, ``{bert, false}``
    dict                   ``{bert, dict, [{Key, Value}]}``
    aware datetime         ``{bert, time, Megaseconds, Seconds, Microseconds}``
    a compiled ``re``      ``{bert, regex, Source, Options}``
    =====================  ===================================================

    >>> from erlang import bert
    >>> bert.decode(bert.encode({"name": None}))
    {'name': None}
"""

import datetime
import re

from . import etf
from .etf import DecodeError, EncodeError
from .etf.decode import MAX_DEPTH, MAX_SIZE, MAX_TERMS, SAME_HASH, TOO_ALIKE, too_alike
from .terms import Atom

_BERT = Atom("bert")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)
_MILLION = 1_000_000

# What is a level here is up to three there.
_DEPTH = 4 * MAX_DEPTH

_FLAGS = {
    "caseless": re.IGNORECASE,
    "multiline": re.MULTILINE,
    "dotall": re.DOTALL,
    "extended": re.VERBOSE,
    # What a str is in any case.
    "unicode": 0,
}

_PLAIN = (int, float, str, bytes, bytearray, memoryview)


def encode(value, *, max_size=MAX_SIZE):
    """Returns the BERT of an object: bytes, ``max_size`` of them at most.

    Raises:
        EncodeError: BERT has nothing for something in it, or it is too large or too deep.
    """
    found = _Encoder(max_size).term(value, MAX_DEPTH, "value")
    return etf.encode(found, max_size=max_size, max_depth=_DEPTH, minor_version=0)


def decode(data, *, binaries="auto", max_size=MAX_SIZE, max_terms=MAX_TERMS):
    """Returns the object that BERT stands for. The options are those of ``etf.decode``.

    An expression from outside is compiled, and may take for ever to match.

    Raises:
        DecodeError: It is no BERT, or beyond a limit.
    """
    limits = {"max_size": max_size, "max_terms": max_terms, "max_depth": _DEPTH}
    try:
        return _plain(etf.decode(data, binaries=binaries, **limits))
    except RecursionError:
        raise DecodeError("it is nested deeper than Python's stack is") from None


class _Encoder:
    """Makes tuples of what BERT has tuples for, and as many as fit into ``size`` bytes at most."""

    def __init__(self, size):
        self.left = size

    def term(self, value, depth, path):
        self.left -= 1
        if self.left < 0:
            raise EncodeError("it is larger than is allowed", path)
        if value is None or value is True or value is False:
            return (_BERT, value)
        if isinstance(value, _PLAIN):
            return value
        if not depth:
            raise EncodeError("it is nested deeper than is allowed, or contains itself", path)
        if isinstance(value, (list, tuple)):
            return self.items(value, depth - 1, path)
        if isinstance(value, dict):
            return (_BERT, Atom("dict"), self.pairs(value, depth - 1, path))
        if isinstance(value, datetime.datetime) and value.utcoffset() is not None:
            seconds, microseconds = divmod((value - _EPOCH) // _MICROSECOND, _MILLION)
            return (_BERT, Atom("time"), *divmod(seconds, _MILLION), microseconds)
        if isinstance(value, re.Pattern):
            options = [Atom(name) for name, flag in _FLAGS.items() if flag and value.flags & flag]
            return (_BERT, Atom("regex"), value.pattern, options)
        raise EncodeError(f"BERT has nothing for an instance of {type(value).__name__}", path)

    def items(self, value, depth, path):
        found = [self.term(item, depth, f"{path}[{at}]") for at, item in enumerate(value)]
        if isinstance(value, list):
            return found
        if found and type(found[0]) is Atom and found[0] == _BERT:
            raise EncodeError("a tuple must not begin with the atom bert", path)
        return tuple(found)

    def pairs(self, value, depth, path):
        found = []
        for key, item in value.items():
            inner = f'{path}["{key:.60}"]' if isinstance(key, str) else f"{path}[...]"
            found.append((self.term(key, depth, inner), self.term(item, depth, inner)))
        return found


def _plain(term):
    kind = type(term)
    if kind is list:
        return [_plain(item) for item in term]
    if kind is tuple:
        if term and type(term[0]) is Atom and term[0] == _BERT:
            return _complex(term)
        return tuple([_plain(item) for item in term])
    if kind is dict:
        # It is not BERT, but what else should it be?
        return _dict(list(term.items()))
    return term


def _complex(term):
    size = len(term)
    what = term[1] if size > 1 else _BERT
    if size == 2 and (what is None or what is True or what is False):
        return what
    if size == 3 and what == "dict" and type(term[2]) is list:
        return _dict(term[2])
    if size == 5 and what == "time" and all(type(part) is int for part in term[2:]):
        return _time(*term[2:])
    if size == 4 and what == "regex" and type(term[3]) is list:
        return _regex(term[2], term[3])
    raise DecodeError("a tuple that begins with bert is none of BERT's types")


def _dict(pairs):
    items = []
    hashes = []
    for pair in pairs:
        if type(pair) is not tuple or len(pair) != 2:
            raise DecodeError("a dict is a list of pairs")
        key = _plain(pair[0])
        try:
            hashes.append(hash(key))
        except TypeError:
            raise DecodeError(f"a {type(key).__name__} cannot be a key of a dict") from None
        items.append((key, _plain(pair[1])))
    if len(pairs) > SAME_HASH and too_alike(hashes):
        raise DecodeError(TOO_ALIKE)
    found = dict(items)
    if len(found) != len(pairs):
        raise DecodeError("keys of a dict are equal in Python")
    return found


def _time(mega, seconds, microseconds):
    try:
        return _EPOCH + datetime.timedelta(0, mega * _MILLION + seconds, microseconds)
    except OverflowError:
        raise DecodeError("a time is out of range") from None


def _regex(source, options):
    flags = 0
    for option in options:
        if not isinstance(option, str) or option not in _FLAGS:
            raise DecodeError("a regular expression has an option that Python's have not")
        flags |= _FLAGS[option]
    try:
        return re.compile(source, flags)
    except (re.error, OverflowError, RecursionError, TypeError, ValueError):
        raise DecodeError("a regular expression cannot be compiled") from None
