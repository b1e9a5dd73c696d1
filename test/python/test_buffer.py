"""ReactorBuffer against bytes: the same outcome for every method and operator."""

import base64
import binascii
import collections.abc
import copy
import hashlib
import hmac
import io
import json
import operator
import pickle
import random
import re
import struct
import sys
import unittest
import zlib

import live
from erlang.reactor import ReactorBuffer

NEEDLES = [
    b"",
    b"a",
    b"ab",
    b"\r\n",
    b" ",
    b"\xff\0",
    bytearray(b"b"),
    memoryview(b"aa"),
    97,
    0,
    255,
]
BOUNDS = [
    (),
    (0,),
    (1,),
    (-3,),
    (None, None),
    (2, None),
    (1, -1),
    (-5, 4),
    (9, 2),
    (-(10**30), 10**30),
]
# What to call each method of bytes with, besides what `arguments` adds at random.
ARGUMENTS = {
    "capitalize": [()],
    "center": [(0,), (50,), (47, b"*"), ("x",)],
    "count": [(n, *b) for n in NEEDLES for b in BOUNDS] + [(), ("a",), (256,), (-1,), (b"a", "b")],
    "decode": [("latin-1",), ("utf-8", "replace"), ("ascii", "ignore"), ("utf-16", "replace")]
    + [(), ("ascii",), ("no such",), ("hex",), (1,), ("utf-8", "strict", 3)],
    "endswith": [(n, *b) for n in NEEDLES[:8] for b in BOUNDS]
    + [((b"a", b"b"),), ((),), (("a",),)],
    "expandtabs": [(), (4,), (0,)],
    "find": [(n, *b) for n in NEEDLES for b in BOUNDS] + [(), ("a",), (256,), (b"a", 0, 1, 2)],
    "fromhex": [("00ff",), ("xyz",)],
    "hex": [(), (":",), ("-", 2), (b":", -2)],
    "index": [(n, *b) for n in NEEDLES for b in BOUNDS] + [(), ("a",)],
    "join": [([b"x", b"y"],), ([],), ([1],), ((bytearray(b"1"), memoryview(b"2")),)],
    "ljust": [(50,), (50, b"-")],
    "maketrans": [(b"ab", b"ba"), (b"a", b"")],
    "partition": [(b"a",), (b"\r\n",), (b"",), ("a",)],
    "removeprefix": [(b"a",), (b"GET",), (b"",)],
    "removesuffix": [(b"a",), (b"\r\n",), (b"",)],
    "replace": [(b"a", b"xyz"), (b"", b"-", 3), (b"ab", b""), ("a", "b")],
    "rfind": [(n, *b) for n in NEEDLES for b in BOUNDS] + [(), ("a",)],
    "rindex": [(n, *b) for n in NEEDLES for b in BOUNDS] + [()],
    "rjust": [(50,), (50, b"-")],
    "rpartition": [(b"a",), (b"\r\n",), (b"",)],
    "rsplit": [(), (b"a",), (b" ", 2), (None, 1), (b"",)],
    "split": [(), (b"a",), (b" ", 2), (None, 1), (b"",), ("a",)],
    "splitlines": [(), (True,)],
    "startswith": [(n, *b) for n in NEEDLES[:8] for b in BOUNDS] + [((b"a", b"G"),), ("a",), (1,)],
    "strip": [(), (b"a b",), (None,)],
    "lstrip": [(), (b"a b",)],
    "rstrip": [(), (b"a b",), ("a",)],
    "translate": [(bytes(range(255, -1, -1)),), (None, b"ab"), (b"short",)],
    "zfill": [(0,), (50,)],
}
KEYWORDS = [
    ("decode", {"encoding": "latin-1"}),
    ("decode", {"errors": "replace"}),
    ("decode", {"encoding": "ascii", "errors": "backslashreplace"}),
    ("decode", {"nonsense": 1}),
    ("split", {"sep": b"a", "maxsplit": 1}),
    ("rsplit", {"maxsplit": 2}),
    ("splitlines", {"keepends": True}),
    ("expandtabs", {"tabsize": 3}),
    ("hex", {"sep": ":", "bytes_per_sep": 3}),
    ("translate", {"table": None, "delete": b"a"}),
    ("find", {"sub": b"a"}),
]


