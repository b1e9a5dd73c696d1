"""Tests of the classes for terms that Python has no type of its own for."""

import copy
import pickle
import unittest

from erlang.terms import Atom, BitString, Fun, ImproperList, Pid, Port, Reference

OPAQUE = (Fun, Pid, Port, Reference)


class AtomTest(unittest.TestCase):
    def test_is_the_text_that_it_says(self):
        self.assertEqual(Atom("tcp"), "tcp")
        self.assertEqual({"tcp": 1}[Atom("tcp")], 1)
        self.assertEqual({Atom("tcp"): 1}["tcp"], 1)
        self.assertIsInstance(Atom("tcp"), str)
        self.assertIs(type(str(Atom("tcp"))), str)

    def test_shows_that_it_is_no_mere_text(self):
        self.assertEqual(repr(Atom("it's")), 'Atom("it\'s")')
        self.assertEqual(f"{Atom('tcp')}", "tcp")

    def test_is_as_long_as_an_atom_may_be(self):
        self.assertEqual(len(Atom("ü" * 255)), 255)
        with self.assertRaisesRegex(ValueError, "255 characters at most, not 256"):
            Atom("ü" * 256)

    def test_has_no_attributes(self):
        with self.assertRaises(AttributeError):
            Atom("tcp").more = 1


class OpaqueTest(unittest.TestCase):
    def test_is_equal_to_the_same_of_its_kind_alone(self):
        for kind in OPAQUE:
            self.assertEqual(kind(b"abc"), kind(bytearray(b"abc")))
            self.assertNotEqual(kind(b"abc"), kind(b"abd"))
            self.assertNotEqual(kind(b"abc"), b"abc")
            self.assertEqual(len({kind(b"abc"), kind(b"abc"), kind(b"abd")}), 2)
        self.assertEqual(len({kind(b"abc") for kind in OPAQUE}), len(OPAQUE))

    def test_has_bytes_that_cannot_be_set(self):
        self.assertEqual(Pid(b"abc").external, b"abc")
        with self.assertRaises(AttributeError):
            Pid(b"abc").external = b"abd"

    def test_shows_the_end_of_its_bytes(self):
        self.assertEqual(repr(Pid(bytes(20) + b"\x01\x02")), f"<erlang.Pid {'00' * 10}0102>")


class ListAndBitsTest(unittest.TestCase):
    def test_an_improper_list_has_items_and_a_tail(self):
        improper = ImproperList([1, 2], 3)
        self.assertEqual((improper.items, improper.tail), ((1, 2), 3))
        self.assertEqual(repr(improper), "ImproperList([1, 2], 3)")
        self.assertEqual(improper, ImproperList((1, 2), 3))
        self.assertNotEqual(improper, ImproperList([1, 2], 4))
        self.assertNotEqual(improper, [1, 2, 3])
        self.assertEqual(len({improper, ImproperList([1, 2], 3)}), 1)
        with self.assertRaisesRegex(ValueError, "at least one item"):
            ImproperList([], 3)

    def test_a_bit_string_has_bytes_and_bits_of_the_last(self):
        bits = BitString(b"a\x80", 1)
        self.assertEqual((bits.data, bits.bits), (b"a\x80", 1))
        self.assertEqual(repr(bits), "BitString(b'a\\x80', 1)")
        self.assertEqual(bits, BitString(bytearray(b"a\x80"), 1))
        self.assertNotEqual(bits, BitString(b"a\x80", 2))
        self.assertNotEqual(bits, b"a\x80")
        self.assertEqual(len({bits, BitString(b"a\x80", 1)}), 1)
        for data, count in [(b"", 1), (b"a", 0), (b"a", 8)]:
            with self.assertRaisesRegex(ValueError, f"not {len(data)} and {count}"):
                BitString(data, count)


class CopyTest(unittest.TestCase):
    def test_all_are_the_same_when_copied_and_pickled(self):
        for term in [
            Atom("tcp"),
            *(kind(b"abc") for kind in OPAQUE),
            ImproperList([1, Atom("a")], Pid(b"abc")),
            BitString(b"a\x80", 1),
        ]:
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(term, protocol))
                self.assertEqual((type(again), again), (type(term), term))
            for again in (copy.copy(term), copy.deepcopy(term)):
                self.assertEqual((type(again), again), (type(term), term))


if __name__ == "__main__":
    unittest.main()
