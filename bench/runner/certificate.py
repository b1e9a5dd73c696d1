"""The certificate that every server of a run has: made for it, and gone with it."""

import subprocess
import tempfile
from pathlib import Path

DAYS = 2


class Certificate:
    """ECDSA on P-256, signed by itself; a context manager that removes its files."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="reactor-bench-")
        self.certfile = Path(self._directory.name) / "certificate.pem"
        self.keyfile = Path(self._directory.name) / "key.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        arguments = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(self.keyfile), "-out", str(self.certfile)]
        try:
            made = subprocess.run(
                [*command.split(), "-days", str(DAYS), *arguments, *files],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise SystemExit("openssl is not installed; without it, leave out tls_*") from None
        if made.returncode != 0:
            raise SystemExit(f"openssl made no certificate: {made.stderr}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._directory.cleanup()
