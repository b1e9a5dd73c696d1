"""Who makes protocols: set_protocol_factory, and how a listener's specification is resolved."""

import os
import pickle
import sys
import tempfile
from unittest import mock

import erlang.reactor as reactor
from cases import Pair, Recorder
from erlang.reactor import factory as factories


class FactoryTest(Pair):
    def test_what_cannot_be_called(self):
        with self.assertRaisesRegex(TypeError, "callable, not 5"):
            reactor.set_protocol_factory(5)

    def test_no_factory(self):
        factories._by_context.clear()
        with self.assertRaisesRegex(RuntimeError, "set_protocol_factory"):
            reactor.init_connection(self.fd, {})

    def test_a_factory_with_arguments_of_its_own(self):
        class Greeting(Recorder):
            def __init__(self, text):
                super().__init__()
                self.text = text

        self.assertEqual(self.connect(lambda: Greeting("hi")).text, "hi")

    def test_contexts_have_factories_of_their_own(self):
        class One(Recorder):
            pass

        class Two(Recorder):
            pass

        with mock.patch.object(factories._reactor, "context", create=True) as context:
            for number, factory in ((None, Recorder), (901, One), (902, Two)):
                context.return_value = number
                reactor.set_protocol_factory(factory)
            for number, factory in ((901, One), (902, Two), (903, Recorder), (None, Recorder)):
                context.return_value = number
                self.assertIs(factories.current_factory(), factory)
            factories._end_context(901)
            context.return_value = 901
            self.assertIs(factories.current_factory(), Recorder)

    def test_what_is_handed_over_is_for_what_was_set_in_the_context(self):
        with mock.patch.object(factories._reactor, "context", create=True) as context:
            context.return_value = 901
            factories._by_context.clear()
            with self.assertRaisesRegex(RuntimeError, "set_protocol_factory"):
                factories._own_factory(None)
            factories._by_context[None] = list
            self.assertIs(factories._own_factory(None), list)
            # What was loaded by name comes before what is for all contexts.
            self.assertIs(factories._own_factory(tuple), tuple)
            reactor.set_protocol_factory(Recorder)
            self.assertIs(factories._own_factory(tuple), Recorder)

    def test_factories_that_make_something_else(self):
        def nothing():
            return None

        once = Recorder()
        for factory, text in (
            (nothing, "nothing must make a reactor.Protocol, but it made None"),
            (lambda: Recorder, "made the class Recorder instead of an instance"),
            (list, "builtins.list must make.* made an instance of list"),
        ):
            with self.assertRaisesRegex(TypeError, text):
                self.connect(factory)
            self.assertIsNone(reactor.get_protocol(self.fd))
        self.assertIs(self.connect(lambda: once), once)
        reactor.close_connection(self.fd)
        with self.assertRaisesRegex(TypeError, f"new protocol.*served fd {self.fd} again"):
            self.connect(lambda: once)

    def test_a_factory_that_raises(self):
        with self.assertRaises(ZeroDivisionError):
            self.connect(lambda: 1 / 0)
        self.assertIsNone(reactor.get_protocol(self.fd))


