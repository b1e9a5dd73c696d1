"""Terms of Erlang's that Python has no type of its own for.

What comes from Erlang or Elixir is made of Python's own types where there is one that means the same. These
classes are for the rest. They need nothing but the standard library, so they are the same in a context
inside the BEAM and in a Python process behind a port.

A pid, a port, a reference and a function are opaque: they can be kept, compared, used as keys, and given back.
"""

_ATOM_CHARACTERS = 255


class Atom(str):
    """An atom other than ``nil``, ``true`` and ``false``, which are None, True and False.

    It is a string, so that ``Atom("tcp") == "tcp"`` and a dict finds either under the other. Given back it is
    an atom again, where a mere string becomes a binary. Outside Python it must exist already: what Python says
    never adds to Erlang's table of atoms.

    Raises:
        ValueError: It has more than 255 characters.
    """

    __slots__ = ()

    def __new__(cls, name):
        atom = super().__new__(cls, name)
        if len(atom) > _ATOM_CHARACTERS:
            raise ValueError(f"an atom has {_ATOM_CHARACTERS} characters at most, not {len(atom)}")
        return atom

    def __repr__(self):
        return f"Atom({super().__repr__()})"


class _Opaque:
    """A term that only Erlang can look into, in Erlang's external term format without the version byte."""

    __slots__ = ("_external",)

    def __init__(self, external):
        self._external = bytes(external)

    @property
    def external(self):
        """The term's bytes in Erlang's external term format, without the version byte."""
        return self._external

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self._external == other._external

    def __hash__(self):
        return hash((type(self), self._external))

    def __repr__(self):
        return f"<erlang.{type(self).__name__} {self._external[-12:].hex()}>"

    def __reduce__(self):
        return type(self), (self._external,)


class Pid(_Opaque):
    """A process."""

    __slots__ = ()


class Port(_Opaque):
    """A port."""

    __slots__ = ()


class Reference(_Opaque):
    """A reference, that of a resource included."""

    __slots__ = ()


class Fun(_Opaque):
    """A function of Erlang's or Elixir's."""

    __slots__ = ()


class ImproperList:
    """A list whose last tail is not the empty list: ``[1, 2 | 3]`` is ``ImproperList([1, 2], 3)``."""

    __slots__ = ("items", "tail")

    def __init__(self, items, tail):
        self.items = tuple(items)
        self.tail = tail
        if not self.items:
            raise ValueError("an improper list has at least one item before its tail")

    def __eq__(self, other):
        if type(other) is not ImproperList:
            return NotImplemented
        return (self.items, self.tail) == (other.items, other.tail)

    def __hash__(self):
        return hash((ImproperList, self.items, self.tail))

    def __repr__(self):
        return f"ImproperList({list(self.items)!r}, {self.tail!r})"


class BitString:
    """Bits that do not fill their last byte: ``bits`` of it, from 1 to 7, count, from its upper end."""

    __slots__ = ("bits", "data")

    def __init__(self, data, bits):
        self.data = bytes(data)
        self.bits = bits
        if not self.data or not 1 <= bits <= 7:
            raise ValueError(
                "a bit string has at least one byte, and 1 to 7 bits of its last: "
                f"not {len(self.data)} and {bits}"
            )

    def __eq__(self, other):
        if type(other) is not BitString:
            return NotImplemented
        return (self.data, self.bits) == (other.data, other.bits)

    def __hash__(self):
        return hash((BitString, self.data, self.bits))

    def __repr__(self):
        return f"BitString({self.data!r}, {self.bits})"
