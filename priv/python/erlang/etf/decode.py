"""From bytes to objects: all of it, and what has terms inside.

Each kind of term has a function in a table, by its tag. It gets the data, where the term goes on behind its tag, and
what may still be made; it returns the object, and where the next term begins. A length is compared with what is
left of the data before anything is made of that length.
"""

import struct
import zlib
from collections import Counter

from ..terms import Fun, ImproperList, Pid, Port, Reference
from . import decode_scalars as scalars
from .decode_scalars import short
from .errors import DecodeError
from .extent import FUNS, PIDS, PORTS, REFERENCES
from .structs import to_python

_u32 = struct.Struct(">I").unpack_from

_VERSION = 131
_COMPRESSED = 80
_NIL = 106

MAX_SIZE = 64 * 1024 * 1024
MAX_TERMS = 4 * 1024 * 1024
MAX_DEPTH = 64

# What may still be made: a list with these two.
_TERMS = 0
_DEPTH = 1


def decode(data, *, binaries="auto", max_size=MAX_SIZE, max_terms=MAX_TERMS, max_depth=MAX_DEPTH):
    """Returns the object that a term in the external format stands for.

    Args:
        data: The term with its version byte, as ``term_to_binary`` makes it: bytes, or what has them.
        binaries: What a binary becomes: ``"auto"`` (str if it is UTF-8, else bytes), ``"text"`` (str, else an
            error) or ``"bytes"``.
        max_size: So many bytes it may have, also when it is compressed and has been expanded.
        max_terms: So many terms may be in lists, tuples and maps, all in all.
        max_depth: So many of these may be inside each other. Python's stack ends at a few hundred.

    Raises:
        DecodeError: It is no term, or beyond a limit, or it would lose something: keys of a map that are equal in
            Python, or that Python cannot have as keys; or more than 256 keys, no texts, that all have one hash.
    """
    table = _TABLES.get(binaries)
    if table is None:
        raise TypeError(f"binaries is 'auto', 'text' or 'bytes', not {binaries!r}")
    if type(data) is not bytes:
        data = bytes(memoryview(data))
    if len(data) > max_size:
        raise DecodeError(f"the data has {len(data)} bytes, {max_size} are allowed", 0)
    if not data or data[0] != _VERSION:
        found = data[0] if data else "nothing"
        raise DecodeError(f"a term begins with the version {_VERSION}, not with {found}", 0)
    at = 1
    if data[1:2] == b"P":
        data = _expand(data, max_size)
        at = 0
    try:
        found, at = table[data[at]](data, at + 1, [max_terms, max_depth])
    except (IndexError, struct.error):
        raise DecodeError("the data ends in the middle of a term", len(data)) from None
    except RecursionError:
        raise DecodeError("it is nested deeper than Python's stack is", at) from None
    if at != len(data):
        raise DecodeError(f"{len(data) - at} bytes follow the term", at)
    return found


def _expand(data, max_size):
    if len(data) < 6:
        raise DecodeError("the data ends in the middle of a term", len(data))
    (size,) = _u32(data, 2)
    if size > max_size:
        raise DecodeError(f"it expands to {size} bytes, {max_size} are allowed", 2, _COMPRESSED)
    inflate = zlib.decompressobj()
    try:
        # One more than there should be shows that there are more.
        expanded = inflate.decompress(memoryview(data)[6:], size + 1)
    except zlib.error as error:
        raise DecodeError(f"it cannot be expanded: {error}", 6, _COMPRESSED) from None
    if len(expanded) != size or not inflate.eof:
        raise DecodeError(f"it does not expand to the {size} bytes that it claims", 2, _COMPRESSED)
    if inflate.unused_data:
        raise DecodeError(f"{len(inflate.unused_data)} bytes follow the term", len(data))
    return expanded


# ---- terms inside terms -------------------------------------------------------


def _claim(data, at, limits, count):
    """Notes that so many terms follow; whoever claims gives the depth back."""
    if count > len(data) - at:
        raise short(data)
    limits[_TERMS] -= count
    limits[_DEPTH] -= 1
    if limits[_TERMS] < 0:
        raise DecodeError("there are more terms in it than are allowed", at)
    if limits[_DEPTH] < 0:
        raise DecodeError("it is nested deeper than is allowed", at)


