"""Starts a program as systemd does whose sockets were listened on for it: sd_listen_fds(3).

    activate.py NAME=KIND... -- PROGRAM ARGUMENT...

KIND is tcp, udp or unix:PATH.
"""

import os
import socket
import sys

FIRST = 3


def open_socket(kind):
    if kind == "udp":
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("127.0.0.1", 0))
        return opened
    if kind == "tcp":
        opened = socket.socket(socket.AF_INET)
        opened.bind(("127.0.0.1", 0))
    else:
        opened = socket.socket(socket.AF_UNIX)
        opened.bind(kind.partition(":")[2])
    opened.listen()
    return opened


def main():
    split = sys.argv.index("--")
    wanted = [argument.partition("=") for argument in sys.argv[1:split]]
    # Out of the way first: they may have each other's numbers.
    opened = [os.dup(open_socket(kind).detach()) for _, _, kind in wanted]
    aside = [os.dup2(fd, FIRST + len(opened) + 10 + i) for i, fd in enumerate(opened)]
    for i, fd in enumerate(aside):
        os.dup2(fd, FIRST + i, inheritable=True)
        os.close(fd)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(wanted))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _ in wanted)
    program = sys.argv[split + 1 :]
    os.execvp(program[0], program)


main()
