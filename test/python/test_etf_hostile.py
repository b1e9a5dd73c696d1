"""What somebody sends who means harm, or whose connection is bad: a clear error, in little memory."""

import random
import struct
import sys
import unittest
import zlib

from erlang import etf
from erlang.etf.extent import end_of
from erlang.terms import Atom, BitString, ImproperList, Pid

try:
    import tracemalloc
except ImportError:
    # An interpreter of its own cannot have it. The others measure.
    tracemalloc = None

NODE = b"w\x04a@bc"
PID = b"X" + NODE + b"\0" * 12
FUN = b"p\0\0\0\x50\x01" + b"\0" * 20 + b"\0\0\0\x01w\x01ma\x01a\x02" + PID
MILLION = 1_000_000

SAMPLE = {
    "text": ["hello", b"\xff", 1, -1, 2**40, -(2**3000), 1.5, None, True],
    "more": (Atom("ok"), Atom("é" * 200), BitString(b"\xe0", 3), ImproperList([1], (2,)), [1, 2]),
    "pid": Pid(PID),
    7: {1, "two"},
}


def compressed(plain, size=None):
    size = len(plain) if size is None else size
    return b"\x83P" + struct.pack(">I", size) + zlib.compress(plain, 9)


class HostileTest(unittest.TestCase):
    def refused(self, external, reason="", megabytes=1, **options):
        """It is refused, with this reason, and meanwhile no more memory than that is used."""
        if tracemalloc is None:
            with self.assertRaisesRegex(etf.DecodeError, reason):
                etf.decode(external, **options)
            return
        tracemalloc.start()
        try:
            with self.assertRaisesRegex(etf.DecodeError, reason):
                etf.decode(external, **options)
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, megabytes * 1024 * 1024)

    def test_truncated_at_every_byte(self):
        for external in (
            etf.encode(SAMPLE),
            etf.encode(SAMPLE, compressed=9),
            b"\x83" + FUN + b"j",
        ):
            self.assertIsNotNone(etf.decode(external))
            for size in range(len(external)):
                with self.assertRaises(etf.DecodeError):
                    etf.decode(external[:size])

    def test_every_bit_flipped(self):
        for external in (
            etf.encode(SAMPLE),
            etf.encode(SAMPLE, compressed=9),
            b"\x83" + FUN + b"j",
        ):
            for place in range(len(external)):
                for bit in range(8):
                    damaged = bytearray(external)
                    damaged[place] ^= 1 << bit
                    self.decoded_or_refused(damaged)

    def test_random_bytes(self):
        dice = random.Random(7)
        tags = b"FMXYZabcdefghijklmnopqrstuvwxyPR"
        for _ in range(20_000):
            size = dice.randrange(60)
            kind = dice.random()
            some = bytes(
                dice.choice(tags) if dice.random() < kind else dice.choice(b"\0\1\2\3\xff")
                for _ in range(size)
            )
            self.decoded_or_refused(b"\x83" + some)

    def decoded_or_refused(self, external):
        try:
            found = etf.decode(bytes(external))
        except etf.DecodeError as error:
            self.assertLessEqual(0, error.offset)
        else:
            # What was taken can be given back.
            self.assertEqual(etf.decode(etf.encode(found)), found)

    def test_nested_a_million_deep(self):
        deeper = {
            "lists": b"l\0\0\0\1" * MILLION + b"j" * (MILLION + 1),
            "tails": b"l\0\0\0\1j" * MILLION + b"j",
            "empty lists with a tail": b"l\0\0\0\0" * MILLION + b"j",
            "tuples": b"h\1" * MILLION + b"j",
            "large tuples": b"i\0\0\0\1" * MILLION + b"j",
            "values of maps": b"t\0\0\0\1a\1" * MILLION + b"j",
            "keys of maps": b"t\0\0\0\1" * MILLION + b"a\1" * (MILLION + 1),
        }
        for name, external in deeper.items():
            with self.subTest(name):
                self.refused(b"\x83" + external, "nested deeper than is allowed")
                # A limit that is none: Python's stack is the one that is left.
                self.refused(b"\x83" + external, "nested deeper than", max_depth=10 * MILLION)
        inside = b"h\1" * MILLION + b"j"
        self.refused(compressed(inside), "nested deeper", megabytes=8)

    def test_a_function_that_has_closed_over_something_deep(self):
        external = b"\x83" + FUN + b"h\1" * MILLION + b"j"
        self.assertEqual(etf.decode(external).external, external[1:])
        self.refused(external[:-1], "ends in the middle")
        functions = b"\x83" + (FUN * 10_000) + b"j"
        self.assertEqual(etf.decode(functions).external, functions[1:])

    def test_lengths_that_lie(self):
        most = b"\xff\xff\xff\xff"
        rest = b"\0" * 1000
        for external in (
            b"m" + most,
            b"M" + most + b"\3",
            b"o" + most + b"\0",
            b"l" + most,
            b"i" + most,
            b"t" + most,
            b"k" + most[:2],
            b"d" + most[:2],
            b"v" + most[:2],
            b"Z" + most[:2] + NODE,
            b"r" + most[:2] + NODE,
            b"u" + most,
            FUN[:26] + most + FUN[30:],
            b"Xv" + most[:2],
        ):
            with self.subTest(external):
                for lie in (external, external + rest, b"h\2a\1" + external + rest):
                    self.refused(b"\x83" + lie, "in the middle|no term inside")
                with self.assertRaises(etf.DecodeError):
                    end_of(external + rest, 0)

    def test_bombs(self):
        megabyte = b"m" + struct.pack(">I", 1 << 20) + b"\0" * (1 << 20)
        hundred = b"m" + struct.pack(">I", 100 << 20) + b"\0" * (100 << 20)
        self.refused(compressed(hundred), "it expands to 104857605 bytes, 67108864 are allowed")
        # The size in the header lies: no more than that is expanded, and a little.
        self.refused(compressed(hundred, 1000), "does not expand to the 1000 bytes")
        self.refused(compressed(megabyte, 64 << 20), "does not expand to", megabytes=4)
        self.refused(compressed(megabyte), "1048576 are allowed", max_size=1 << 20)
        self.refused(compressed(b"P" + struct.pack(">I", 5) + zlib.compress(b"a")), "not inside")
        self.refused(compressed(b"a\1") + b"x", "1 bytes follow")
        self.refused(b"\x83P\0\0\0\2xxxxxxxx", "cannot be expanded")
        self.assertEqual(etf.decode(compressed(megabyte)), "\0" * (1 << 20))

    def test_keys_with_one_hash(self):
        # Each a multiple of the prime that hashes of numbers are modulo of: 1.3 million of them took hours.
        keys = [sys.hash_info.modulus * n for n in range(1, 20_001)]
        pairs = [etf.encode(key)[1:] + b"a\0" for key in keys]
        self.refused(b"\x83t" + struct.pack(">I", len(pairs)) + b"".join(pairs), "same hash", 10)
        self.refused(
            b"\x83t" + struct.pack(">I", 257) + b"".join(pairs[:257]), "more than 256 keys"
        )
        found = etf.decode(b"\x83t" + struct.pack(">I", 256) + b"".join(pairs[:256]))
        self.assertEqual(found, dict.fromkeys(keys[:256], 0))
        # -1 and -2 have one hash, and so have these tuples, but never more than four of them.
        grid = {(x, y): x for x in range(-300, 300) for y in range(-30, 30)}
        self.assertEqual(etf.decode(etf.encode(grid)), grid)

    def test_many_small_terms(self):
        """A byte of a list becomes some seventy: it is their number that counts."""
        million = b"\x83l" + struct.pack(">I", MILLION) + b"j" * (MILLION + 1)
        self.refused(million, "more terms in it than are allowed", max_terms=MILLION - 1)
        self.assertEqual(len(etf.decode(million, max_terms=MILLION)), MILLION)
        # Also in parts.
        parts = b"\x83l\0\0\3\xe8" + (b"l\0\0\3\xe8" + b"j" * 1001) * 1000 + b"j"
        self.refused(parts, "more terms in it", megabytes=80, max_terms=MILLION)
        self.refused(b"\x83a\1", "has 3 bytes, 2 are allowed", max_size=2)

    def test_pythons_stack_is_as_it_was_afterwards(self):
        for _ in range(3):
            self.refused(
                b"\x83" + b"h\1" * MILLION + b"j", "Python's stack", max_depth=10 * MILLION
            )
        self.assertEqual(etf.decode(b"\x83" + b"h\1" * 3 + b"j"), ((([],),),))


if __name__ == "__main__":
    unittest.main()