def _containers(table):
    """The functions for lists, tuples and maps, whose elements are decoded by this table."""

    def items(data, at, limits, count):
        found = []
        append = found.append
        for _ in range(count):
            item, at = table[data[at]](data, at + 1, limits)
            append(item)
        return found, at

    def small_tuple(data, at, limits):
        count = data[at]
        _claim(data, at, limits, count)
        found, at = items(data, at + 1, limits, count)
        limits[_DEPTH] += 1
        return tuple(found), at

    def large_tuple(data, at, limits):
        (count,) = _u32(data, at)
        _claim(data, at, limits, count)
        found, at = items(data, at + 4, limits, count)
        limits[_DEPTH] += 1
        return tuple(found), at

    def list_(data, at, limits):
        (count,) = _u32(data, at)
        _claim(data, at, limits, count)
        found, at = items(data, at + 4, limits, count)
        if data[at] == _NIL:
            at += 1
        else:
            tail, at = table[data[at]](data, at + 1, limits)
            found = _with_tail(found, tail)
        limits[_DEPTH] += 1
        return found, at

    def map_(data, at, limits):
        (count,) = _u32(data, at)
        start = at
        _claim(data, at, limits, 2 * count)
        at += 4
        found = {}
        seen = [] if count > SAME_HASH else None
        for _ in range(count):
            place = at
            key, at = table[data[at]](data, at + 1, limits)
            value, at = table[data[at]](data, at + 1, limits)
            try:
                # Nobody can say what the hash of a text will be.
                if seen is None or isinstance(key, (str, bytes)):
                    found[key] = value
                else:
                    seen.append((hash(key), key, value))
            except TypeError:
                raise DecodeError(_no_key(key), place, data[place]) from None
        if seen is not None:
            if too_alike([hashed for hashed, _key, _value in seen]):
                raise DecodeError(TOO_ALIKE, start, 116)
            found.update((key, value) for _hashed, key, value in seen)
        if len(found) != count:
            raise DecodeError("keys of a map are equal in Python, as 1 and 1.0 are", start, 116)
        limits[_DEPTH] += 1
        if "__struct__" in found:
            return to_python(found, start), at
        return found, at

    return {104: small_tuple, 105: large_tuple, 108: list_, 116: map_}


# So many keys of a dict may have the same hash. The time that these take grows with their square, and it is easily
# arranged: a number's hash is what is left of it modulo a prime.
SAME_HASH = 256
TOO_ALIKE = f"more than {SAME_HASH} keys of a map have the same hash in Python"


def too_alike(hashes):
    """True if more than ``SAME_HASH`` of them are the same."""
    if len(hashes) - len(set(hashes)) < SAME_HASH:
        return False
    return max(Counter(hashes).values()) > SAME_HASH


def _with_tail(found, tail):
    # Both forms that nobody writes are what they are to Erlang.
    if not found:
        return tail
    if type(tail) is list:
        return found + tail
    if type(tail) is ImproperList:
        return ImproperList([*found, *tail.items], tail.tail)
    return ImproperList(found, tail)


def _no_key(key):
    return f"a {type(key).__name__}, or one inside a tuple, cannot be a key of a dict"


# ---- tables -----------------------------------------------------------------

_ELSEWHERE = {
    68: "it belongs to the connection of two nodes",
    69: "it belongs to the connection of two nodes",
    80: "a compressed term is not inside another",
    82: "it refers to the atoms of a connection of two nodes",
    117: "no Erlang/OTP since 23 reads this form of a function",
    121: "only the node that made it can read it (option local of term_to_binary)",
}


def _unknown(data, at, _limits):
    tag = data[at - 1]
    raise DecodeError(_ELSEWHERE.get(tag, "there is no term with this tag"), at - 1, tag)


def _table(binary):
    table = [_unknown] * 256
    known = {
        70: scalars.real,
        77: scalars.bit_string,
        97: scalars.small_integer,
        98: scalars.integer,
        99: scalars.real_text,
        100: scalars.atom_latin1,
        106: scalars.nil,
        107: scalars.string,
        109: binary,
        110: scalars.small_big,
        111: scalars.large_big,
        115: scalars.small_atom_latin1,
        118: scalars.atom_utf8,
        119: scalars.small_atom_utf8,
        **_containers(table),
    }
    for kind, tags in ((Pid, PIDS), (Port, PORTS), (Reference, REFERENCES), (Fun, FUNS)):
        known.update(dict.fromkeys(tags, scalars.kept(kind)))
    for tag, function in known.items():
        table[tag] = function
    return table


_TABLES = {
    "auto": _table(scalars.auto),
    "text": _table(scalars.text),
    "bytes": _table(scalars.binary),
}
