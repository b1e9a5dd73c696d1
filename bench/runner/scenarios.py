"""What is measured: each scenario takes a fresh server and returns one sample, a dictionary."""

import subprocess
import time
from dataclasses import dataclass, field

import port_calls
import process
import wrk
from certificate import Certificate
from client import Load
from server import Failed, Server

ACCEPT_S = 60

# What the load client offers, and so what every server has to agree on.
TLS = "TLSv1_3 TLS_AES_128_GCM_SHA256 X25519 Full"


@dataclass(frozen=True)
class Settings:
    """How long and how much; the same for every server of a run."""

    binary: str
    seconds: float
    warmup: float
    settle: float
    rounds: int
    idle_rounds: int
    idle_connections: int
    threads: int
    # None where nothing is measured over TLS.
    certificate: Certificate = None


@dataclass(frozen=True)
class Scenario:
    """A title, how a sample is taken, and which of its values are columns of the table.

    A `slow` one has fewer rounds; one for `subjects` is of what peers do not have; one `over` TLS is
    of those who speak it; one `of` some servers is of no others. Those of one `grid` make one table.
    """

    name: str
    title: str
    sample: object
    columns: tuple
    ratios: tuple
    options: dict = field(default_factory=dict)
    slow: bool = False
    subjects: bool = False
    over: str = "tcp"
    of: tuple = None
    grid: str = None

    def measured(self, servers):
        """Those of the servers that it is measured of."""
        able = [kind for kind in servers if self.over in kind.speaks]
        if self.of is not None:
            able = [kind for kind in able if kind.name in self.of]
        return [kind for kind in able if kind.subject or not self.subjects]


def under_load(mode, kind, settings, **options):
    """Requests for a time: rate, latency, the server's CPU time and memory."""
    with Server(kind) as server:
        return _load(server, mode, settings, **options)


def under_load_over_tls(mode, kind, settings, **options):
    """The same over TLS. What was negotiated is part of the sample, and the same for every server."""
    certificate = settings.certificate
    with Server(kind.secured(certificate)) as server:
        sample = _load(server, mode, settings, tls=certificate.certfile, **options)
    if sample["tls"] != [TLS]:
        raise Failed(f"{kind.name} negotiated {sample['tls']} in place of {TLS}")
    return sample


def http(kind, settings, connections):
    """Requests by wrk, each on a connection that is kept."""
    with Server(kind) as server:
        wrk.run(server, connections, settings.warmup)
        server.check()
        before, from_s = process.cpu_s(server.pids), time.monotonic()
        client = wrk.run(server, connections, settings.seconds)
        server_s = process.cpu_s(server.pids) - before
        machine_s = time.monotonic() - from_s
    return {
        "requests_per_s": client["requests_per_s"],
        "p50_us": client["p50_us"],
        "p99_us": client["p99_us"],
        "cpu_us": server_s * 1e6 / client["requests"],
        "cores": server_s / machine_s,
    }


def port(kind, settings, callers):
    """Calls over one port, from so many processes."""
    return port_calls.run(kind, callers, settings.warmup, settings.seconds)


