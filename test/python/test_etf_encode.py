"""Each type of object, to its bytes. test/reactor/port/etf_test.exs has it against Erlang itself."""

import collections
import dataclasses
import datetime
import enum
import pickle
import unittest

from erlang import etf
from erlang.terms import Atom, BitString, Fun, ImproperList, Pid


class Colour(enum.Enum):
    RED = Atom("red")


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


Pair = collections.namedtuple("Pair", "left right")


class Text(str):
    def encode(self, *_):
        return b"not this"


class Numbers(list):
    def __len__(self):
        return 0

    def __iter__(self):
        return iter(())


class EncodeTest(unittest.TestCase):
    def assertBytes(self, value, expected):
        self.assertEqual(etf.encode(value), b"\x83" + expected)

    def assertRefused(self, value, message, **options):
        with self.assertRaises(etf.EncodeError) as caught:
            etf.encode(value, **options)
        self.assertEqual(str(caught.exception), message)
        again = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual(str(again), message)

    def test_atoms(self):
        self.assertBytes(None, b"w\x03nil")
        self.assertBytes(True, b"w\x04true")
        self.assertBytes(Atom("é"), b"w\x02\xc3\xa9")
        self.assertBytes(Atom("é" * 255), b"v\x01\xfe" + "é".encode() * 255)

    def test_as_older_releases_wrote(self):
        values = (None, True, False, Atom("é"), Atom("€"), 1.5)
        atoms = b"h\x06d\0\x03nild\0\x04trued\0\x05falsed\0\x01\xe9w\x03\xe2\x82\xac"
        self.assertEqual(etf.encode(values, minor_version=1)[1:], atoms + b"F?\xf8\0\0\0\0\0\0")
        text = b"c1.50000000000000000000e+00\0\0\0\0\0"
        self.assertEqual(etf.encode(values, minor_version=0)[1:], atoms + text)
        self.assertEqual(etf.decode(etf.encode(values, minor_version=0)), values)

    def test_integers(self):
        self.assertBytes(0, b"a\0")
        self.assertBytes(256, b"b\0\0\x01\0")
        self.assertBytes(-(2**31), b"b\x80\0\0\0")
        self.assertBytes(2**31, b"n\x04\0\0\0\0\x80")
        self.assertBytes(-(2**31) - 1, b"n\x04\x01\x01\0\0\x80")
        self.assertBytes(256**255 - 1, b"n\xff\0" + b"\xff" * 255)
        self.assertBytes(256**255, b"o\0\0\x01\0\0" + b"\0" * 255 + b"\x01")

    def test_binaries(self):
        for value in ("hi", b"hi", bytearray(b"hi"), memoryview(b"_h_i")[1::2]):
            self.assertBytes(value, b"m\0\0\0\x02hi")
        self.assertBytes(BitString(b"\xff", 3), b"M\0\0\0\x01\x03\xe0")

    def test_lists(self):
        self.assertBytes([], b"j")
        self.assertBytes([1, 255], b"k\0\x02\x01\xff")
        self.assertBytes([1, 256], b"l\0\0\0\x02a\x01b\0\0\x01\0j")
        self.assertBytes([1, -1], b"l\0\0\0\x02a\x01b\xff\xff\xff\xffj")
        # Not a list of bytes, although bytes() takes it for one.
        self.assertBytes([1, True], b"l\0\0\0\x02a\x01w\x04truej")
        self.assertEqual(etf.encode([1] * 65_535)[:4], b"\x83k\xff\xff")
        self.assertEqual(etf.encode([1] * 65_536)[:8], b"\x83l\0\x01\0\0a\x01")
        self.assertBytes(ImproperList([1], 2), b"l\0\0\0\x01a\x01a\x02")

    def test_tuples(self):
        self.assertBytes((), b"h\0")
        self.assertEqual(etf.encode((1,) * 256)[:8], b"\x83i\0\0\x01\0a\x01")

    def test_small_maps_have_erlangs_order(self):
        names = "zyxabc"
        self.assertEqual(list(etf.decode(etf.encode(dict.fromkeys(names)))), sorted(names))
        mixed = [
            BitString(b"\x80", 1),
            b"\x80",
            "a",
            ImproperList([1], 2),
            (1, 2),
            (9,),
            Pid(b"Xw\x01n" + b"\0" * 12),
            Atom("b"),
            None,
            -1.0,
            2**70,
            2,
        ]
        found = list(etf.decode(etf.encode(dict.fromkeys(mixed))))
        order = [
            2,
            2**70,
            -1.0,
            "b",
            None,
            mixed[6],
            (9,),
            (1, 2),
            mixed[3],
            "a",
            mixed[0],
            b"\x80",
        ]
        self.assertEqual(found, order)

    def test_keys_that_are_the_same_outside(self):
        message = "value: keys are the same outside Python, as 'a' and b'a' are"
        for value in ({"a": 1, b"a": 2}, {None: 1, Atom("nil"): 2}, {Level.HIGH: 1, b"": 2, "": 3}):
            self.assertRefused(value, message)
        self.assertRefused({"a", b"a"}, 'value["map"]' + message[5:])

    def test_subclasses_are_what_their_base_is(self):
        self.assertBytes(Colour.RED, b"w\x03red")
        self.assertBytes(Level.HIGH, b"a\x03")
        self.assertBytes(Pair(1, 2), b"h\x02a\x01a\x02")
        self.assertBytes(Text("hi"), b"m\0\0\0\x02hi")
        self.assertBytes(Numbers([1, 256]), b"l\0\0\0\x02a\x01b\0\0\x01\0j")
        self.assertBytes(collections.OrderedDict(b=1, a=2), etf.encode({"a": 2, "b": 1})[1:])
        self.assertBytes(Point(1), etf.encode({"x": 1, "y": None})[1:])

    def test_dates_times_and_sets_come_back(self):
        zone = datetime.timezone(datetime.timedelta(hours=2))
        for value in (
            datetime.date(1, 1, 1),
            datetime.time(23, 59, 59, 999_999),
            datetime.datetime(2020, 2, 29, 1, 2, 3),
            datetime.datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=zone),
            {1, "two", (3,)},
            set(),
        ):
            found = etf.decode(etf.encode(value))
            self.assertEqual(found, value)
            self.assertIs(type(found), type(value))
        self.assertEqual(etf.decode(etf.encode(frozenset("ab"))), {"a", "b"})
        old = etf.decode(etf.encode({1}, mapset_version=2), max_terms=20)
        self.assertEqual(old, {1})
        self.assertIn(b"version", etf.encode({1}, mapset_version=2))

    def test_compression(self):
        value = ["hello"] * 1000
        external = etf.encode(value, compressed=9)
        self.assertEqual(external[:2], b"\x83P")
        self.assertLess(len(external), 200)
        self.assertEqual(etf.decode(external), value)
        # What would not get smaller is left as it is.
        self.assertEqual(etf.encode(1, compressed=True), b"\x83a\x01")
        with self.assertRaisesRegex(TypeError, "from 0 to 9"):
            etf.encode(1, compressed=10)

    def test_an_error_says_where_and_what(self):
        decimal = {"rows": [1, 2, 3, {"price": object()}]}
        what = "an instance of object has no counterpart outside Python"
        self.assertRefused(decimal, f'value["rows"][3]["price"]: {what}')
        self.assertRefused((1, ImproperList([1], object())), f"value[1].tail: {what}")
        self.assertRefused({1: object()}, f"value[1]: {what}")
        self.assertRefused({(object(),): 1}, f"value[a key of type tuple][0]: {what}")
        self.assertRefused({1: 2, "a": object()}, f'value["a"]: {what}')
        self.assertRefused(Point(1, object()), f'value["y"]: {what}')
        self.assertRefused(
            [float("inf")], "value[0]: the float inf has no counterpart outside Python"
        )
        self.assertRefused("\ud800", "value: a str is not Unicode text: surrogates not allowed")
        self.assertRefused(
            datetime.time(1, tzinfo=datetime.timezone.utc),
            "value: a time with a zone has no counterpart outside Python",
        )
        early = datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
        self.assertRefused(early, "value: date value out of range")
        self.assertRefused(
            [Point], "value[0]: an instance of type has no counterpart outside Python"
        )

    def test_opaque_terms_that_erlang_did_not_make(self):
        pid = b"Xw\x01n" + b"\0" * 12
        self.assertBytes(Pid(pid), pid)
        for external in (b"", b"a\x01", pid[:-1], pid + b"a\x01"):
            self.assertRefused(Pid(external), "value: a Pid that was not made by Erlang")
        self.assertRefused(Fun(pid), "value: a Fun that was not made by Erlang")

    def test_limits(self):
        endless = []
        endless.append(endless)
        with self.assertRaisesRegex(etf.EncodeError, "deeper than is allowed, or contains itself"):
            etf.encode(endless)
        with self.assertRaisesRegex(etf.EncodeError, "deeper than Python's stack"):
            etf.encode(endless, max_depth=10**9)
        many = [0, 1000]
        for _ in range(60):
            many = [many, many]
        with self.assertRaisesRegex(etf.EncodeError, "larger than is allowed"):
            etf.encode(many, max_size=100_000)
        with self.assertRaisesRegex(etf.EncodeError, r"^value: it is larger than is allowed"):
            etf.encode("a" * 100, max_size=100)
        self.assertEqual(len(etf.encode("a" * 94, max_size=100)), 100)


if __name__ == "__main__":
    unittest.main()
