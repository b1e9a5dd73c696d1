"""Protocols whose callbacks take long, and that show where they live, for the tests."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import _reactor

import erlang.reactor as reactor

armed = set()
"""The contexts, which may share this, and their callbacks that are to spin, once each."""


lingering = []
"""What ends with its interpreter."""


class Lingers:
    """Comes back to the native side when everything ends."""

    def __init__(self, handle, path):
        self.handle = handle
        self.path = path
        self.native = _reactor
        self.open = open

    def note(self, when):
        with self.open(self.path, "a") as file:
            file.write(f"{when} {self.native.read(self.handle, 1)} ")

    def __del__(self):
        self.note("del")


def spin_if(name):
    of_this_context = (_reactor.context(), name)
    if of_this_context in armed:
        armed.discard(of_this_context)
        spin()


def spin():
    while True:
        pass


def mark(path, text):
    """Whoever reads that finds all of it, or what was there before."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


class Obeys(reactor.Protocol):
    """Does as it is told, and otherwise echoes."""

    lost_spins = False

    def connection_made(self, fd, client_info):
        spin_if("made")

    def data_received(self, data):
        command, _, rest = bytes(data).decode().partition(" ")
        answer = getattr(self, "do_" + command, None)
        if answer is None:
            self.write_buffer.extend(data)
        else:
            self.write_buffer.extend((answer(rest) or "done").encode())
        return "write_pending"

    def connection_lost(self):
        if self.lost_spins:
            spin()

    def do_spin(self, how):
        spin()

    def do_stubborn(self, times):
        for _ in range(int(times)):
            try:
                spin()
            except BaseException as error:
                name = type(error).__name__
        return f"gave up after {name}"

    def do_mark(self, path):
        mark(path, "begun")
        try:
            spin()
        finally:
            mark(path, "interrupted")

    def do_sum(self, n):
        # One call into C, which keeps the GIL.
        return str(sum(range(int(n))))

    def do_linger(self, path):
        lingering.append(Lingers(self._handle, path))
        atexit.register(lingering[-1].note, "atexit")

    def do_swallow(self, _):
        while True:
            try:
                spin()
            except Exception:
                pass

    def do_sleep(self, seconds):
        time.sleep(float(seconds))

    def do_wait(self, port):
        # In a system call, until the other side closes.
        with socket.create_connection(("127.0.0.1", int(port))) as other:
            other.recv(1)

    def do_arm(self, name):
        armed.add((_reactor.context(), name))

    def do_lost(self, _):
        self.lost_spins = True

    def do_work(self, n):
        total = 0
        for i in range(int(n)):
            total += i * i
        return str(total)

    def do_remember(self, word):
        before = getattr(sys, "word_of_the_tests", "nothing")
        sys.word_of_the_tests = word
        return before

    def do_import(self, name):
        module = __import__(name)
        return getattr(module, "__version__", None) or "imported"

    def do_dot(self, _):
        numpy = __import__("numpy")
        return str(int(numpy.arange(10).dot(numpy.ones(10))))

    def do_status(self, command):
        return str(subprocess.run(["sh", "-c", command]).returncode)

    def do_popen(self, command):
        with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as process:
            output = process.stdout.read().decode().strip()
        return f"{output} {process.returncode}"

    def do_thread(self, seconds):
        threading.Thread(target=time.sleep, args=(float(seconds),)).start()

    def do_waiting_thread(self, port):
        threading.Thread(target=self.do_wait, args=(port,)).start()

    def do_fork(self, _):
        if os.fork() == 0:
            os._exit(0)

    def do_daemon(self, _):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    def do_signal(self, _):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def do_pool(self, _):
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(max_workers=2)
        type(self).pools = [*getattr(type(self), "pools", []), pool]
        return str(pool.submit(sum, [1, 2, 3]).result())


class Writes(reactor.Protocol):
    """Writes by itself, and takes forever."""

    def data_received(self, data):
        return "write_pending"

    def write_ready(self):
        spin()


def make():
    """A factory that spins when it is armed."""
    spin_if("factory")
    return Obeys()


class Datagrams(reactor.DatagramProtocol):
    def datagram_received(self, data, addr):
        if bytes(data) == b"spin":
            spin()
        self.send_to(data, addr)
