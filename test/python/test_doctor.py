"""What the doctor says of modules that are not well."""

import sys
import types
import unittest

from erlang.reactor import doctor


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text for this")


class ImportTest(unittest.TestCase):
    def put(self, module):
        sys.modules["unwell"] = module
        self.addCleanup(sys.modules.pop, "unwell", None)

    def test_a_version_without_text_is_none(self):
        module = types.ModuleType("unwell")
        module.__version__ = Mute()
        self.put(module)
        self.assertEqual(doctor.try_import("unwell"), (True, ""))

    def test_a_module_that_refuses_to_be_asked(self):
        class Refuses(types.ModuleType):
            @property
            def __version__(self):
                raise RuntimeError("no")

        self.put(Refuses("unwell"))
        self.assertEqual(doctor.try_import("unwell"), (True, ""))

    def test_what_utf8_has_not_is_spelled_out(self):
        module = types.ModuleType("unwell")
        module.__version__ = "1\ud800"
        self.put(module)
        self.assertEqual(doctor.try_import("unwell"), (True, "1\\ud800"))

    def test_an_error_without_text_has_its_name(self):
        class Finder:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "unwell":
                    raise Mute

        sys.meta_path.insert(0, Finder)
        self.addCleanup(sys.meta_path.remove, Finder)
        self.assertEqual(doctor.try_import("unwell"), (False, "Mute"))
