"""What Reactor promises, as ratios to peers of the same run, or as plain limits."""

from dataclasses import dataclass

from scenarios import CELLS
from tables import median


@dataclass(frozen=True)
class Target:
    """`value` of `subject` in `scenario`, divided by the peer's where there is one."""

    text: str
    scenario: str
    subject: str
    peer: str
    value: str
    least: float = None
    most: float = None

    def measured(self, samples):
        """The ratio of medians, or the median; None where something was not measured."""
        subject = _median(samples, self.scenario, self.subject, self.value)
        if self.peer is None or subject is None:
            return subject
        peer = _median(samples, self.scenario, self.peer, self.value)
        return subject / peer if peer else None

    def met(self, measured):
        return (self.least is None or measured >= self.least) and (
            self.most is None or measured <= self.most
        )

    @property
    def limit(self):
        """In words; a comparison that nothing was promised about has none."""
        if self.least is None and self.most is None:
            return "none"
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"


def _median(samples, scenario, server, value):
    taken = samples.get(scenario, {}).get(server, [])
    return median(sample[value] for sample in taken) if taken else None


ELIXIR, PYTHON = "reactor_elixir", "reactor_python"
PROCESS = "reactor_process"
RATE, CPU, PER_CPU, PEAK = "requests_per_s", "cpu_us", "per_cpu_s", "peak_mib"
UNUSED, USED = "idle_kib", "used_kib"
SSL, UVLOOP_SSL = "ssl", "uvloop_tls"
HTTP = "reactor_http"

ALL = [
    Target("Elixir, 64 B: requests/s of gen_tcp's", "small", ELIXIR, "gen_tcp", RATE, least=1.4),
    Target("Elixir, 64 B: CPU/request of gen_tcp's", "small", ELIXIR, "gen_tcp", CPU, most=0.7),
    Target("Elixir, 64 KiB: requests/s of gen_tcp's", "large", ELIXIR, "gen_tcp", RATE, least=2.0),
    Target("… of gen_tcp's with a buffer of 64 KiB", "large", ELIXIR, "gen_tcp_64k", RATE),
    Target("Python, 64 B: requests/s of uvloop's", "small", PYTHON, "uvloop", RATE, least=1.0),
    Target("Python, 64 B: CPU/request of uvloop's", "small", PYTHON, "uvloop", CPU, most=1.0),
    Target("Python in a process, 64 B: rate of shared", "small", PROCESS, PYTHON, RATE, least=0.9),
    Target("Elixir, connections/s of gen_tcp's", "connect", ELIXIR, "gen_tcp", RATE, least=1.5),
    Target("Python, connections/s of uvloop's", "connect", PYTHON, "uvloop", RATE, least=1.0),
    Target("Elixir, TLS 64 B: /CPU s of ssl's", "tls_small", ELIXIR, SSL, PER_CPU, least=3.0),
    Target("Elixir, TLS 64 KiB: the same", "tls_large", ELIXIR, SSL, PER_CPU, least=4.0),
    Target("… of ssl's with a buffer of 64 KiB", "tls_large", ELIXIR, "ssl_64k", PER_CPU),
    Target("Elixir, TLS handshakes: the same", "tls_connect", ELIXIR, SSL, PER_CPU, least=3.0),
    Target(
        "Python, TLS 64 B: /CPU s of uvloop's",
        "tls_small",
        PYTHON,
        UVLOOP_SSL,
        PER_CPU,
        least=2.0,
    ),
    Target("Python, TLS 64 KiB: the same", "tls_large", PYTHON, UVLOOP_SSL, PER_CPU),
    Target("Python, TLS handshakes: the same", "tls_connect", PYTHON, UVLOOP_SSL, PER_CPU),
    Target("Python, HTTP: requests/s of uvloop's", "http", HTTP, "uvloop_http", RATE, least=1.0),
    Target("Python, HTTP: CPU/request of uvloop's", "http", HTTP, "uvloop_http", CPU, most=1.0),
    Target(
        "Ports, calls/s of a plain port's", "port", "reactor_port", "plain_port", RATE, least=3.0
    ),
    Target("Elixir calls Python: µs, median", "call", "reactor_call", None, "p50_us", most=10.0),
    Target("Elixir, 1,000 busy: peak of gen_tcp's", "busy", ELIXIR, "gen_tcp", PEAK, most=1.0),
    Target("Python, 1,000 busy: peak of gen_tcp's", "busy", PYTHON, "gen_tcp", PEAK, most=1.0),
    Target("Elixir, idle: KiB each, never used", "idle", ELIXIR, None, UNUSED, most=6.0),
    Target("Elixir, idle: KiB each, used once", "idle", ELIXIR, None, USED, most=6.0),
    Target("Python, idle: KiB each, never used", "idle", PYTHON, None, UNUSED, most=2.0),
    Target("Python, idle: KiB each, used once", "idle", PYTHON, None, USED, most=2.0),
]

for cell in CELLS:
    peer = UVLOOP_SSL if cell.over == "tls" else "uvloop"
    text = f"Python, {cell.title}: "
    ALL.append(Target(text + "requests/s of uvloop's", cell.name, PYTHON, peer, RATE, least=1.0))
    ALL.append(Target(text + "CPU/request of uvloop's", cell.name, PYTHON, peer, CPU, most=1.0))
