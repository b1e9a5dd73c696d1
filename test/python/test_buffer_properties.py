"""ReactorBuffer against bytes, with random arguments for whatever this Python's bytes has.

Each name in ``dir(bytes)`` is called, on data and with arguments that are drawn at random; the outcomes have to
be the same, exceptions by their type. A failure names the seed, see suite.py.
"""

import hashlib
import io
import json
import operator
import random
import re
import struct
import unittest

import live

ROUNDS = 60
# What is not the same on purpose, or not the object's: test_buffer and test_buffer_memory have these.
APART = {
    "__class__",  # bytes, so that isinstance holds
    "__delattr__",
    "__dir__",  # has memoryview too
    "__doc__",
    "__getattribute__",
    "__getstate__",
    "__init__",
    "__init_subclass__",
    "__new__",  # nobody makes one
    "__reduce__",
    "__reduce_ex__",
    "__setattr__",
    "__sizeof__",  # counts the pooled memory
    "__subclasshook__",
}


class Index:
    """An integer, as operator.index sees it."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Failing:
    def __index__(self):
        raise LookupError("no index")

    __bytes__ = __iter__ = __str__ = __len__ = __index__


class PropertyTest(unittest.TestCase):
    def setUp(self):
        self.dice = random.Random(live.seed)
        self.assertGreater(len(live.buffers), 80)

    # ---- what is drawn --------------------------------------------------------------

    def pair(self):
        return self.dice.choice(live.buffers)

    def text(self, oracle):
        """Bytes that may be in the data, or not."""
        if oracle and self.dice.random() < 0.6:
            start = self.dice.randrange(len(oracle))
            return oracle[start : start + self.dice.choice([0, 1, 1, 2, 3, 9])]
        alphabet = b"ab AZz09 \t\r\n%s\0\xff"
        return bytes(self.dice.choice(alphabet) for _ in range(self.dice.randint(0, 5)))

    def argument(self, oracle):
        """One argument: the same thing, for the buffer and for its oracle."""
        text = self.text(oracle)
        number = self.dice.choice([0, 1, 2, 3, 7, -1, -2, 40, 255, 256, len(oracle), 1 << 70])
        one = self.dice.choice(
            [
                text,
                text,
                text,
                bytearray(text),
                memoryview(text),
                number,
                number,
                Index(min(number, 300)),
                None,
                True,
                1.5,
                "text",
                "utf-8",
                "latin-1",
                "replace",
                ":",
                (text, b"a"),
                (),
                [text, b"x"],
                [1, 300],
                slice(self.dice.randint(-9, 9), self.dice.choice([None, 5, -3])),
                {b"s": text},
                bytes(256),
                Failing(),
                object(),
            ]
        )
        if self.dice.random() < 0.1:
            # Another buffer on one side, what it holds on the other.
            return self.pair()
        return one, one

    def arguments(self, oracle):
        count = self.dice.choice([0, 1, 1, 1, 2, 2, 3, 4])
        drawn = [self.argument(oracle) for _ in range(count)]
        return [ours for ours, _ in drawn], [theirs for _, theirs in drawn]

    # ---- what comes of it -------------------------------------------------------------

    def outcome(self, function, *args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            return "raised", type(error)
        if hasattr(result, "__next__"):
            return "iterates", list(result)
        if isinstance(result, memoryview):
            return "views", bytes(result)
        return "returned", type(result), result

    def same(self, what, found, expected, oracle):
        if found != expected:
            self.fail(
                f"seed {live.seed}: {what} of {oracle[:60]!r}...: {found!r:.300}, bytes: {expected!r:.300}"
            )

    def huge(self, name, args):
        """Work that would take gigabytes, in both."""
        return name in (
            "__mul__",
            "__rmul__",
            "center",
            "ljust",
            "rjust",
            "zfill",
            "expandtabs",
        ) and (any(isinstance(arg, int) and arg > 1 << 20 for arg in args))

    # ---- properties -------------------------------------------------------------------

    def test_every_name_of_bytes(self):
        names = [name for name in dir(bytes) if name not in APART]
        self.assertGreater(len(names), 60)
        for name in names:
            for _ in range(ROUNDS):
                buffer, oracle = self.pair()
                ours, theirs = self.arguments(oracle)
                if self.huge(name, theirs):
                    continue
                found = self.outcome(getattr(buffer, name), *ours)
                expected = self.outcome(getattr(oracle, name), *theirs)
                self.same(f"{name}{theirs!r:.200}", found, expected, oracle)

    def test_every_operator(self):
        binary = "add mul mod eq ne lt le gt ge contains getitem and_ or_ xor sub matmul".split()
        for name in [*binary, "concat", "countOf", "indexOf", "iadd", "imul", "imod"]:
            function = getattr(operator, name)
            for _ in range(ROUNDS):
                buffer, oracle = self.pair()
                ours, theirs = self.argument(oracle)
                if name in ("mul", "imul") and isinstance(theirs, int) and theirs > 1 << 20:
                    continue
                found = self.outcome(function, buffer, ours)
                self.same(name, found, self.outcome(function, oracle, theirs), oracle)
                # `bytes % buffer` without a conversion is no error: bytes takes it for a dict.
                if name in ("add", "mul", "eq", "ne", "lt", "le", "gt", "ge", "contains"):
                    found = self.outcome(function, ours, buffer)
                    expected = self.outcome(function, theirs, oracle)
                    self.same(f"{name}, swapped", found, expected, oracle)
        for name in "neg pos invert not_ truth index length_hint".split():
            function = getattr(operator, name)
            for buffer, oracle in live.buffers:
                expected = self.outcome(function, oracle)
                self.same(name, self.outcome(function, buffer), expected, oracle)

    def test_slices_of_slices(self):
        for _ in range(400):
            buffer, oracle = self.pair()
            size = len(oracle)
            view, plain = memoryview(buffer), memoryview(oracle)
            for _ in range(3):
                low, high = (self.dice.randint(-size, size) for _ in "ab")
                step = self.dice.choice([None, 1, 2, -1])
                part = slice(low, high, step)
                self.assertEqual(buffer[part], oracle[part])
                view, plain = view[part], plain[part]
                self.assertEqual(view.tobytes(), plain.tobytes())
                self.assertEqual(view, plain)

    def test_regular_expressions(self):
        patterns = [
            rb"[a-z]+",
            rb"(\w)(\W?)",
            rb"\s",
            rb"(?s)^(.)(.*)$",
            rb"\d{2,}",
            rb"[^\x00-\x7f]",
        ]
        for _ in range(200):
            buffer, oracle = self.pair()
            pattern = re.compile(self.dice.choice(patterns))
            start = self.dice.randint(0, len(oracle))
            for name in ("findall", "split"):
                function = getattr(pattern, name)
                self.same(name, function(buffer), function(oracle), oracle)
            for name in ("search", "match", "fullmatch"):
                function = getattr(pattern, name)
                ours, theirs = function(buffer, start), function(oracle, start)
                self.assertEqual(
                    ours and (ours.span(), ours.groups()),
                    theirs and (theirs.span(), theirs.groups()),
                )
            self.assertEqual(pattern.sub(rb"<\g<0>>", buffer), pattern.sub(rb"<\g<0>>", oracle))
            escaped = re.escape(self.text(oracle))
            self.assertEqual(re.findall(escaped, buffer), re.findall(escaped, oracle))

    def test_numbers_and_records(self):
        for _ in range(200):
            buffer, oracle = self.pair()
            order = self.dice.choice(["big", "little"])
            signed = self.dice.random() < 0.5
            self.assertEqual(
                int.from_bytes(buffer, order, signed=signed),
                int.from_bytes(oracle, order, signed=signed),
            )
            layout = self.dice.choice(["<B", ">H", "!I", "<q", "3s", "<2Hx"])
            start = self.dice.randint(-3, len(oracle))
            unpack = struct.Struct(layout).unpack_from
            found = self.outcome(unpack, buffer, start)
            self.same(layout, found, self.outcome(unpack, oracle, start), oracle)
            size = struct.calcsize("<B")
            self.assertEqual(
                list(struct.iter_unpack("<B", buffer))[:9],
                list(struct.iter_unpack("<B", oracle))[:9],
            )
            self.assertEqual(size, 1)

    def test_hashes_and_joins(self):
        for _ in range(100):
            some = [self.pair() for _ in range(self.dice.randint(0, 6))]
            separator, plain = self.pair()
            ours, theirs = [one for one, _ in some], [one for _, one in some]
            self.assertEqual(b"".join(ours), b"".join(theirs))
            self.assertEqual(separator.join(ours), plain.join(theirs))
            self.assertEqual(plain.join(ours), plain.join(theirs))
            for name in ("sha256", "md5", "blake2b"):
                ours_, theirs_ = hashlib.new(name), hashlib.new(name)
                for one, other in some:
                    ours_.update(one)
                    theirs_.update(other)
                self.assertEqual(ours_.digest(), theirs_.digest())

    def test_documents(self):
        for buffer, oracle in live.buffers:
            found, expected = self.outcome(json.loads, buffer), self.outcome(json.loads, oracle)
            self.same("json.loads", found, expected, oracle)
            lines = io.BytesIO(buffer).readlines()
            self.assertEqual(lines, io.BytesIO(oracle).readlines())
            found = self.outcome(io.TextIOWrapper(io.BytesIO(buffer), "latin-1").read)
            self.assertEqual(
                found[2], oracle.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
            )
