"""No process outlives who started it."""

import os
import select
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_GRACE_S = 1.0

_watching = False


def die_with_parent():
    """Has the kernel kill this process when its parent dies, where it can (Linux).

    It works also while C code holds the GIL for ever, so that no thread of ours could do it. The parent of a port's
    program is a small process of the emulator's, which ends with it, however that ends.

    Returns:
        None, or why the kernel cannot be told, in words. Then the end of input has to do.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        # Not before it is needed: a Python that was built without libffi has none.
        import ctypes
    except ImportError as error:
        return (
            f"this Python has no ctypes ({error}): if the VM is killed while C code holds the GIL here, "
            "this process stays until that ends"
        )
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return None


def watch(descriptor, shutdown_s):
    """Kills this process when nobody can write to a descriptor any more and it has not ended a while later.

    Once, whoever asks first. Who reads the descriptor sees its end too, but perhaps does not read for long.

    Args:
        descriptor: What is read.
        shutdown_s: How long the process may take to end by itself, in seconds. A second is added, in which
            it may be sent SIGTERM.
    """
    global _watching
    if not _watching and hasattr(select, "poll"):
        _watching = True
        threading.Thread(
            target=_watch, args=(descriptor, shutdown_s + _GRACE_S), name="port-watch", daemon=True
        ).start()


def _watch(descriptor, grace_s):
    poll = select.poll()
    # Nothing but its end, which is always told.
    poll.register(descriptor, 0)
    poll.poll()
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)
