"""Where and with what a run was made: figures mean nothing without it."""

import os
import platform
import subprocess
from pathlib import Path


def describe(python, erl_flags, settings):
    """A few lines of Markdown."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    uvloop = _say(python, "-c", "import uvloop; print('uvloop', uvloop.__version__)")
    return "\n".join(
        [
            f"- {os.cpu_count()} CPUs ({model}), Linux {platform.release()}, "
            f"load {os.getloadavg()[0]:.2f} before the run",
            f"- {_beam()}; emulator flags: {erl_flags or 'none'}",
            f"- {_say(python, '--version')}, {uvloop or 'no uvloop'}",
            f"- {settings.rounds} rounds ({settings.idle_rounds} of slow scenarios) of "
            f"{settings.seconds:g} s after {settings.warmup:g} s of warm-up, a fresh server each; "
            f"median (least – most); load client on the same machine, "
            f"{settings.threads} thread(s)",
            "",
        ]
    )


def _beam():
    code = 'IO.puts("Elixir #{System.version()}, OTP #{System.otp_release()}")'
    return _say("elixir", "-e", code) or "no Elixir"


def _say(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
