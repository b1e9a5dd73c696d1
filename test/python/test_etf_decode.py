"""Each kind of term, from its bytes. test/reactor/port/etf_test.exs has it against Erlang itself."""

import datetime
import pickle
import struct
import unittest
import zlib

from erlang import etf
from erlang.terms import Atom, BitString, Fun, ImproperList, Pid, Port, Reference

NODE = b"w\x04a@bc"


def decode(external, **options):
    return etf.decode(b"\x83" + external, **options)


def struct_of(module, **fields):
    pairs = [(Atom("__struct__"), Atom("Elixir." + module))]
    return etf.encode(dict(pairs + [(Atom(name), value) for name, value in fields.items()]))


class KindsTest(unittest.TestCase):
    def same(self, external, expected):
        found = decode(external)
        self.assertEqual(found, expected)
        self.assertIs(type(found), type(expected))

    def test_integers(self):
        self.same(b"a\xff", 255)
        self.same(b"b\xff\xff\xff\xff", -1)
        self.same(b"b\x7f\xff\xff\xff", 2**31 - 1)
        self.same(b"n\x08\x01" + b"\xff" * 8, -(2**64 - 1))
        self.same(b"n\x00\x00", 0)
        self.same(b"o\x00\x00\x01\x00\x00" + b"\x00" * 255 + b"\x01", 256**255)

    def test_floats(self):
        self.same(b"F" + struct.pack(">d", -0.0), -0.0)
        self.same(b"F" + struct.pack(">d", 1.5e300), 1.5e300)
        self.same(b"c" + b"-1.50000000000000000000e+00".ljust(31, b"\0"), -1.5)

    def test_atoms(self):
        for header in (b"w\x02", b"v\x00\x02", b"d\x00\x02", b"s\x02"):
            self.same(header + b"ok", Atom("ok"))
        self.same(b"d\x00\x01\xe9", Atom("é"))
        self.same(b"s\x01\xe9", Atom("é"))
        self.same(b"w\x02\xc3\xa9", Atom("é"))
        self.same(b"v\x01\xfe" + "é".encode() * 255, Atom("é" * 255))
        self.same(b"w\x00", Atom(""))
        for header in (b"w%c", b"v\0%c", b"d\0%c", b"s%c"):
            for name, value in ((b"nil", None), (b"true", True), (b"false", False)):
                self.same(header % len(name) + name, value)

    def test_the_table_of_atoms_is_bounded(self):
        for number in range(10_000):
            name = b"atom_%d" % number
            self.same(b"w%c" % len(name) + name, Atom(name.decode()))
        from erlang.etf.decode_scalars import _ATOMS_KEPT, _atoms

        self.assertLessEqual(len(_atoms), _ATOMS_KEPT)

    def test_binaries(self):
        text, other = b"m\0\0\0\x02\xc3\xa9", b"m\0\0\0\x01\xe9"
        self.same(text, "é")
        self.same(other, b"\xe9")
        self.assertEqual(decode(text, binaries="bytes"), "é".encode())
        self.assertEqual(decode(text, binaries="text"), "é")
        with self.assertRaisesRegex(etf.DecodeError, r"^byte 6 \(tag 109\): a binary is not UTF-8"):
            decode(other, binaries="text")
        with self.assertRaisesRegex(TypeError, "'auto', 'text' or 'bytes', not 'utf8'"):
            decode(text, binaries="utf8")
        # The choice goes for what is inside, too.
        self.assertEqual(decode(b"h\x01" + text, binaries="bytes"), ("é".encode(),))

    def test_bit_strings(self):
        self.same(b"M\0\0\0\x02\x03\xff\xe0", BitString(b"\xff\xe0", 3))
        self.same(b"M\0\0\0\x01\x03\xff", BitString(b"\xe0", 3))
        self.same(b"M\0\0\0\x01\x08\xff", b"\xff")
        for wrong in (b"M\0\0\0\x01\x09\xff", b"M\0\0\0\x01\x00\xff", b"M\0\0\0\x00\x03"):
            with self.assertRaises(etf.DecodeError):
                decode(wrong)

    def test_lists(self):
        self.same(b"j", [])
        self.same(b"k\x00\x03\x01\x02\xff", [1, 2, 255])
        self.same(b"l\0\0\0\x02a\x01jj", [1, []])
        self.same(b"l\0\0\0\x01a\x01a\x02", ImproperList([1], 2))
        # What nobody writes, and Erlang reads.
        self.same(b"l\0\0\0\x01a\x01k\x00\x01\x02", [1, 2])
        self.same(b"l\0\0\0\x01a\x01l\0\0\0\x01a\x02a\x03", ImproperList([1, 2], 3))
        self.same(b"l\0\0\0\0a\x01", 1)

    def test_tuples(self):
        self.same(b"h\0", ())
        self.same(b"h\x02a\x01h\x01a\x02", (1, (2,)))
        self.same(b"i\0\0\0\x01a\x01", (1,))

    def test_maps(self):
        self.same(b"t\0\0\0\0", {})
        self.same(b"t\0\0\0\x02a\x01jw\x01ah\0", {1: [], Atom("a"): ()})

    def test_keys_that_a_dict_cannot_have(self):
        equal = b"t\0\0\0\x02a\x01a\x01F" + struct.pack(">d", 1.0) + b"a\x02"
        with self.assertRaisesRegex(etf.DecodeError, r"\(tag 116\): keys of a map are equal"):
            decode(equal)
        with self.assertRaisesRegex(etf.DecodeError, "keys of a map are equal in Python"):
            decode(b"t\0\0\0\x02w\x01ajm\0\0\0\x01aj")
        with self.assertRaisesRegex(etf.DecodeError, r"^byte 6 \(tag 106\): a list"):
            decode(b"t\0\0\0\x01jj")
        with self.assertRaisesRegex(etf.DecodeError, "a tuple, or one inside"):
            decode(b"t\0\0\0\x01h\x01jj")

    def test_what_only_erlang_looks_into(self):
        ids = b"\0\0\0\x01" * 3
        terms = {
            Pid: [b"X" + NODE + ids, b"g" + NODE + b"\0" * 9],
            Port: [b"Y" + NODE + ids[:8], b"f" + NODE + b"\0" * 5, b"x" + NODE + ids],
            Reference: [
                b"Z\0\x02" + NODE + ids,
                b"r\0\x02" + NODE + b"\0" * 9,
                b"e" + NODE + b"\0" * 5,
            ],
            Fun: [
                b"qw\x05listsw\x03mapa\x02",
                b"p\0\0\0\x50\x01"
                + b"\0" * 20
                + b"\0\0\0\x02"
                + b"w\x01mb\0\0\0\x01b\0\0\0\x01X"
                # It has closed over a map with a list as a key.
                + NODE
                + ids
                + b"t\0\0\0\x01jja\x01",
            ],
        }
        for kind, externals in terms.items():
            for external in externals:
                found = decode(b"h\x02" + external + b"a\x07")
                self.assertEqual(found, (kind(external), 7))
                self.assertIs(type(found[0]), kind)
                self.assertEqual(etf.encode(found[0])[1:], external)

    def test_compressed_terms(self):
        plain = b"l\0\0\x03\xe8" + b"a\x01" * 1000 + b"j"
        packed = b"P" + struct.pack(">I", len(plain)) + zlib.compress(plain)
        self.same(packed, [1] * 1000)

    def test_data_of_other_types(self):
        for kind in (bytearray, memoryview):
            self.assertEqual(etf.decode(kind(b"\x83a\x01")), 1)
        with self.assertRaises(TypeError):
            etf.decode("a")


