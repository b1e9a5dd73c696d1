"""Calls over a port. Who is measured makes them itself: there is no client that could."""

import subprocess
import time

import process
from server import Failed


def run(kind, callers, warmup, seconds):
    """Calls of so many processes: how many there were, in how many seconds, and the CPU time of the whole tree."""
    command = [*kind.command, str(callers), str(warmup), str(seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            _expect(child, "MEASURING", kind)
            pids = process.tree(child.pid)
            before, from_s = _clocks(pids), time.monotonic()
            calls, took_us = map(int, _expect(child, "MEASURED", kind))
            after, to_s = _clocks(pids), time.monotonic()
        finally:
            child.stdin.close()
    if not calls:
        raise Failed(f"{kind.name} answered nothing")
    server_s, machine_s = (late - early for early, late in zip(before, after))
    return {
        "requests_per_s": calls / (took_us / 1e6),
        "cpu_us": server_s * 1e6 / calls,
        # Somebody else's work during the measurement: the round is not to be trusted.
        "others": max(0.0, machine_s - server_s) / (to_s - from_s),
    }


def _clocks(pids):
    return process.cpu_s(pids), process.machine_busy_s()


def _expect(child, word, kind):
    for line in child.stdout:
        first, *rest = line.split()
        if first == word:
            return rest
    raise Failed(f"{kind.name} ended with {child.wait()}")
