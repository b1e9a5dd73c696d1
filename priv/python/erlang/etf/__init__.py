r"""Erlang's external term format: what ``term_to_binary`` and ``binary_to_term`` write and read.

    >>> from erlang import etf
    >>> etf.decode(b"\x83h\x02w\x02okm\x00\x00\x00\x05hello")
    (Atom('ok'), 'hello')
    >>> etf.encode([1, 2.5, None])
    b'\x83l\x00\x00\x00\x03a\x01F@\x04\x00\x00\x00\x00\x00\x00w\x03nilj'

It needs nothing but the standard library. All that OTP 25 to 29 write is read, and what they still read of
older releases' too. What is written is what OTP 26 and newer write, byte by byte; OTP 25 does so with
``minor_version: 2`` and reads it in any case.

    ====================================  =====================================================
    Elixir                                Python
    ====================================  =====================================================
    ``nil``, ``true``, ``false``          None, True, False
    another atom                          erlang.Atom
    integer, float                        int, float
    binary                                str if it is UTF-8, else bytes; see ``binaries``
    list, tuple, map                      list, tuple, dict
    improper list, bitstring              erlang.ImproperList, erlang.BitString
    pid, port, reference, function        erlang.Pid, Port, Reference, Fun
    MapSet                                set; frozenset goes there too
    Date, Time, NaiveDateTime, DateTime   datetime.date, time, naive and aware datetime
    another struct                        dict with the key Atom("__struct__")
    ====================================  =====================================================

From Python only: bytes, bytearray and memoryview are binaries; an Enum's member is its value; a dataclass
instance is a map whose keys are its fields' names, as strings; instances of other subclasses are what
their base is. All else is an error.
"""

from .decode import decode
from .encode import encode
from .errors import DecodeError, EncodeError

__all__ = ["DecodeError", "EncodeError", "decode", "encode"]
