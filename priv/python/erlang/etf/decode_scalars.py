"""From bytes to objects: what has no terms inside.

Each function gets the data, and where the term goes on behind its tag; it returns the object, and where the next
term begins. A length is compared with what is left of the data before anything is made of that length.
"""

import re
import struct
from math import isfinite

from ..terms import Atom, BitString
from .errors import DecodeError
from .extent import end_of

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_f64 = struct.Struct(">d").unpack_from


def short(data):
    """The error of data that has no end."""
    return DecodeError("the data ends in the middle of a term", len(data))


# ---- numbers ----------------------------------------------------------------


def small_integer(data, at, _limits):
    return data[at], at + 1


def integer(data, at, _limits):
    return _i32(data, at)[0], at + 4


def small_big(data, at, _limits):
    return _big(data, at + 2, data[at], data[at + 1])


def large_big(data, at, _limits):
    return _big(data, at + 5, _u32(data, at)[0], data[at + 4])


def _big(data, at, size, negative):
    end = at + size
    if end > len(data):
        raise short(data)
    number = int.from_bytes(data[at:end], "little")
    return -number if negative else number, end


def real(data, at, _limits):
    (number,) = _f64(data, at)
    if not isfinite(number):
        raise DecodeError("a float is a finite number", at, 70)
    return number, at + 8


_decimal = re.compile(rb"([-+]?\d+\.\d+(?:[eE][-+]?\d+)?)\0*", re.ASCII).fullmatch


def real_text(data, at, _limits):
    end = at + 31
    if end > len(data):
        raise short(data)
    text = _decimal(data[at:end])
    number = float(text[1]) if text else None
    if number is None or not isfinite(number):
        raise DecodeError("a float is a finite number", at, 99)
    return number, end


# ---- atoms ------------------------------------------------------------------

# The same few hundred come again and again. It takes no more once it is full, since others choose what comes.
_atoms = {b"nil": None, b"true": True, b"false": False}
_ATOMS_KEPT = 4096


def small_atom_utf8(data, at, _limits):
    end = at + 1 + data[at]
    name = data[at + 1 : end]
    try:
        return _atoms[name], end
    except KeyError:
        return _atom(data, at, end, name, "utf-8"), end


def atom_utf8(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    return _atom(data, at, end, data[at + 2 : end], "utf-8"), end


def small_atom_latin1(data, at, _limits):
    end = at + 1 + data[at]
    return _atom(data, at, end, data[at + 1 : end], "latin-1"), end


def atom_latin1(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    return _atom(data, at, end, data[at + 2 : end], "latin-1"), end


def _atom(data, at, end, name, encoding):
    if end > len(data):
        raise short(data)
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


def auto(data, at, _limits):
    end = at + 4 + _u32(data, at)[0]
    if end > len(data):
        raise short(data)
    found = data[at + 4 : end]
    try:
        return found.decode(), end
    except UnicodeDecodeError:
        return found, end


def binary(data, at, _limits):
    end = at + 4 + _u32(data, at)[0]
    if end > len(data):
        raise short(data)
    return data[at + 4 : end], end


def text(data, at, _limits):
    found, end = binary(data, at, _limits)
    try:
        return found.decode(), end
    except UnicodeDecodeError as error:
        raise DecodeError(
            f"a binary is not UTF-8: {error.reason}", at + 4 + error.start, 109
        ) from None


def bit_string(data, at, _limits):
    bits = data[at + 4]
    end = at + 5 + _u32(data, at)[0]
    if end > len(data):
        raise short(data)
    found = data[at + 5 : end]
    if not found or not 1 <= bits <= 8:
        raise DecodeError(f"{len(found)} bytes of which the last has {bits} bits", at, 77)
    if bits == 8:
        return found, end
    # The bits that do not count are as if there were none, so that equal bit strings are equal.
    return BitString(found[:-1] + bytes([found[-1] & (0xFF00 >> bits)]), bits), end


# ---- terms that are kept as they are ------------------------------------------


def kept(kind):
    """The function for what is kept as it is, in an object of this kind."""

    def keep(data, at, _limits):
        end = end_of(data, at - 1)
        return kind(data[at - 1 : end]), end

    return keep


def string(data, at, _limits):
    end = at + 2 + _u16(data, at)[0]
    if end > len(data):
        raise short(data)
    return list(data[at + 2 : end]), end


def nil(_data, at, _limits):
    return [], at
