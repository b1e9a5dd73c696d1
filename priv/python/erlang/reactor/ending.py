"""What ends too late: callbacks, and the threads of an interpreter that is to end."""

import threading
import time


class CallbackTimeout(BaseException):
    """Raised inside a callback that takes longer than its context's ``callback_timeout``.

    It is no :class:`Exception`, so that ``except Exception`` lets it pass. A callback may clean up
    when it gets this (``finally``, or ``except CallbackTimeout``), but its connection is closed
    whatever it returns; and if it takes long again, it is interrupted again.
    """

    def __str__(self):
        given = super().__str__()
        return given or "the callback took longer than callback_timeout, or its context is ending"


class CallTimeout(BaseException):
    """Raised inside a call that nobody waits for any more: its time is over, or its caller has ended.

    It is no :class:`Exception`, so that ``except Exception`` lets it pass. A call may clean up when it gets this,
    and is interrupted again if that takes long.
    """

    def __str__(self):
        given = super().__str__()
        return given or "nobody waits for this call any more, or its context is ending"


def _end_threads(seconds):
    """Waits until the threads that were started in this interpreter have ended, or that long.

    Pools of threads end when the functions are called that they registered for the end of Python.
    Those wait for what the threads still do, so they are called from a thread too.
    """
    deadline = time.monotonic() + seconds
    functions = list(getattr(threading, "_threading_atexits", ()))
    if functions:
        threading.Thread(target=_call_all, args=(functions,), name="reactor-ending").start()
    own = threading.current_thread()
    for thread in threading.enumerate():
        if thread is not own and not thread.daemon:
            thread.join(max(0, deadline - time.monotonic()))


def _call_all(functions):
    for function in reversed(functions):
        function()
