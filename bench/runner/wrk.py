"""wrk, an HTTP client that others know, as a child process."""

import re
import subprocess

from server import Failed

UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def run(server, connections, seconds):
    """Requests for so many seconds (at least one, wrk counts whole ones), on one thread."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    done = subprocess.run(
        [*command, f"http://{server.address}/"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{server.name}: wrk said {done.stderr or done.stdout}")
    return parsed(done.stdout, server.name)


def parsed(text, name):
    """What wrk's report says. Raises if a request failed."""
    for failure in ("Socket errors", "Non-2xx"):
        if failure in text:
            raise Failed(f"{name}: wrk said {text}")
    requests = int(re.search(r"(\d+) requests in", text)[1])
    if requests == 0:
        raise Failed(f"{name} answered nothing")
    return {
        "requests": requests,
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50_us": _latency(text, "50%"),
        "p99_us": _latency(text, "99%"),
    }


def _latency(text, percentile):
    number, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", text).groups()
    return float(number) * UNITS[unit]
