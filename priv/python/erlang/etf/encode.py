"""From objects to bytes: all of it, and what has terms inside.

Each type has a function in a table. It gets the object, the list of parts to append to, and what may still be
written. What is of no type in the table may be of a subclass, see ``_by_kind``.
"""

import dataclasses
import datetime
import enum
import struct
import zlib
from operator import itemgetter

from ..terms import Atom, BitString, Fun, ImproperList, Pid, Port, Reference
from . import encode_scalars as scalars
from . import structs
from .encode_scalars import SIZE, header, short_header, too_large
from .errors import EncodeError
from .extent import FUNS, PIDS, PORTS, REFERENCES
from .order import place

_compressed = struct.Struct(">BBI").pack

MAX_SIZE = 64 * 1024 * 1024
MAX_DEPTH = 64

# What may still be written: a list with these, SIZE in front of them and MINOR behind. Each term in another is counted as
# one byte at least, so that what contains itself many times over comes to an end.
_DEPTH = 1
_MAPSET_VERSION = 2

_first = itemgetter(0)

_NIL = b"j"
_SMALL_TUPLES = [bytes([104, size]) for size in range(256)]
_STRING_MOST = 65_535
# Larger maps of Erlang's have no order.
_SORTED_MOST = 32


def encode(
    value,
    *,
    compressed=False,
    max_size=MAX_SIZE,
    max_depth=MAX_DEPTH,
    mapset_version=None,
    minor_version=2,
):
    """Returns the external format of an object, with its version byte: bytes for ``binary_to_term``.

    Args:
        value: What it is made of is in the table above, see ``erlang.etf``.
        compressed: A level from 0 to 9, or True for 6: what gets smaller by that is compressed.
        max_size: So many bytes it may have, before it is compressed.
        max_depth: So many lists, tuples and dicts may be inside each other.
        mapset_version: 2 for an Elixir before 1.15, whose MapSet has that version in it.
        minor_version: As of ``term_to_binary``. With 1 atoms are in Latin-1 where that has them, with 0 floats are text,
            too: for readers that are older than Erlang/OTP 26, or that are not Erlang.

    Raises:
        EncodeError: Something in it has no counterpart, or it is beyond a limit.
    """
    if minor_version not in (0, 1, 2):
        raise TypeError(f"minor_version is 0, 1 or 2, not {minor_version!r}")
    parts = [b"\x83"]
    try:
        _term(value, parts.append, [max_size, max_depth, mapset_version, minor_version])
    except EncodeError as error:
        error.path = "value" + error.path
        raise
    except RecursionError:
        raise EncodeError("it is nested deeper than Python's stack is") from None
    external = b"".join(parts)
    if len(external) > max_size:
        raise too_large("value")
    if compressed is not False:
        return _compress(external, 6 if compressed is True else compressed)
    return external


def _compress(external, level):
    if level not in range(10):
        raise TypeError(f"compressed is a level from 0 to 9, True or False, not {level!r}")
    smaller = _compressed(131, 80, len(external) - 1) + zlib.compress(external[1:], level)
    return smaller if len(smaller) < len(external) else external


def _term(value, append, limits):
    function = _BY_TYPE.get(type(value))
    if function is not None:
        function(value, append, limits)
    else:
        _by_kind(value, append, limits)


# ---- terms with terms inside ------------------------------------------------


def _claim(limits, count):
    limits[SIZE] -= count
    limits[_DEPTH] -= 1
    if limits[_DEPTH] < 0:
        raise EncodeError("it is nested deeper than is allowed, or contains itself", "")
    if limits[SIZE] < 0:
        raise too_large()


def _items(items, append, limits):
    get = _BY_TYPE.get
    item = None
    try:
        for item in items:
            (get(type(item)) or _by_kind)(item, append, limits)
    except EncodeError as error:
        # The first that is this one is the one that failed.
        index = next(index for index, one in enumerate(items) if one is item)
        error.path = f"[{index}]{error.path}"
        raise


def _tuple(value, append, limits):
    size = len(value)
    _claim(limits, size)
    append(_SMALL_TUPLES[size] if size <= 255 else header(105, size))
    _items(value, append, limits)
    limits[_DEPTH] += 1


def _list(value, append, limits):
    # A copy, which nobody changes meanwhile.
    items = tuple(value)
    size = len(items)
    if not size:
        append(_NIL)
        return
    # Erlang writes a list of bytes like a string.
    if type(items[0]) is int and size <= _STRING_MOST and set(map(type, items)) == {int}:
        try:
            append(short_header(107, size) + bytes(items))
            limits[SIZE] -= size
            return
        except ValueError:
            pass
    _claim(limits, size)
    append(header(108, size))
    _items(items, append, limits)
    append(_NIL)
    limits[_DEPTH] += 1


def _improper(value, append, limits):
    _claim(limits, len(value.items) + 1)
    append(header(108, len(value.items)))
    _items(value.items, append, limits)
    try:
        _term(value.tail, append, limits)
    except EncodeError as error:
        error.path = f".tail{error.path}"
        raise
    limits[_DEPTH] += 1


