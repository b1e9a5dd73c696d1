"""The load client as a child process."""

import json
import subprocess

from server import Failed


class Load:
    """One run of the client. Its lines arrive as dictionaries; ends with the run."""

    def __init__(self, binary, mode, server, **options):
        command = [str(binary), mode, server.address]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value is True else [flag, str(value)]
        self._server = server
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Every run bounds itself; one that is left behind by an exception is ended.
        self._child.stdin.close()
        if self._child.poll() is None:
            self._child.terminate()
        self._child.wait()
        self._child.stdout.close()

    def event(self, name):
        """Waits for the event; its fields."""
        line = self._line()
        if line.get("event") != name:
            raise Failed(f"the load client said {line} in place of {name}")
        return line

    def ask(self, command, answer):
        """Sends a command and waits for the event that answers it."""
        self._child.stdin.write(command + "\n")
        self._child.stdin.flush()
        return self.event(answer)

    def result(self):
        """Lets the run end and gives its result. Raises if anything was lost or wrong."""
        self._child.stdin.close()
        line = self._line()
        if self._child.wait() != 0:
            raise Failed(f"{self._server.name}: {line['error_kinds']}")
        return line

    def _line(self):
        text = self._child.stdout.readline()
        if not text:
            self._server.check()
            raise Failed(f"the load client ended with {self._child.wait()}")
        return json.loads(text)