def outcome(function, *args, **kwargs):
    """What a call returned, or which exception it raised."""
    try:
        return "returned", function(*args, **kwargs)
    except Exception as error:
        # UnicodeDecodeError and others are compared by what they derive from bytes as well.
        return "raised", type(error), getattr(error, "start", None), getattr(error, "reason", None)


class OracleTest(unittest.TestCase):
    def setUp(self):
        self.assertGreater(len(live.buffers), 80)
        self.dice = random.Random(live.seed)

    def assertSame(self, found, expected, what, oracle):
        if found != expected or (
            found[0] == "returned" and type(found[1]) is not type(expected[1])
        ):
            self.fail(f"{what} of {oracle[:60]!r}...: {found!r:.200}, bytes: {expected!r:.200}")

    def both(self, what, function):
        for buffer, oracle in live.buffers:
            self.assertSame(outcome(function, buffer), outcome(function, oracle), what, oracle)

    def pieces(self, oracle):
        """Parts of the data itself, long and short: needles that are there."""
        for _ in range(6):
            start = self.dice.randrange(len(oracle))
            yield oracle[start : start + self.dice.choice([1, 2, 3, 7, 100, 3000])]

    def test_every_buffer_holds_what_was_sent(self):
        for buffer, oracle in live.buffers:
            self.assertIs(type(buffer), ReactorBuffer)
            self.assertEqual(bytes(buffer), oracle)
            self.assertIs(type(bytes(buffer)), bytes)

    def test_the_cases_cover_every_method_of_bytes(self):
        names = {name for name in dir(bytes) if name[0] != "_"}
        plain = {
            n for n in names if n.startswith("is") or n in ("lower", "upper", "swapcase", "title")
        }
        self.assertEqual(names - plain - set(ARGUMENTS), set())
        for name in plain:
            self.both(name, lambda data, name=name: getattr(data, name)())

    def test_it_has_every_name_that_bytes_has(self):
        names = set(dir(bytes))
        missing = {name for name in names if not hasattr(live.buffers[0][0], name)}
        self.assertEqual(missing, set())
        self.assertLessEqual(names | {"memoryview"}, set(dir(live.buffers[0][0])))

    def test_methods(self):
        for name, calls in ARGUMENTS.items():
            for args in calls:
                self.both(f"{name}{args!r}", lambda data, n=name, a=args: getattr(data, n)(*a))

    def test_keyword_arguments(self):
        for name, kwargs in KEYWORDS:
            self.both(f"{name}({kwargs})", lambda data, n=name, k=kwargs: getattr(data, n)(**k))

    def test_searching_for_parts_of_the_data(self):
        names = "find rfind index rindex count startswith endswith partition split replace".split()
        for buffer, oracle in live.buffers:
            for piece in self.pieces(oracle):
                low, high = sorted(self.dice.randint(-len(oracle), len(oracle)) for _ in "ab")
                for name in names:
                    args = (piece,) if name != "replace" else (piece, b"<>")
                    calls = [args]
                    if name not in ("partition", "split", "replace"):
                        calls += [(piece, low), (piece, low, high), (piece, high, low)]
                    for call in calls:
                        found = outcome(getattr(buffer, name), *call)
                        self.assertSame(found, outcome(getattr(oracle, name), *call), name, oracle)
                self.assertIn(piece, buffer)

    def test_searching_for_other_buffers(self):
        for buffer, oracle in live.buffers[:40]:
            for needle, plain in live.buffers[:40]:
                self.assertEqual(buffer.find(needle), oracle.find(plain))
                self.assertEqual(oracle.find(needle), oracle.find(plain))
                self.assertEqual(needle in buffer, plain in oracle)
                self.assertEqual(needle in oracle, plain in oracle)
                self.assertEqual(buffer.startswith((b"?", needle)), oracle.startswith(plain))
                self.assertEqual(buffer.split(needle), oracle.split(plain))

    def test_membership(self):
        for item in [*NEEDLES, 256, -1, "a", None, 10**30]:
            self.both(f"{item!r} in", lambda data, item=item: item in data)

    def test_indices(self):
        for buffer, oracle in live.buffers:
            some = [self.dice.randint(-len(oracle) - 2, len(oracle) + 2) for _ in range(20)]
            for index in [*some, 0, -1, 10**30, True, "0", None, 1.0]:
                get = operator.itemgetter(index)
                self.assertSame(outcome(get, buffer), outcome(get, oracle), index, oracle)

    def test_slices(self):
        for buffer, oracle in live.buffers:
            for _ in range(40):
                ends = [self.dice.choice([None, self.dice.randint(-50, 50)]) for _ in "ab"]
                step = self.dice.choice([None, 1, 1, 2, 3, -1, -2, -7, 1000, -sys.maxsize, 0])
                get = operator.itemgetter(slice(*ends, step))
                self.assertSame(outcome(get, buffer), outcome(get, oracle), (ends, step), oracle)
        self.both("[:]", operator.itemgetter(slice(None)))
        self.both("['a':]", operator.itemgetter(slice("a", None)))

    def test_iteration(self):
        self.both("list", list)
        self.both("reversed", lambda data: list(reversed(data)))
        self.both("enumerate", lambda data: list(enumerate(data))[-3:])
        self.both("max", max)
        self.both("sorted", sorted)
        self.both("iterator's hint", lambda data: operator.length_hint(iter(data)))

    def test_comparison(self):
        relations = "eq ne lt le gt ge".split()
        for buffer, oracle in live.buffers:
            near = [oracle, oracle[:-1], oracle + b"\0", oracle[:-1] + b"\x80", b"", b"\xff" * 9]
            others = [kind(data) for data in near for kind in (bytes, bytearray, memoryview)]
            for other in [*others, "text", 1, None, [1]]:
                for relation in (getattr(operator, name) for name in relations):
                    for swap in (False, True):
                        call = (lambda a, b, r=relation: r(b, a)) if swap else relation
                        found = outcome(call, buffer, other)
                        self.assertSame(found, outcome(call, oracle, other), other, oracle)

    def test_comparison_with_other_buffers(self):
        for buffer, oracle in live.buffers[:40]:
            for other, plain in live.buffers[:40]:
                for name in "eq ne lt le gt ge".split():
                    relation = getattr(operator, name)
                    self.assertEqual(relation(buffer, other), relation(oracle, plain))

    def test_hashing(self):
        self.both("hash", hash)
        self.both("hash again", hash)
        buffer, oracle = live.buffers[-1]
        self.assertEqual({oracle: 1}[buffer], 1)
        self.assertIn(oracle, {buffer})

    def test_concatenation(self):
        for other in (b"", b"tail", bytearray(b"xyz"), memoryview(b"mv"), "text", 1, None):
            self.both(f"+ {other!r}", lambda data, other=other: data + other)
            self.both(f"{other!r} +", lambda data, other=other: _plus(other, data))
        for (buffer, oracle), (other, plain) in zip(live.buffers, reversed(live.buffers)):
            self.assertEqual(buffer + other, oracle + plain)

    def test_repetition(self):
        for times in (0, 1, 3, -1, True, "a", 1.5, None):
            self.both(f"* {times!r}", lambda data, times=times: data * times)
            self.both(f"{times!r} *", lambda data, times=times: times * data)

    def test_formatting(self):
        for values in ((), (1,), (b"x",), (b"x", 2), {b"s": 1}, "text", None):
            self.both(f"% {values!r}", lambda data, values=values: data % values)
        self.both("in a format", lambda data: b"<%s>" % data)
        self.both("in a format of text", lambda data: f"<{data}> {data!r} {data!s:.9}")
        self.both("format with a width", lambda data: format(data, "5"))

    def test_conversion(self):
        for kind in (
            repr,
            str,
            bool,
            len,
            bytes,
            bytearray,
            list,
            tuple,
            set,
            int,
            float,
            memoryview,
        ):
            self.both(kind.__name__, kind)
        self.both("str as utf-8", lambda data: str(data, "utf-8", "replace"))
        self.both("ascii", ascii)
        self.both("int.from_bytes", lambda data: int.from_bytes(data, "big"))
        self.both(
            "__bytes__", lambda data: bytes(data.__bytes__()) if hasattr(b"", "__bytes__") else 0
        )
        self.both("__getnewargs__", lambda data: data.__getnewargs__())

    def test_copies_and_pickles_are_bytes(self):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            self.both("pickle", lambda data, p=protocol: pickle.loads(pickle.dumps(data, p)))
        self.both("copy", copy.copy)
        self.both("deepcopy", copy.deepcopy)

    def test_the_standard_library_takes_it(self):
        for name, function in {
            "re.findall": lambda data: re.findall(rb"[a-f0-9]+", data),
            "re.sub": lambda data: re.sub(rb"\s", b"_", data),
            "re.match": lambda data: re.match(rb"(.)(.*)", data, re.S).groups(),
            "struct.unpack": lambda data: struct.unpack_from("<B", data),
            "sha256": lambda data: hashlib.sha256(data).hexdigest(),
            "hmac": lambda data: hmac.new(b"key", data, "sha1").digest(),
            "compare_digest": lambda data: hmac.compare_digest(data, b"a"),
            "crc32": zlib.crc32,
            "compress": zlib.compress,
            "hexlify": binascii.hexlify,
            "base64": base64.b64encode,
            "json": json.loads,
            "join": lambda data: b"-".join([data, b"x", data]),
            "bytes.join": lambda data: b"".join(data.split()),
            "BytesIO": lambda data: io.BytesIO(data).read(),
            "BufferedReader": lambda data: io.BytesIO(data).readlines(),
            "bytearray.extend": lambda data: _mutated(bytearray(b"head"), "extend", data),
            "bytearray slice": lambda data: _mutated(
                bytearray(b"head"), "__setitem__", slice(1, 2), data
            ),
            "bytearray +=": lambda data: _plus(bytearray(b"head"), data),
            "bytearray.find": lambda data: bytearray(b"xxab").find(data),
            "bytearray.replace": lambda data: bytearray(b"xxab").replace(b"x", data),
            "bytes.replace": lambda data: b"xxab".replace(b"x", data),
            "bytes.strip": lambda data: b"aab xx".strip(data),
            "list.extend": lambda data: _mutated([], "extend", data),
        }.items():
            with self.subTest(name):
                self.both(name, function)

    def test_it_passes_for_bytes(self):
        data = live.buffers[0][0]
        for kind in (bytes, (str, bytes), collections.abc.Sequence, collections.abc.Hashable):
            self.assertIsInstance(data, kind)
        self.assertIs(type(data), ReactorBuffer)
        self.assertNotIsInstance(b"", ReactorBuffer)

    def test_nobody_makes_or_changes_one(self):
        data = live.buffers[0][0]
        for attempt in (
            ReactorBuffer,
            lambda: ReactorBuffer(b"x"),
            lambda: object.__new__(ReactorBuffer),
            lambda: type("Sub", (ReactorBuffer,), {}),
            lambda: operator.setitem(data, 0, 1),
            lambda: operator.delitem(data, 0),
            lambda: operator.setitem(memoryview(data), 0, 1),
            lambda: setattr(data, "name", 1),
        ):
            self.assertRaises((TypeError, AttributeError), attempt)


def _plus(one, other):
    return one + other


def _mutated(target, method, *args):
    getattr(target, method)(*args)
    return target