def calls(kind, settings):
    """Calls into Python, which a BEAM makes and measures by itself: it checks each answer."""
    times = (str(int(seconds * 1000)) for seconds in (settings.warmup, settings.seconds))
    limit = 2 * (settings.warmup + settings.seconds) + ACCEPT_S
    try:
        run = subprocess.run(
            kind.told(*times).command, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{kind.name} did not end within {limit} s") from None
    if run.returncode != 0:
        raise Failed(f"{kind.name} ended with {run.returncode}: {run.stderr[-4000:]}")
    return {name: float(value) for name, value in map(str.split, run.stdout.splitlines())}


def _load(server, mode, settings, **options):
    ready, started = process.memory_kib(server.pids)
    process.reset_peak(server.pids)
    options = {
        "seconds": settings.seconds,
        "warmup": settings.warmup,
        "threads": settings.threads,
        "mark": True,
        **options,
    }
    with Load(settings.binary, mode, server, **options) as load:
        load.event("measuring")
        before, from_s = _clocks(server, load), time.monotonic()
        load.event("measured")
        after, to_s = _clocks(server, load), time.monotonic()
        resident, peak = process.memory_kib(server.pids)
        result = load.result()
    if not result["requests"]:
        raise Failed(f"{server.name} answered nothing")
    server_s, client_s, machine_s = (late - early for early, late in zip(before, after))
    cores = machine_s / (to_s - from_s)
    return {
        **{key: result[key] for key in ("requests_per_s", "p50_us", "p99_us", "max_us")},
        "tls": result["tls"],
        "cpu_us": server_s * 1e6 / result["requests"],
        # Time is told in ticks: one at least, or a very short run would divide by zero.
        "per_cpu_s": result["requests"] / max(server_s, 1 / process.TICKS_PER_S),
        "client_us": client_s * 1e6 / result["requests"],
        "cores": cores,
        # Somebody else's work during the measurement: the round is not to be trusted.
        "others": max(0.0, machine_s - server_s - client_s) / (to_s - from_s),
        "ready_mib": ready / 1024,
        "resident_mib": resident / 1024,
        "load_peak_mib": peak / 1024,
        "peak_mib": max(peak, started) / 1024,
    }


def idle(kind, settings):
    """Connections that are only held: the server's memory for each, at four moments."""
    count = settings.idle_connections
    with Server(kind) as server:
        # The first connection of all pays for what is set up once.
        with Load(settings.binary, "echo", server, messages=1) as load:
            load.result()
        time.sleep(settings.settle)
        base, files = process.memory_kib(server.pids)[0], process.open_files(server.pids)

        def each():
            server.check()
            return (process.memory_kib(server.pids)[0] - base) / count

        with Load(settings.binary, "idle", server, connections=count, limit=300) as load:
            load.event("connected")
            _until_accepted(server, files + count)
            accepted_kib = each()
            time.sleep(settings.settle)
            idle_kib = each()
            load.ask("echo", "echoed")
            echoed_kib = each()
            time.sleep(settings.settle)
            used_kib = each()
            load.result()
    return {
        "accepted_kib": accepted_kib,
        "idle_kib": idle_kib,
        "echoed_kib": echoed_kib,
        "used_kib": used_kib,
        "base_mib": base / 1024,
    }


def stuck(kind, settings):
    """Clients that write and never read: the server's memory, and what the others notice."""
    options = {"connections": 64, "size": 64}
    with Server(kind) as server:
        alone = _load(server, "echo", settings, **options)
        before = process.memory_kib(server.pids)[0]
        with Load(settings.binary, "stuck", server, connections=8, size=65_536) as held:
            blocked = held.event("blocked")
            beside = _load(server, "echo", settings, **options)
            after = process.memory_kib(server.pids)[0]
            held.ask("read", "read")
            held.result()
    return {
        "accepted_mib": blocked["most_accepted_bytes"] / 2**20,
        "bounded": float(blocked["bounded"]),
        "growth_mib": (after - before) / 1024,
        "rate_ratio": beside["requests_per_s"] / alone["requests_per_s"],
        "p99_ratio": beside["p99_us"] / alone["p99_us"],
        "others": max(alone["others"], beside["others"]),
    }


def slow(kind, settings):
    """Honest clients alone, and beside as many slow ones as there ever are: the cut come again."""
    # Each message at its time: a pause after the answer would have them all wait for one and the same
    # cut, and then crowd together for ever.
    options = {"connections": 100, "size": 64, "every": 0.02}
    with Server(kind.told("deadlines")) as server:
        alone = _load(server, "echo", settings, **options)
        with Load(settings.binary, "slow", server, connections=2_000, period=10) as held:
            held.event("connected")
            beside = _load(server, "echo", settings, **options)
            result = held.result()
    if not result["cut"]:
        raise Failed(f"{server.name} cut no slow client")
    return {
        "alone_p50_us": alone["p50_us"],
        "alone_p99_us": alone["p99_us"],
        "p50_us": beside["p50_us"],
        "p99_us": beside["p99_us"],
        "p99_ratio": beside["p99_us"] / alone["p99_us"],
        "requests_per_s": beside["requests_per_s"],
        "cut": result["cut"],
        "others": max(alone["others"], beside["others"]),
    }


def _until_accepted(server, files):
    # A connection is made before the server knows of it: its descriptor tells that it does.
    deadline = time.monotonic() + ACCEPT_S
    while process.open_files(server.pids) < files:
        server.check()
        if time.monotonic() > deadline:
            raise Failed(f"{server.name} did not accept all connections in {ACCEPT_S} s")
        time.sleep(0.02)


def _clocks(server, load):
    return process.cpu_s(server.pids), process.cpu_s([load.pid]), process.machine_busy_s()


def _echo(kind, settings, **options):
    return under_load("echo", kind, settings, **options)


def _connect(kind, settings, **options):
    return under_load("connect", kind, settings, **options)


def _tls_echo(kind, settings, **options):
    return under_load_over_tls("echo", kind, settings, **options)


def _tls_connect(kind, settings, **options):
    return under_load_over_tls("connect", kind, settings, **options)


def _cell(kind, settings, tls, **options):
    # Eighteen of them: each takes less time.
    options["seconds"] = min(settings.seconds, CELL_S)
    options["warmup"] = min(settings.warmup, CELL_S / 4)
    return (under_load_over_tls if tls else under_load)("echo", kind, settings, **options)


CELL_S = 2.0
RATES = ("requests_per_s", "cpu_us", "p50_us", "p99_us", "peak_mib", "client_us", "others")
TLS_RATES = ("requests_per_s", "per_cpu_s", *RATES[1:])
MEMORY = ("peak_mib", "load_peak_mib", "ready_mib", "requests_per_s", "cpu_us", "p99_us", "others")
EACH = ("accepted_kib", "idle_kib", "echoed_kib", "used_kib", "base_mib")
SLOW = (
    "alone_p50_us",
    "alone_p99_us",
    "p50_us",
    "p99_us",
    "p99_ratio",
    "requests_per_s",
    "cut",
    "others",
)
HTTP = ("requests_per_s", "cpu_us", "p50_us", "p99_us")
PORT_CALLS = ("requests_per_s", "cpu_us", "others")
CALLS = ("p50_us", "p99_us", "requests_per_s", "concurrent_per_s")
STUCK = ("accepted_mib", "bounded", "growth_mib", "rate_ratio", "p99_ratio", "others")

TLS_SERVERS = ("ssl", "ssl_64k", "uvloop_tls", "reactor_elixir", "reactor_python")

ALL = [
    Scenario(
        "small",
        "64 connections, 64 bytes",
        _echo,
        RATES,
        ratios=("requests_per_s", "cpu_us", "p99_us"),
        options={"connections": 64, "size": 64},
    ),
    Scenario(
        "large",
        "64 connections, 64 KiB",
        _echo,
        RATES,
        ratios=("requests_per_s", "cpu_us", "p99_us"),
        options={"connections": 64, "size": 65_536},
    ),
    Scenario(
        "busy",
        "1,000 busy connections, 64 bytes",
        _echo,
        MEMORY,
        ratios=("peak_mib", "requests_per_s", "cpu_us"),
        options={"connections": 1_000, "size": 64},
    ),
    Scenario(
        "idle",
        "Idle connections: memory for each",
        idle,
        EACH,
        ratios=("idle_kib", "used_kib"),
        slow=True,
    ),
    Scenario(
        "connect",
        "Connect, one echo of 64 bytes, close; 64 at a time",
        _connect,
        RATES,
        ratios=("requests_per_s", "cpu_us"),
        options={"connections": 64, "size": 64},
    ),
    Scenario(
        "tls_small",
        "TLS: 64 connections, 64 bytes",
        _tls_echo,
        TLS_RATES,
        ratios=("per_cpu_s", "requests_per_s", "p99_us"),
        options={"connections": 64, "size": 64},
        over="tls",
        of=TLS_SERVERS,
    ),
    Scenario(
        "tls_large",
        "TLS: 64 connections, 64 KiB",
        _tls_echo,
        TLS_RATES,
        ratios=("per_cpu_s", "requests_per_s", "p99_us"),
        options={"connections": 64, "size": 65_536},
        over="tls",
        of=TLS_SERVERS,
    ),
    Scenario(
        "tls_connect",
        "TLS: connect, full handshake, one echo of 64 bytes, close; 64 at a time",
        _tls_connect,
        TLS_RATES,
        ratios=("per_cpu_s", "requests_per_s"),
        options={"connections": 64, "size": 64},
        over="tls",
        of=TLS_SERVERS,
    ),
    Scenario(
        "stuck",
        "64 connections beside 8 clients that never read",
        stuck,
        STUCK,
        ratios=(),
        slow=True,
    ),
    Scenario(
        "slow",
        "100 clients, 50 requests a second each, beside 2,000 that send a byte every ten seconds",
        slow,
        SLOW,
        ratios=(),
        slow=True,
        subjects=True,
    ),
    Scenario(
        "http",
        "HTTP/1.1, keep-alive, parsed in Python; wrk with 64 connections",
        http,
        HTTP,
        ratios=("requests_per_s", "cpu_us", "p99_us"),
        options={"connections": 64},
        over="http",
    ),
    Scenario(
        "port",
        "Calls of Python behind a port, one child, 64 callers",
        port,
        PORT_CALLS,
        ratios=("requests_per_s", "cpu_us"),
        options={"callers": 64},
        over="port",
    ),
    Scenario(
        "call",
        "Calls of math.sqrt from Elixir: one after the other, and from 1,000 processes at once",
        calls,
        CALLS,
        ratios=(),
        over="call",
    ),
]

# Echo in Python, by connections, size of a message, and whether over TLS.
CELLS = [
    Scenario(
        f"python{'_tls' if tls else ''}_{connections}_{size}",
        f"{'TLS, ' if tls else ''}{connections:,} × {size:,} B",
        _cell,
        RATES,
        ratios=(),
        options={"connections": connections, "size": size, "tls": tls},
        slow=True,
        over="tls" if tls else "tcp",
        of=("asyncio_tls", "uvloop_tls", "reactor_python")
        if tls
        else ("asyncio", "uvloop", "reactor_python"),
        grid="python",
    )
    for tls in (False, True)
    for connections in (1, 64, 1_000)
    for size in (64, 1_024, 65_536)
]
ALL += CELLS
GRIDS = {"python": "Python: echo by connections and size of a message"}

DEFAULT = (
    "small",
    "large",
    "busy",
    "idle",
    "connect",
    "tls_small",
    "tls_large",
    "tls_connect",
    "python",
    "http",
    "port",
    "call",
)
