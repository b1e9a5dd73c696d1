"""What the tests of Reactor.Port call. The first argument, if there is one, is the number of worker threads."""

import atexit
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time

from erlang import etf  # noqa: F401
from erlang.port import Protocol


class Script(Protocol):
    secret = "not to be called"

    def handler_twice(self, x):
        return 2 * int(x)

    def handler_sum(self, x, y):
        return int(x) + int(y)

    def handler_hello(self, name):
        return f"Hello, {name}"

    def handler_echo(self, value):
        return value

    def handler_length(self, value):
        return len(value)

    def handler_bytes(self, n):
        return bytes(n)

    def handler_pid(self):
        return os.getpid()

    def handler_thread(self):
        return threading.current_thread().name

    def handler_fail(self, text):
        raise KeyError(text)

    def handler_type_error(self):
        return 1 + "1"

    def handler_unencodable(self):
        return {"rows": [1, object()]}

    def handler_exit(self, status):
        sys.exit(status)

    def handler_wait_for(self, path):
        """Until the file is there: handlers that overlap are told to go on in the order that a test wants."""
        while not os.path.exists(path):
            time.sleep(0.002)
        return path

    def handler_touch(self, path):
        with open(path, "w"):
            pass

    def handler_print(self, text):
        print(text)
        print(text.upper(), file=sys.stderr)
        os.write(2, b"from C\n")
        subprocess.run(["echo", "from a program"], check=True)

    def handler_read_stdin(self):
        return sys.stdin.read()

    def handler_environment(self, name):
        return os.environ.get(name)

    def handler_directory(self):
        return os.getcwd()

    def handler_arguments(self):
        return sys.argv[1:]

    def handler_limit(self, name):
        return resource.getrlimit(getattr(resource, name))[0]

    def handler_eat(self):
        eaten = []
        while True:
            eaten.append(bytearray(16 * 1024 * 1024))

    def handler_spin(self):
        while True:
            pass

    def handler_hang(self):
        """In C, with the GIL: no thread of Python's runs any more."""
        ctypes.PyDLL(None).pause()

    def handler_segfault(self):
        print("its last words", file=sys.stderr)
        ctypes.string_at(0)

    def handler_kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def handler_write_rubbish(self):
        os.write(self.port._output, b"\xff\xff\xff\xff rubbish")

    def handler_stubborn(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(time.sleep, 1000)

    def handler_at_exit(self, path):
        atexit.register(self.handler_touch, path)

    def handler_fork(self):
        """A child that outlives us, and has everything that we have open."""
        pid = os.fork()
        if pid == 0:
            time.sleep(1000)
            os._exit(0)
        return pid

    def handler_call(self, name, *args):
        return self.call(name, *args)

    def handler_call_briefly(self, name):
        return self.call(name, timeout=0.01)

    def handler_cast(self, name, *args):
        self.cast(name, *args)


if __name__ == "__main__":
    Script(workers=int(sys.argv[1]) if sys.argv[1:2] else 0).run()
