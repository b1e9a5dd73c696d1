"""From objects to bytes: what has nothing else inside.

Each function gets the object, the list of parts to append to, and what may still be written.
"""

import struct
from math import isfinite

from .errors import DecodeError, EncodeError
from .extent import end_of

header = struct.Struct(">BI").pack
short_header = struct.Struct(">BH").pack
_small = struct.Struct(">Bi").pack
_double = struct.Struct(">Bd").pack
_bits_header = struct.Struct(">BIB").pack
_big_header = struct.Struct(">BIB").pack

# Of what may still be written: how many bytes, and as of which minor version.
SIZE = 0
MINOR = 3

_SMALL_INTEGERS = [bytes([97, number]) for number in range(256)]
_SMALL_ATOMS = [bytes([119, size]) for size in range(256)]


def too_large(path=""):
    """The error of what is beyond ``max_size``."""
    return EncodeError("it is larger than is allowed", path)


def none(_value, append, limits):
    if limits[MINOR] < 2:
        append(b"d\0\3nil")
    else:
        append(b"w\3nil")


def boolean(value, append, limits):
    if limits[MINOR] < 2:
        append(b"d\0\4true" if value else b"d\0\5false")
    else:
        append(b"w\4true" if value else b"w\5false")


def integer(value, append, limits):
    if 0 <= value <= 255:
        append(_SMALL_INTEGERS[value])
    elif -0x80000000 <= value <= 0x7FFFFFFF:
        append(_small(98, value))
    else:
        size = (value.bit_length() + 7) // 8
        limits[SIZE] -= size
        if limits[SIZE] < 0:
            raise too_large()
        sign = 1 if value < 0 else 0
        append(bytes([110, size, sign]) if size <= 255 else _big_header(111, size, sign))
        append(abs(value).to_bytes(size, "little"))


def real(value, append, limits):
    if not isfinite(value):
        raise EncodeError(f"the float {value} has no counterpart outside Python", "")
    if limits[MINOR]:
        append(_double(70, value))
    else:
        append(b"c" + (b"%.20e" % value).ljust(31, b"\0"))


def atom(value, append, limits):
    name = _utf8(value)
    size = len(name)
    if limits[MINOR] < 2:
        try:
            name = str.encode(value, "latin-1")
        except UnicodeEncodeError:
            pass
        else:
            append(short_header(100, len(name)) + name)
            return
    append(_SMALL_ATOMS[size] + name if size <= 255 else short_header(118, size) + name)


def text(value, append, limits):
    binary(_utf8(value), append, limits)


def _utf8(value):
    try:
        return str.encode(value)
    except UnicodeEncodeError as error:
        raise EncodeError(f"a str is not Unicode text: {error.reason}", "") from None


def binary(value, append, limits):
    size = len(value)
    limits[SIZE] -= size
    if limits[SIZE] < 0:
        raise too_large()
    append(header(109, size))
    append(value)


def buffer(value, append, limits):
    # A copy: it may change before the parts are joined.
    binary(bytes(value), append, limits)


def bit_string(value, append, limits):
    data, bits = value.data, value.bits
    limits[SIZE] -= len(data)
    if limits[SIZE] < 0:
        raise too_large()
    append(_bits_header(77, len(data), bits))
    append(data[:-1] + bytes([data[-1] & (0xFF00 >> bits) & 0xFF]))


def kept(tags):
    """The function for what Erlang has made, with one of these tags, and what is kept as it is."""

    def keep(value, append, limits):
        external = value.external
        limits[SIZE] -= len(external)
        if limits[SIZE] < 0:
            raise too_large()
        try:
            known = external[:1] and external[0] in tags and end_of(external, 0) == len(external)
        except DecodeError:
            known = False
        if not known:
            name = type(value).__name__
            raise EncodeError(f"a {name} that was not made by Erlang", "")
        append(external)

    return keep