def _dict(value, append, limits):
    items = list(value.items())
    size = len(items)
    _claim(limits, 2 * size)
    append(header(116, size))
    kinds = {type(key) for key, _item in items}
    if len(kinds) < 2 and kinds <= _ORDERED:
        if size <= _SORTED_MOST:
            items.sort(key=_first)
        _pairs(items, append, limits)
    else:
        _pairs_of_any(items, append, limits)
    limits[_DEPTH] += 1


def _pairs(items, append, limits):
    get = _BY_TYPE.get
    key = None
    try:
        for key, item in items:
            _BY_TYPE[type(key)](key, append, limits)
            (get(type(item)) or _by_kind)(item, append, limits)
    except EncodeError as error:
        error.path = f"[{_shown(key)}]{error.path}"
        raise


def _pairs_of_any(pairs, append, limits):
    """Keys of several types, of which two may be the same to Erlang."""
    items = []
    for key, item in pairs:
        parts = []
        try:
            _term(key, parts.append, limits)
        except EncodeError as error:
            error.path = f"[{_shown(key)}]{error.path}"
            raise
        items.append((b"".join(parts), key, item))
    if len({external for external, _key, _item in items}) < len(items):
        raise EncodeError("keys are the same outside Python, as 'a' and b'a' are", "")
    if len(items) <= _SORTED_MOST:
        items.sort(key=lambda item: place(item[0]))
    for external, key, item in items:
        append(external)
        try:
            _term(item, append, limits)
        except EncodeError as error:
            error.path = f"[{_shown(key)}]{error.path}"
            raise


def _shown(key):
    """A key as a path shows it. Only what is short and plain is shown."""
    if isinstance(key, str) and len(key) <= 60:
        return '"' + str.__str__(key) + '"'
    if type(key) in (int, float, bool, type(None)):
        return repr(key)
    return f"a key of type {type(key).__name__}"


# ---- structs and subclasses ---------------------------------------------------


def _set(value, append, limits):
    _dict(structs.of_set(value, limits[_MAPSET_VERSION]), append, limits)


def _date(value, append, limits):
    _dict(structs.of_date(value), append, limits)


def _time(value, append, limits):
    _fields(structs.of_time, value, append, limits)


def _datetime(value, append, limits):
    _fields(structs.of_datetime, value, append, limits)


def _fields(function, value, append, limits):
    try:
        fields = function(value)
    except (OverflowError, ValueError) as error:
        raise EncodeError(str(error), "") from None
    _dict(fields, append, limits)


def _dataclass(value, append, limits):
    try:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    except AttributeError as error:
        raise EncodeError(f"a {type(value).__name__} lacks a field: {error}", "") from None
    _dict(fields, append, limits)


def _by_kind(value, append, limits):
    if isinstance(value, enum.Enum):
        _claim(limits, 0)
        _term(value.value, append, limits)
        limits[_DEPTH] += 1
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _dataclass(value, append, limits)
    else:
        for base, function, plain in _BASES:
            if isinstance(value, base):
                function(plain(value), append, limits)
                return
        kind = type(value)
        name = (
            kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}"
        )
        raise EncodeError(f"an instance of {name} has no counterpart outside Python", "")


def _same(value):
    return value


def _plain(base):
    def all_of(value):
        return base.__getitem__(value, slice(None))

    return all_of


_BY_TYPE = {
    type(None): scalars.none,
    bool: scalars.boolean,
    int: scalars.integer,
    float: scalars.real,
    Atom: scalars.atom,
    str: scalars.text,
    bytes: scalars.binary,
    bytearray: scalars.buffer,
    memoryview: scalars.buffer,
    BitString: scalars.bit_string,
    Pid: scalars.kept(PIDS),
    Port: scalars.kept(PORTS),
    Reference: scalars.kept(REFERENCES),
    Fun: scalars.kept(FUNS),
    tuple: _tuple,
    list: _list,
    ImproperList: _improper,
    dict: _dict,
    set: _set,
    frozenset: _set,
    datetime.date: _date,
    datetime.time: _time,
    datetime.datetime: _datetime,
}

# Keys of one of these types alone have Erlang's order in Python too, and are as different there.
_ORDERED = {int, float, Atom, str, bytes}

# What a subclass overrides does not count. A datetime is a date, and an Atom is a str.
_BASES = [
    (int, scalars.integer, int.__int__),
    (float, scalars.real, float.__float__),
    (Atom, scalars.atom, _same),
    (str, scalars.text, _same),
    (bytes, scalars.binary, _plain(bytes)),
    (bytearray, scalars.buffer, _plain(bytearray)),
    (tuple, _tuple, _plain(tuple)),
    (list, _list, _plain(list)),
    (dict, _dict, dict),
    ((set, frozenset), _set, _same),
    (datetime.datetime, _datetime, _same),
    (datetime.date, _date, _same),
    (datetime.time, _time, _same),
]