class StructsTest(unittest.TestCase):
    ISO = Atom("Elixir.Calendar.ISO")

    def clock(self, microsecond=(0, 0), second=5):
        return {"hour": 3, "minute": 4, "second": second, "microsecond": microsecond}

    def test_sets(self):
        for extra in ({}, {"version": 2}):
            external = struct_of("MapSet", map={1: [], "a": []}, **extra)
            self.assertEqual(etf.decode(external), {1, "a"})
            self.assertIs(type(etf.decode(external)), set)

    def test_dates_and_times(self):
        day = {"year": 2020, "month": 2, "day": 29, "calendar": self.ISO}
        self.assertEqual(etf.decode(struct_of("Date", **day)), datetime.date(2020, 2, 29))
        self.assertEqual(
            etf.decode(struct_of("Time", calendar=self.ISO, **self.clock((7, 3)))),
            datetime.time(3, 4, 5, 7),
        )
        self.assertEqual(
            etf.decode(struct_of("NaiveDateTime", **day, **self.clock())),
            datetime.datetime(2020, 2, 29, 3, 4, 5),
        )
        zone = {"utc_offset": 3600, "std_offset": 3600, "time_zone": "Europe/Paris"}
        found = etf.decode(struct_of("DateTime", **day, **self.clock(), **zone, zone_abbr="CEST"))
        self.assertEqual(
            found, datetime.datetime(2020, 2, 29, 1, 4, 5, tzinfo=datetime.timezone.utc)
        )
        self.assertEqual(found.utcoffset(), datetime.timedelta(hours=2))

    def test_what_these_types_cannot_hold_is_an_error(self):
        for external, what in (
            (struct_of("Date", year=-1, month=1, day=1, calendar=self.ISO), "Date"),
            (struct_of("Date", year=2020, month=13, day=1, calendar=self.ISO), "Date"),
            (struct_of("Date", year=10**30, month=1, day=1, calendar=self.ISO), "Date"),
            (struct_of("Time", calendar=self.ISO, **self.clock(second=60)), "Time"),
        ):
            with self.assertRaisesRegex(etf.DecodeError, f"Python has no such {what}: "):
                etf.decode(external)

    def test_what_only_looks_like_one_stays_a_dict(self):
        for external in (
            struct_of("Date", year=2020, month=1, day=1, calendar=Atom("Elixir.Other")),
            struct_of("Date", year=2020, month="1", day=1, calendar=self.ISO),
            struct_of("Time", calendar=self.ISO, **self.clock((1, 2, 3))),
            struct_of("Time", calendar=self.ISO, hour=1),
            struct_of("MapSet", map={1: 2}),
            struct_of("MapSet", map=[1]),
            struct_of("URI", host="localhost"),
        ):
            found = etf.decode(external)
            self.assertIs(type(found), dict)
            self.assertEqual(etf.encode(found), external)

    def test_a_string_as_the_key_makes_no_struct(self):
        plain = {"__struct__": Atom("Elixir.MapSet"), Atom("map"): {}}
        self.assertEqual(etf.decode(etf.encode(plain)), plain)


