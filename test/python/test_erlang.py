"""``erlang`` in a Python process with no BEAM around it."""

import subprocess
import sys
import unittest
from pathlib import Path

PYTHON = str(Path(__file__).resolve().parents[2] / "priv" / "python")


def alone(code):
    """What a Python of its own prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": PYTHON},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run.stdout.strip(), run.stderr


class Alone(unittest.TestCase):
    def test_terms_are_there(self):
        printed, _ = alone(
            "from erlang import Atom, Pid; print(Atom('a') == 'a', 'Pid' in dir(__import__('erlang')))"
        )
        self.assertEqual(printed, "True True")

    def test_a_function_is_not(self):
        _, error = alone("import erlang; erlang.price_of")
        self.assertIn("AttributeError: module 'erlang' has no 'price_of'", error)
        _, error = alone("from erlang import price_of")
        self.assertIn("ImportError", error)

    def test_calls_are_not(self):
        _, error = alone("import erlang; erlang.call('f')")
        self.assertIn("No module named '_reactor'", error)


if __name__ == "__main__":
    unittest.main()
