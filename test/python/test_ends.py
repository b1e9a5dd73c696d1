"""Why a connection ended, and which connection_lost is told."""

import sys
import unittest

import erlang.reactor as reactor
from cases import Pair
from erlang.reactor import ends


class Old(reactor.Protocol):
    lost = None

    def connection_lost(self):
        self.lost = "without"


class New(reactor.Protocol):
    lost = None

    def connection_lost(self, exc):
        self.lost = exc


class SignatureTest(Pair):
    def lose(self, factory, reason="reset", error=None):
        protocol = self.connect(factory)
        reactor._lost(protocol, reason, error)
        return protocol

    def test_none_is_given_to_one_that_takes_none(self):
        self.assertEqual(self.lose(Old).lost, "without")
        self.assertIsInstance(self.lose(New).lost, ConnectionResetError)

    def test_a_default_or_any_arguments_will_do(self):
        class Default(New):
            def connection_lost(self, exc=None):
                super().connection_lost(exc)

        class Any(New):
            def connection_lost(self, *args, **kwargs):
                super().connection_lost(*args, **kwargs)

        for factory in (Default, Any):
            self.assertIsInstance(self.lose(factory).lost, ConnectionResetError)

    def test_the_class_of_the_object_counts_and_super_may_be_called_either_way(self):
        class NewOnOld(Old):
            def connection_lost(self, exc):
                super().connection_lost()
                self.lost = (self.lost, exc)

        class OldOnBase(reactor.Protocol):
            def connection_lost(self):
                super().connection_lost()
                self.lost = "base"

        class NewOnBase(reactor.Protocol):
            def connection_lost(self, exc):
                super().connection_lost(exc)
                self.lost = "base"

        class Inherits(NewOnOld):
            pass

        self.assertEqual(self.lose(NewOnOld).lost[0], "without")
        self.assertEqual(self.lose(Inherits).lost[0], "without")
        self.assertEqual(self.lose(OldOnBase).lost, "base")
        self.assertEqual(self.lose(NewOnBase).lost, "base")

    def test_one_that_is_set_on_the_object_or_changed_in_the_class(self):
        class Changing(reactor.Protocol):
            def connection_lost(self):
                self.lost = "first"

        self.assertEqual(self.lose(Changing).lost, "first")
        Changing.connection_lost = New.connection_lost
        self.assertIsInstance(self.lose(Changing).lost, ConnectionResetError)
        seen = []
        protocol = self.connect(Old)
        protocol.connection_lost = lambda: seen.append("own")
        reactor._lost(protocol, "reset")
        self.assertEqual(seen, ["own"])

    def test_one_whose_signature_cannot_be_had_is_called_without(self):
        class Unsigned:
            called = None

            @property
            def __signature__(self):
                raise RuntimeError("it has none")

            def __call__(self, *args):
                self.called = args

        protocol = self.connect(Old)
        protocol.connection_lost = unsigned = Unsigned()
        reactor._lost(protocol, "reset")
        self.assertEqual(unsigned.called, ())

    @unittest.skipIf(sys.version_info < (3, 14), "annotations are evaluated at once")
    def test_annotations_may_name_what_is_not_there(self):
        names = {"New": New}
        exec(
            "class Typed(New):\n"
            "    def connection_lost(self, exc: Missing | None) -> Missing:\n"
            "        super().connection_lost(exc)\n",
            names,
        )
        self.assertIsInstance(self.lose(names["Typed"]).lost, ConnectionResetError)

    def test_many_classes_are_not_kept_alive(self):
        for _ in range(1100):
            self.lose(type("Passing", (New,), {"connection_lost": lambda self, exc: None}))
        self.assertLessEqual(len(ends._takes_exc), ends._MOST)


class ReasonTest(Pair):
    def test_what_each_reason_is(self):
        raised = ValueError("raised")
        for reason, kind, text in (
            ("local", type(None), "None"),
            ("remote", type(None), "None"),
            ("reset", ConnectionResetError, "broke"),
            ("idle_timeout", reactor.DeadlineExceeded, "idle_timeout: "),
            ("first_byte_timeout", TimeoutError, "first_byte_timeout: "),
            ("stall_timeout", TimeoutError, "stall_timeout: "),
            ("max_lifetime", TimeoutError, "max_lifetime: "),
            ("min_rate", TimeoutError, "min_rate: "),
            ("drained", reactor.Drained, "idle"),
            ("cut", reactor.Cut, "in time"),
            ("truncated", ConnectionAbortedError, "TLS"),
            ("tls_alert", ConnectionAbortedError, "TLS"),
            ("exception", ValueError, "raised"),
            ("a newer one", ValueError, "raised"),
        ):
            with self.subTest(reason):
                protocol = self.connect(New)
                self.assertIsNone(protocol.close_reason)
                reactor._lost(protocol, reason, raised)
                self.assertIsInstance(protocol.lost, kind)
                self.assertIn(text, str(protocol.lost))
                self.assertEqual(protocol.close_reason, reason)
                if issubclass(kind, TimeoutError):
                    self.assertEqual(protocol.lost.deadline, reason)

    def test_a_reason_that_is_not_known_is_still_an_error(self):
        protocol = self.connect(New)
        reactor._lost(protocol, "a newer one")
        self.assertIsInstance(protocol.lost, ConnectionAbortedError)

    def test_a_cut_is_a_drain(self):
        self.assertTrue(issubclass(reactor.Cut, reactor.Drained))
        self.assertTrue(issubclass(reactor.Drained, ConnectionError))

    def test_close_connection_is_local(self):
        protocol = self.connect(New)
        reactor.close_connection(self.fd)
        self.assertEqual((protocol.lost, protocol.close_reason), (None, "local"))


class FlowTest(Pair):
    def test_flow_needs_a_connection(self):
        for name in ("pause_reading", "resume_reading", "write_eof"):
            with self.assertRaisesRegex(RuntimeError, f"Protocol.{name}: there is no connection"):
                getattr(reactor.Protocol(), name)()

    def test_flow_needs_an_event_loop(self):
        protocol = self.connect(New)
        for name in ("pause_reading", "resume_reading", "write_eof"):
            with self.assertRaisesRegex(RuntimeError, f"New.{name}: whoever called"):
                getattr(protocol, name)()
        reactor.close_connection(self.fd)
        for name in ("pause_reading", "resume_reading", "write_eof"):
            self.assertIsNone(getattr(protocol, name)())

    def test_what_is_not_overridden_says_nothing(self):
        protocol = reactor.Protocol()
        self.assertIsNone(protocol.eof_received())
        self.assertIsNone(protocol.pause_writing())
        self.assertIsNone(protocol.resume_writing())
