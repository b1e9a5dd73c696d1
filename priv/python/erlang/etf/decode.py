"""From bytes to objects.

Each kind of term has a function in a table, by its tag. It gets the data, where the term goes on behind its tag, and
what may still be made; it returns the object, and where the next term begins. A length is compared with what is
left of the data before anything is made of that length.
"""

import re
import struct
import zlib
from collections import Counter
from math import isfinite

from ..terms import Atom, BitString, Fun, ImproperList, Pid, Port, Reference
from .errors import DecodeError
from .extent import FUNS, PIDS, PORTS, REFERENCES, end_of
from .structs import to_python

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_f64 = struct.Struct(">d").unpack_from

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


def _short(data):
    return DecodeError("the data ends in the middle of a term", len(data))


# ---- numbers ----------------------------------------------------------------


def _small_integer(data, at, _limits):
    return data[at], at + 1


def _integer(data, at, _limits):
    return _i32(data, at)[0], at + 4


def _small_big(data, at, _limits):
    return _big(data, at + 2, data[at], data[at + 1])


def _large_big(data, at, _limits):
    return _big(data, at + 5, _u32(data, at)[0], data[at + 4])


def _big(data, at, size, negative):
    end = at + size
    if end > len(data):
        raise _short(data)
    number = int.from_bytes(data[at:end], "little")
    return -number if negative else number, end


def _float(data, at, _limits):
    (number,) = _f64(data, at)
    if not isfinite(number):
        raise DecodeError("a float is a finite number", at, 70)
    return number, at + 8


_decimal = re.compile(rb"([-+]?\d+\.\d+(?:[eE][-+]?\d+)?)\0*", re.ASCII).fullmatch


def _float_text(data, at, _limits):
    end = at + 31
    if end > len(data):
        raise _short(data)
    text = _decimal(data[at:end])
    number = float(text[1]) if text else None
    if number is None or not isfinite(number):
        raise DecodeError("a float is a finite number", at, 99)
    return number, end


# ---- atoms ------------------------------------------------------------------

# The same few hundred come again and again. It takes no more once it is full, since others choose what comes.
_atoms = {b"nil": None, b"true": True, b"false": False}
_ATOMS_KEPT = 4096


def _small_atom_utf8(data, at, _limits):
    end = at + 1 + data[at]
    name = data[at + 1 : end]
    try:
        return _atoms[name], end
    except KeyError:
        return _atom(data, at, end, name, "utf-8"), end


def _atom_utf8(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    return _atom(data, at, end, data[at + 2 : end], "utf-8"), end


def _small_atom_latin1(data, at, _limits):
    end = at + 1 + data[at]
    return _atom(data, at, end, data[at + 1 : end], "latin-1"), end


def _atom_latin1(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    return _atom(data, at, end, data[at + 2 : end], "latin-1"), end


def _atom(data, at, end, name, encoding):
    if end > len(data):
        raise _short(data)
    try:
        text = name.decode(encoding)
        name = text.encode()
        if name in _atoms:
            return _atoms[name]
        atom = Atom(text)
    except ValueError as error:
        raise DecodeError(f"that is no atom: {error}", at, data[at - 1]) from None
    if len(_atoms) < _ATOMS_KEPT:
        _atoms[name] = atom
    return atom


# ---- binaries ---------------------------------------------------------------


def _auto(data, at, _limits):
    end = at + 4 + _u32(data, at)[0]
    if end > len(data):
        raise _short(data)
    found = data[at + 4 : end]
    try:
        return found.decode(), end
    except UnicodeDecodeError:
        return found, end


def _bytes(data, at, _limits):
    end = at + 4 + _u32(data, at)[0]
    if end > len(data):
        raise _short(data)
    return data[at + 4 : end], end


def _text(data, at, _limits):
    found, end = _bytes(data, at, _limits)
    try:
        return found.decode(), end
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"a binary is not UTF-8: {error.reason}", at + 4 + error.start, 109
        ) from None


def _bit_string(data, at, _limits):
    bits = data[at + 4]
    end = at + 5 + _u32(data, at)[0]
    if end > len(data):
        raise _short(data)
    found = data[at + 5 : end]
    if not found or not 1 <= bits <= 8:
        raise DecodeError(f"{len(found)} bytes of which the last has {bits} bits", at, 77)
    if bits == 8:
        return found, end
    # The bits that do not count are as if there were none, so that equal bit strings are equal.
    return BitString(found[:-1] + bytes([found[-1] & (0xFF00 >> bits)]), bits), end


# ---- terms that are kept as they are ------------------------------------------


def _kept(kind):
    def keep(data, at, _limits):
        end = end_of(data, at - 1)
        return kind(data[at - 1 : end]), end

    return keep


# ---- terms inside terms -------------------------------------------------------


def _claim(data, at, limits, count):
    """Notes that so many terms follow; whoever claims gives the depth back."""
    if count > len(data) - at:
        raise _short(data)
    limits[_TERMS] -= count
    limits[_DEPTH] -= 1
    if limits[_TERMS] < 0:
        raise DecodeError("there are more terms in it than are allowed", at)
    if limits[_DEPTH] < 0:
        raise DecodeError("it is nested deeper than is allowed", at)


def _string(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    if end > len(data):
        raise _short(data)
    return list(data[at + 2 : end]), end


def _nil(_data, at, _limits):
    return [], at


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
    121: "only the node that made it can read it (option local of term_to_binary)",
}


def _unknown(data, at, _limits):
    tag = data[at - 1]
    raise DecodeError(_ELSEWHERE.get(tag, "there is no term with this tag"), at - 1, tag)


def _table(binary):
    table = [_unknown] * 256
    known = {
        70: _float,
        77: _bit_string,
        97: _small_integer,
        98: _integer,
        99: _float_text,
        100: _atom_latin1,
        106: _nil,
        107: _string,
        109: binary,
        110: _small_big,
        111: _large_big,
        115: _small_atom_latin1,
        118: _atom_utf8,
        119: _small_atom_utf8,
        **_containers(table),
    }
    for kind, tags in ((Pid, PIDS), (Port, PORTS), (Reference, REFERENCES), (Fun, FUNS)):
        known.update(dict.fromkeys(tags, _kept(kind)))
    for tag, function in known.items():
        table[tag] = function
    return table


_TABLES = {"auto": _table(_auto), "text": _table(_text), "bytes": _table(_bytes)}
