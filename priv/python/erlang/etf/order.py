"""The order that Erlang has the keys of a map in.

Numbers come first, then atoms, references, functions, ports, pids, tuples, maps, lists and bit strings. An integer is
before every float here, since 1 and 1.0 are two keys. Keys are looked at in the external format: by then it does not
matter any more what they are in Python.
"""

import struct

from .extent import FUNS, PIDS, PORTS, REFERENCES, end_of

_u32 = struct.Struct(">I").unpack_from
_i32 = struct.Struct(">i").unpack_from
_f64 = struct.Struct(">d").unpack_from

_INTEGER, _FLOAT, _ATOM, _TUPLE, _MAP, _NIL, _CONS, _BITS = 0, 1, 2, 7, 8, 9, 10, 11
_KEPT = {
    **dict.fromkeys(REFERENCES, 3),
    **dict.fromkeys(FUNS, 4),
    **dict.fromkeys(PORTS, 5),
    **dict.fromkeys(PIDS, 6),
}


def place(key):
    """Returns a tuple that is less than another key's if Erlang has this key before that one.

    ``key`` is what this package has encoded. Pids, ports, references and functions are in the order of their bytes, which is
    not always Erlang's.
    """
    return _place(key, 0)[0]


def _place(data, at):
    tag = data[at]
    at += 1
    if tag == 109:
        end = at + 4 + _u32(data, at)[0]
        return (_BITS, data[at + 4 : end], 8), end
    if tag == 119:
        end = at + 1 + data[at]
        return (_ATOM, data[at + 1 : end]), end
    if tag == 118:
        end = at + 2 + 256 * data[at] + data[at + 1]
        return (_ATOM, data[at + 2 : end]), end
    if tag == 97:
        return (_INTEGER, data[at]), at + 1
    if tag == 98:
        return (_INTEGER, _i32(data, at)[0]), at + 4
    if tag == 110:
        return _big(data, at + 1, data[at])
    if tag == 111:
        return _big(data, at + 4, _u32(data, at)[0])
    if tag == 70:
        return (_FLOAT, _f64(data, at)[0]), at + 8
    if tag == 104:
        places, end = _places(data, at + 1, data[at])
        return (_TUPLE, len(places), places), end
    if tag == 105:
        places, end = _places(data, at + 4, _u32(data, at)[0])
        return (_TUPLE, len(places), places), end
    if tag == 116:
        places, end = _places(data, at + 4, 2 * _u32(data, at)[0])
        return (_MAP, len(places), places[::2], places[1::2]), end
    if tag == 106:
        return (_NIL,), at
    if tag == 108:
        places, end = _places(data, at + 4, _u32(data, at)[0] + 1)
        # As the pairs that a list is made of, the last of which may hold anything.
        return (_CONS, [(_CONS, item) for item in places[:-1]], places[-1]), end
    if tag == 107:
        end = at + 2 + 256 * data[at] + data[at + 1]
        return (_CONS, [(_CONS, (_INTEGER, item)) for item in data[at + 2 : end]], (_NIL,)), end
    if tag == 77:
        end = at + 5 + _u32(data, at)[0]
        return (_BITS, data[at + 5 : end], data[at + 4]), end
    end = end_of(data, at - 1)
    return (_KEPT[tag], data[at:end]), end


def _places(data, at, count):
    places = []
    for _ in range(count):
        found, at = _place(data, at)
        places.append(found)
    return places, at


def _big(data, at, size):
    end = at + 1 + size
    number = int.from_bytes(data[at + 1 : end], "little")
    return (_INTEGER, -number if data[at] else number), end