class ResolveTest(Pair):
    """Modules are written to a folder of each test, under names of its own."""

    def setUp(self):
        super().setUp()
        self.known = set(sys.modules)
        self.addCleanup(self.unload)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def unload(self):
        for name in set(sys.modules) - self.known:
            del sys.modules[name]

    def write(self, path, text):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("import erlang.reactor as reactor\n" + text)

    def resolve(self, spec, *folders):
        return reactor._resolve(spec, [os.path.join(self.folder, f) for f in folders or ("",)])

    def test_a_class_a_function_and_a_dotted_name(self):
        self.write(
            "served.py", "class P(reactor.Protocol):\n    other = classmethod(lambda c: c())\n"
        )
        factory = self.resolve("served:P")
        self.assertEqual((factory.__name__, factory.__module__), ("P", "served"))
        self.assertIs(type(self.resolve("served:P.other")()), factory)

    def test_a_module_in_a_package(self):
        self.write("pack/__init__.py", "")
        self.write("pack/inner.py", "class P(reactor.Protocol): pass\n")
        self.assertEqual(self.resolve("pack.inner:P").__module__, "pack.inner")

    def test_the_factory_that_a_module_sets(self):
        self.write("sets.py", "class P(reactor.Protocol): pass\nreactor.set_protocol_factory(P)\n")
        factory = self.resolve("sets")
        self.assertEqual(factory.__module__, "sets")
        # Another context asks: the module does not run again.
        with mock.patch.object(factories._reactor, "context", return_value=904, create=True):
            self.assertIs(self.resolve("sets"), factory)
            self.assertIs(factories.current_factory(), factory)

    def test_the_factory_that_a_module_sets_through_another(self):
        self.write(
            "setter.py",
            "class P(reactor.Protocol): pass\ndef go(): reactor.set_protocol_factory(P)\n",
        )
        self.write("caller.py", "import setter\nsetter.go()\n")
        factory = self.resolve("caller")
        self.assertEqual(factory.__module__, "setter")
        self.assertIs(self.resolve("caller"), factory)

    def test_paths_come_first_and_once(self):
        self.write("one/first.py", "P = reactor.Protocol\n")
        self.write("two/second.py", "P = reactor.Protocol\n")
        self.resolve("first:P", "one")
        self.resolve("second:P", "two", "one", "two")
        expected = [os.path.join(self.folder, name) for name in ("two", "one")]
        self.assertEqual(sys.path[:2], expected)
        self.assertEqual([sys.path.count(path) for path in expected], [1, 1])

    def test_what_is_no_name(self):
        for spec in ("", ":", "a:", ":b", "a b", "a:b:c", "a..b", "a.py:", "../a", "a:b-c"):
            self.assertRaisesRegex(ValueError, "module:factory", self.resolve, spec)

    def test_a_missing_module(self):
        with self.assertRaisesRegex(ModuleNotFoundError, f"absent.*{self.folder}") as caught:
            self.resolve("absent:P")
        self.assertEqual(caught.exception.name, "absent")

    def test_a_module_that_needs_a_missing_one(self):
        self.write("needy.py", "import absent_too\n")
        with self.assertRaisesRegex(ModuleNotFoundError, "No module named 'absent_too'"):
            self.resolve("needy:P")

    def test_a_module_that_raises(self):
        self.write("broken.py", "1 / 0\n")
        self.assertRaises(ZeroDivisionError, self.resolve, "broken:P")
        self.write("garbled.py", "def\n")
        self.assertRaises(SyntaxError, self.resolve, "garbled")

    def test_what_a_module_sets_before_it_fails_is_forgotten(self):
        text = "class P(reactor.Protocol): pass\nreactor.set_protocol_factory(P)\n"
        self.write("well.py", text)
        self.write("ill.py", text + "1 / 0\n")
        factory = self.resolve("well")
        self.assertRaises(ZeroDivisionError, self.resolve, "ill")
        self.assertIs(factories.current_factory(), factory)
        factories._by_context.clear()
        self.assertRaises(ZeroDivisionError, self.resolve, "ill:P")
        self.assertRaises(RuntimeError, factories.current_factory)

    def test_a_missing_attribute(self):
        self.write("has.py", "def make(): pass\nclass Shape(reactor.Protocol): pass\nNUMBER = 1\n")
        with self.assertRaisesRegex(AttributeError, r"has \(.*has.py\) has no.*'P'.* Shape, make$"):
            self.resolve("has:P")
        with self.assertRaisesRegex(AttributeError, "has.Shape .*no attribute 'more'"):
            self.resolve("has:Shape.more")
        with self.assertRaisesRegex(TypeError, "has.NUMBER is no protocol factory: int is not"):
            self.resolve("has:NUMBER")

    def test_a_module_that_sets_no_factory(self):
        self.write("silent.py", "P = 1\n")
        with self.assertRaisesRegex(LookupError, "'silent' did not call.*silent:factory"):
            self.resolve("silent")

    def test_two_files_of_one_name(self):
        self.write("one/twin.py", "class P(reactor.Protocol): pass\n")
        self.write("two/twin.py", "class P(reactor.Protocol): pass\n")
        factory = self.resolve("twin:P", "one")
        with self.assertRaisesRegex(ImportError, "already loaded from .*one.twin.py.*two.twin.py"):
            self.resolve("twin:P", "two")
        self.assertIs(self.resolve("twin:P", "one"), factory)
        # A name of the standard library counts too.
        self.write("three/pickle.py", "P = 1\n")
        with self.assertRaisesRegex(ImportError, f"already loaded from {pickle.__file__}"):
            self.resolve("pickle:P", "three")

    def test_two_packages_of_one_name(self):
        self.write("one/pack/__init__.py", "")
        self.write("one/pack/mod.py", "P = reactor.Protocol\n")
        self.write("two/pack/__init__.py", "")
        self.write("two/pack/other.py", "P = reactor.Protocol\n")
        self.resolve("pack.mod:P", "one")
        with self.assertRaisesRegex(ImportError, "'pack' is already loaded"):
            self.resolve("pack.other:P", "two")
