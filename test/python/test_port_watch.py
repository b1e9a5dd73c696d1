"""What ties a script to who started it."""

import sys
import unittest
from unittest import mock

from erlang.port import watch


class WatchTest(unittest.TestCase):
    @unittest.skipUnless(sys.platform.startswith("linux"), "the kernel of Linux")
    def test_a_python_without_ctypes_is_told_of(self):
        # Where it is there the kernel would be told, and this process be killed with its parent.
        with mock.patch.dict(sys.modules, {"ctypes": None}):
            self.assertRegex(watch.die_with_parent(), "^this Python has no ctypes .*: if the VM is")


if __name__ == "__main__":
    unittest.main()
