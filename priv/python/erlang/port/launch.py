"""Starts a script for ``Reactor.Port``: sets its limits, says where it prints to, and runs it.

python launch.py [--limit NAME=N]... [--output SOCKET] -- SCRIPT [ARGUMENT]...
"""

import os
import runpy
import socket
import sys

# Not this directory, whose modules would be found by short names; it is not there with python -P.
_SAFE = getattr(sys.flags, "safe_path", False)
if not _SAFE:
    sys.path.pop(0)

from erlang.port import streams, watch  # noqa: E402
from erlang.port.settings import Settings  # noqa: E402


def _limit(text):
    import resource

    name, number = text.split("=")
    resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (int(number), int(number)))


def _print_to(path):
    # In this order: that is how the other side knows which is which.
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            os.dup2(connection.fileno(), descriptor)
        # Afresh, since the one that there is knows what kind of file it was made for.
        encoding = getattr(sys, name).encoding
        stream = open(descriptor, "w", 1, encoding, "backslashreplace", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main(arguments):
    """Does what the arguments say, and then runs the script as the main program."""
    missing = watch.die_with_parent()
    received, _ = streams.take()
    watch.watch(received, Settings.shutdown_s)
    while arguments[0] != "--":
        option, value = arguments[:2]
        {"--limit": _limit, "--output": _print_to}[option](value)
        arguments = arguments[2:]
    if missing:
        print(missing, file=sys.stderr)
    sys.argv = arguments[1:]
    script = sys.argv[0]
    if not _SAFE:
        # The script's own directory, as Python has it.
        sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
