"""Datagram protocols, without a socket: what they are, and what is said when they are wrong."""

import unittest

import erlang.reactor as reactor


class Quiet(reactor.DatagramProtocol):
    def __init__(self):
        super().__init__()
        self.calls = []

    def connection_made(self, transport):
        self.calls.append(("made", transport is self, self.get_extra_info("sockname")))

    def connection_lost(self, exc):
        self.calls.append(("lost", exc, self.closed))


class DatagramTest(unittest.TestCase):
    def test_a_new_one_has_no_socket(self):
        protocol = reactor._datagram_instance(Quiet)
        self.assertFalse(protocol.closed or protocol.is_closing())
        self.assertIsNone(protocol.get_extra_info("sockname"))
        with self.assertRaisesRegex(RuntimeError, "Quiet.send_to: there is no socket yet"):
            protocol.send_to(b"", ("127.0.0.1", 9))
        protocol.close()
        self.assertFalse(protocol.closed)

    def test_it_is_told_of_its_socket_and_of_the_end(self):
        protocol = reactor._datagram_instance(Quiet)
        reactor._datagram_open(object(), ("127.0.0.1", 4000), protocol)
        reactor._datagram_lost(protocol)
        self.assertEqual(
            protocol.calls, [("made", True, ("127.0.0.1", 4000)), ("lost", None, True)]
        )
        self.assertTrue(protocol.is_closing())
        self.assertIs(protocol.send_to(b"", ("127.0.0.1", 9)), False)
        self.assertEqual(protocol.get_extra_info("peername", 5), 5)

    def test_one_that_fails_to_begin_is_over(self):
        class Fails(Quiet):
            def connection_made(self, transport):
                raise ValueError("no")

        protocol = reactor._datagram_instance(Fails)
        with self.assertRaisesRegex(ValueError, "no"):
            reactor._datagram_open(object(), None, protocol)
        self.assertTrue(protocol.closed)

    def test_a_handle_is_checked(self):
        protocol = reactor._datagram_instance(Quiet)
        reactor._datagram_open(object(), None, protocol)
        with self.assertRaisesRegex(TypeError, "not that of a connection"):
            protocol.send_to(b"", ("127.0.0.1", 9))

    def test_what_a_factory_must_make(self):
        for made, text in (
            (lambda: None, "but it made None"),
            (lambda: Quiet, "but it made the class Quiet instead of an instance"),
            (reactor.Protocol, "but it made an instance of Protocol"),
        ):
            with self.assertRaisesRegex(TypeError, text):
                reactor._datagram_instance(made)
        old = reactor._datagram_instance(Quiet)
        reactor._datagram_open(object(), None, old)
        with self.assertRaisesRegex(TypeError, "one that it had made before"):
            reactor._datagram_instance(lambda: old)

    def test_what_a_subclass_must_define(self):
        with self.assertRaisesRegex(NotImplementedError, "define datagram_received"):
            reactor.DatagramProtocol().datagram_received(b"", ("127.0.0.1", 9))
