"""Tests of what ends too late."""

import unittest

import erlang.reactor as reactor


class CallbackTimeoutTest(unittest.TestCase):
    def test_is_let_pass_by_who_catches_exceptions(self):
        self.assertFalse(issubclass(reactor.CallbackTimeout, Exception))

    def test_says_why_it_was_raised(self):
        self.assertIn("callback_timeout", str(reactor.CallbackTimeout()))
        self.assertEqual(str(reactor.CallbackTimeout("mine")), "mine")


if __name__ == "__main__":
    unittest.main()
