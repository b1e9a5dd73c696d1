"""The servers that are measured, and one of them as a child process."""

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import process

BENCH = Path(__file__).resolve().parent.parent
START_S = 60
STOP_S = 15


@dataclass(frozen=True)
class Kind:
    """How a server is started. `missing` says what it lacks on this machine, or is None."""

    name: str
    command: tuple
    subject: bool = False
    missing: str = None
    speaks: tuple = ("tcp",)

    def told(self, *arguments):
        """The same server, with these arguments for its script."""
        return replace(self, command=self.command + arguments)

    def secured(self, certificate):
        """The same server, over TLS."""
        return self.told(str(certificate.certfile), str(certificate.keyfile))


def kinds(python, erl_flags, build):
    """All servers, peers first. Both kinds of BEAM server are started in exactly the same way."""
    elixir = ["elixir"] + (["--erl", erl_flags] if erl_flags else [])
    no_beam = None if shutil.which("elixir") else "elixir is not installed"
    ebin = Path(build) / "lib/reactor/ebin"
    no_build = no_beam or (None if (ebin / "reactor.app").exists() else f"{ebin} is not built")
    uvloop = subprocess.run([python, "-c", "import uvloop"], capture_output=True, check=False)
    no_uvloop = None if uvloop.returncode == 0 else f"{python} has no uvloop"
    no_wrk = None if shutil.which("wrk") else "wrk is not installed"

    def beam(name, script, *arguments, speaks=("tcp",)):
        command = (*elixir, str(BENCH / script), *arguments)
        return Kind(name, command, missing=no_beam, speaks=speaks)

    def cpython(name, script, missing=None, speaks=("tcp",)):
        return Kind(name, (python, str(BENCH / script)), missing=missing, speaks=speaks)

    def reactor(name, script, *arguments, speaks=("tcp", "tls")):
        command = (*elixir, "-pa", str(ebin), str(BENCH / script), *arguments)
        return Kind(name, command, subject=True, missing=no_build, speaks=speaks)

    return [
        beam("gen_tcp", "peers/gen_tcp_echo.exs"),
        beam("gen_tcp_64k", "peers/gen_tcp_echo.exs", "65536"),
        cpython("asyncio", "peers/asyncio_echo.py"),
        cpython("uvloop", "peers/uvloop_echo.py", no_uvloop),
        beam("ssl", "peers/ssl_echo.exs", speaks=("tls",)),
        beam("ssl_64k", "peers/ssl_echo.exs", "65536", speaks=("tls",)),
        cpython("uvloop_tls", "peers/uvloop_tls_echo.py", no_uvloop, speaks=("tls",)),
        cpython("asyncio_tls", "peers/asyncio_tls_echo.py", speaks=("tls",)),
        cpython("asyncio_http", "peers/asyncio_http.py", no_wrk, speaks=("http",)),
        cpython("uvloop_http", "peers/uvloop_http.py", no_uvloop or no_wrk, speaks=("http",)),
        beam("plain_port", "peers/plain_port.exs", speaks=("port",)),
        reactor("reactor_elixir", "subjects/reactor_elixir.exs"),
        reactor("reactor_python", "subjects/reactor_python.exs"),
        reactor("reactor_process", "subjects/reactor_python.exs", "process"),
        replace(
            reactor("reactor_http", "subjects/reactor_http.exs"),
            missing=no_build or no_wrk,
            speaks=("http",),
        ),
        reactor("reactor_port", "subjects/reactor_port.exs", speaks=("port",)),
        replace(reactor("reactor_call", "subjects/reactor_call.exs"), speaks=("call",)),
    ]


class Failed(Exception):
    """A server or the load client did not do what it is there for."""


class Server:
    """A running server; a context manager that ends it. Ends by itself if this process dies."""

    def __init__(self, kind):
        self.name = kind.name
        self._errors = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C is for the runner, which then ends its servers in order.
        self._child = subprocess.Popen(
            kind.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        try:
            self.port = self._ready()
            self.pids = process.tree(self._child.pid)
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def check(self):
        """Raises if the server has ended."""
        status = self._child.poll()
        if status is not None:
            raise Failed(f"{self.name} ended with {status}: {self._said()}")

    def stop(self):
        """Asks by closing its standard input, then by SIGTERM, then does not ask."""
        self._child.stdin.close()
        for insist in (self._child.terminate, self._child.kill):
            try:
                self._child.wait(STOP_S)
                break
            except subprocess.TimeoutExpired:
                print(f"{self.name} did not end within {STOP_S} s", file=sys.stderr, flush=True)
                insist()
        status = self._child.wait()
        if status != 0:
            print(f"{self.name} ended with {status}: {self._said()}", file=sys.stderr, flush=True)
        self._child.stdout.close()
        self._errors.close()

    def _ready(self):
        read, text, deadline = self._child.stdout.fileno(), b"", time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(read, selectors.EVENT_READ)
            while not (match := re.search(rb"^READY (\d+)\r?\n", text, re.MULTILINE)):
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise Failed(f"{self.name} was not ready after {START_S} s: {self._said()}")
                more = os.read(read, 4096)
                if not more:
                    raise Failed(f"{self.name} ended instead of starting: {self._said()}")
                text += more
        return int(match[1])

    def _said(self):
        if self._errors.closed:
            return "as it was told to"
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:] or "(nothing on stderr)"
