"""BERT, to and from Python. test/reactor/bert_rpc/python_test.exs has it against Elixir's."""

import datetime
import re
import sys
import unittest

from erlang import bert, etf
from erlang.terms import Atom, BitString, Pid

UTC = datetime.timezone.utc


class BertTest(unittest.TestCase):
    def assertWritten(self, value, expected):
        self.assertEqual(etf.decode(bert.encode(value)), expected)

    def read(self, term):
        return bert.decode(etf.encode(term))

    def test_complex_types(self):
        name = Atom("bert")
        self.assertWritten(None, (name, None))
        self.assertWritten([True, (False,)], [(name, True), ((name, False),)])
        self.assertWritten({"a": {}}, (name, Atom("dict"), [("a", (name, Atom("dict"), []))]))
        moment = datetime.datetime(2009, 10, 11, 14, 12, 1, 446_228, tzinfo=UTC)
        self.assertWritten(moment, (name, Atom("time"), 1255, 270_321, 446_228))
        early = datetime.datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
        self.assertWritten(early, (name, Atom("time"), -1, 999_999, 500_000))
        pattern = re.compile("^c(a*)t$", re.IGNORECASE)
        self.assertWritten(pattern, (name, Atom("regex"), "^c(a*)t$", [Atom("caseless")]))

    def test_all_of_them_come_back(self):
        value = [
            {1: [None, True, False], "two": {Atom("three"): ()}},
            (Atom("ok"), 1.5, -(2**100), "text", b"\xff", [1, 2], []),
            datetime.datetime(1, 1, 1, tzinfo=UTC),
            re.compile("a.b", re.DOTALL | re.VERBOSE | re.MULTILINE),
        ]
        self.assertEqual(bert.decode(bert.encode(value)), value)
        self.assertEqual(bert.decode(bert.encode("a"), binaries="bytes"), b"a")

    def test_only_the_specifications_tags_are_written(self):
        self.assertEqual(bert.encode({}), b"\x83h\x03d\0\x04bertd\0\x04dictj")
        self.assertEqual(bert.encode(1.5)[1:8], b"c1.5000")

    def test_what_bert_has_nothing_for(self):
        for value, path in (
            ([1, {"a": {1}}], 'value[1]["a"]'),
            ({1: datetime.date(2020, 1, 1)}, "value[...]"),
            (datetime.datetime(2020, 1, 1), "value"),
            ((BitString(b"\x80", 1),), "value[0]"),
            (Pid(b"x"), "value"),
        ):
            with self.assertRaises(etf.EncodeError) as caught:
                bert.encode(value)
            self.assertEqual(caught.exception.path, path)
        with self.assertRaisesRegex(etf.EncodeError, "must not begin with the atom bert"):
            bert.encode([(Atom("bert"), 1)])
        self.assertEqual(bert.decode(bert.encode(("bert", 1))), ("bert", 1))

    def test_limits(self):
        endless = []
        endless.append(endless)
        with self.assertRaisesRegex(etf.EncodeError, "contains itself"):
            bert.encode(endless)
        many = [1, 2]
        for _ in range(50):
            many = [many, many]
        with self.assertRaisesRegex(etf.EncodeError, "larger than is allowed"):
            bert.encode(many, max_size=10_000)
        with self.assertRaisesRegex(etf.EncodeError, "larger than is allowed"):
            bert.encode("a" * 100, max_size=100)
        with self.assertRaisesRegex(etf.DecodeError, "100 are allowed"):
            bert.decode(bert.encode("a" * 100), max_size=100)
        deep = 1
        for _ in range(60):
            deep = {"a": deep}
        self.assertEqual(bert.decode(bert.encode(deep)), deep)
        with self.assertRaisesRegex(etf.DecodeError, "nested deeper"):
            bert.decode(b"\x83" + b"h\1" * 300 + b"j")

    def test_what_is_no_bert(self):
        name, dict_, time, regex = (Atom(text) for text in ("bert", "dict", "time", "regex"))
        for term, reason in (
            ((name,), "none of BERT's types"),
            ([(name, Atom("other"))], "none of BERT's types"),
            ((name, time, 1, 2, True), "none of BERT's types"),
            ((name, time, 10**20, 0, 0), "out of range"),
            ((name, dict_, [(1, 2), (1.0, 3)]), "equal in Python"),
            ((name, dict_, [(sys.hash_info.modulus * n, 0) for n in range(257)]), "same hash"),
            ((name, dict_, [1]), "list of pairs"),
            ((name, dict_, [([], 2)]), "a list cannot be a key"),
            ((name, regex, "(", []), "cannot be compiled"),
            ((name, regex, 7, []), "cannot be compiled"),
            ((name, regex, "a", [Atom("anchored")]), "an option that Python's have not"),
            ((name, regex, "a", [1]), "an option that Python's have not"),
        ):
            with self.assertRaisesRegex(etf.DecodeError, f"^[^:]*{reason}"):
                self.read(term)

    def test_what_others_write_in_erlangs_own_way(self):
        self.assertEqual(
            self.read([None, True, {1: (Atom("bert"), None)}]), [None, True, {1: None}]
        )


if __name__ == "__main__":
    unittest.main()
