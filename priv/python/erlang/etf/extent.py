"""How far a term extends, without making anything of it.

Pids, references and functions are kept as their bytes, whatever is inside. What a function has closed over may be
of any kind and depth, so this goes from term to term and never inward.
"""

import struct

from .errors import DecodeError

_u16 = struct.Struct(">H").unpack_from
_u32 = struct.Struct(">I").unpack_from

PIDS = (88, 103)
PORTS = (89, 102, 120)
REFERENCES = (90, 101, 114)
FUNS = (112, 113)

_ATOMS = (100, 115, 118, 119)
_UTF8_ATOMS = (118, 119)
# So many bytes follow the tag,
_FIXED = {70: 8, 97: 1, 98: 4, 99: 31, 106: 0}
# or a length of one, two or four bytes, then perhaps one more, and then as many as the length says.
_COUNTED = {
    100: (1, 0),
    107: (1, 0),
    118: (1, 0),
    115: (0, 0),
    119: (0, 0),
    109: (2, 0),
    110: (0, 1),
    111: (2, 1),
    77: (2, 1),
}
# So many bytes follow the name of the node.
_AT_NODE = {88: 12, 89: 8, 101: 5, 102: 5, 103: 9, 120: 12}


def end_of(data, at, count=1):
    """Returns where ``count`` terms end, the first of which begins at ``at``.

    Raises:
        DecodeError: There is something else, or less.
    """
    size = len(data)
    try:
        while count:
            # Each is a byte at least.
            if count > size - at:
                raise IndexError
            at, inner = _step(data, at)
            count += inner - 1
    except (IndexError, struct.error):
        raise DecodeError("the data ends in the middle of a term", size) from None
    if at > size:
        raise DecodeError("the data ends in the middle of a term", size)
    return at


def _step(data, start):
    """Where the terms that are in the one at ``start`` begin, and how many these are."""
    tag = data[start]
    at = start + 1
    if tag in _FIXED:
        return at + _FIXED[tag], 0
    if tag in _COUNTED:
        width, more = _COUNTED[tag]
        length, at = _length(data, at, width)
        return at + more + length, 0
    if tag in _AT_NODE:
        return _past_atom(data, at) + _AT_NODE[tag], 0
    if tag == 104:
        return at + 1, data[at]
    if tag == 105:
        return at + 4, _u32(data, at)[0]
    if tag == 108:
        return at + 4, _u32(data, at)[0] + 1
    if tag == 116:
        return at + 4, _u32(data, at)[0] * 2
    if tag in (90, 114):
        (words,) = _u16(data, at)
        return _past_atom(data, at + 2) + (4 if tag == 90 else 1) + 4 * words, 0
    if tag == 113:
        return at, 3
    if tag == 112:
        # The size of the whole, which is what is found; the arity, two checksums and an index.
        return at + 29, _u32(data, at + 25)[0] + 4
    raise DecodeError(
        "there is no term inside a function or beside a node with this tag", start, tag
    )


def _length(data, at, width):
    if width == 0:
        return data[at], at + 1
    if width == 1:
        return _u16(data, at)[0], at + 2
    return _u32(data, at)[0], at + 4


def _past_atom(data, at):
    tag = data[at]
    if tag not in _ATOMS:
        raise DecodeError("the name of a node is an atom", at, tag)
    length, start = _length(data, at + 1, _COUNTED[tag][0])
    end = start + length
    if tag in _UTF8_ATOMS:
        try:
            data[start:end].decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"that is no atom: {error.reason}", at, tag) from None
    return end