class ErrorsTest(unittest.TestCase):
    def test_an_error_says_where_and_what(self):
        with self.assertRaises(etf.DecodeError) as caught:
            decode(b"h\x02a\x01Z")
        self.assertIsInstance(caught.exception, ValueError)
        with self.assertRaises(etf.DecodeError) as caught:
            decode(b"h\x02a\x01\x00")
        self.assertEqual((caught.exception.offset, caught.exception.tag), (5, 0))
        self.assertEqual(str(caught.exception), "byte 5 (tag 0): there is no term with this tag")
        again = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual(str(again), str(caught.exception))

    def test_terms_of_elsewhere(self):
        for external, reason in (
            (b"R\x00", "atoms of a connection"),
            (b"D\x00", "connection of two nodes"),
            (b"y\0\0\0\0a\x01", "only the node that made it"),
            (b"u\0\0\0\0g" + NODE + b"\0" * 9 + b"w\x01ma\x01a\x02", "since 23"),
            (b"h\x01P\0\0\0\x02" + zlib.compress(b"a\x01"), "not inside another"),
        ):
            with self.assertRaisesRegex(etf.DecodeError, reason):
                decode(external)

    def test_what_is_no_term(self):
        for data, reason in (
            (b"", "not with nothing"),
            (b"\x82a\x01", "version 131, not with 130"),
            (b"\x83", "ends in the middle"),
            (b"\x83a\x01a\x02", "2 bytes follow"),
            (b"\x83w\x01\xff", "that is no atom"),
            (b"\x83d\x01\x00" + b"a" * 256, "255 characters"),
            (b"\x83F\x7f\xf0\0\0\0\0\0\0", "finite"),
            (b"\x83F\x7f\xf8\0\0\0\0\0\0", "finite"),
            (b"\x83c" + b"nan".ljust(31, b"\0"), "finite"),
            (b"\x83c" + b"1.0e+999".ljust(31, b"\0"), "finite"),
            (b"\x83c" + b"\x0c1.0".ljust(31, b"\0"), "finite"),
            (b"\x83c" + b"1_0.0".ljust(31, b"\0"), "finite"),
            (b"\x83X" + b"a\x01" + b"\0" * 12, "name of a node is an atom"),
            (b"\x83p" + b"\0" * 28 + b"\x01\xff" + b"\0" * 9, "no term inside a function"),
        ):
            with self.assertRaisesRegex(etf.DecodeError, reason):
                etf.decode(data)


if __name__ == "__main__":
    unittest.main()
