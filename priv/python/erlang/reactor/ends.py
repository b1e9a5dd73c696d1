"""Why connections end, as the exceptions that connection_lost gets."""

import errno

from .signature import signature

_DEADLINES = {
    "first_byte_timeout": "the peer sent nothing at first",
    "idle_timeout": "the peer sent nothing for too long",
    "stall_timeout": "the peer took nothing of what was sent",
    "max_lifetime": "the connection was open for too long",
    "min_rate": "the peer was too slow",
}
_CLEAN = ("local", "remote")
_takes_exc = {}  # by the function, see takes_exc
_MOST = 1024  # functions that are remembered


class DeadlineExceeded(TimeoutError):
    """A deadline of the listener has passed.

    Attributes:
        deadline: The option's name, as ``"idle_timeout"``.
    """

    def __init__(self, deadline):
        self.deadline = deadline
        super().__init__(errno.ETIMEDOUT, f"{deadline}: {_DEADLINES[deadline]}")


class Drained(ConnectionError):
    """The server ended, or its context did, while the connection was idle."""


class Cut(Drained):
    """Likewise, but the connection was busy, and not done in time."""


def exception_for(reason, error):
    """What connection_lost is given.

    Args:
        reason: As telemetry names it.
        error: What a method of the protocol raised, or None.
    """
    if reason in _CLEAN:
        return None
    if reason in _DEADLINES:
        return DeadlineExceeded(reason)
    if reason == "reset":
        return ConnectionResetError(errno.ECONNRESET, "the connection broke")
    if reason == "drained":
        return Drained("the server ended, and the connection was idle")
    if reason == "cut":
        return Cut("the server ended, and the connection was not done in time")
    if reason == "truncated":
        text = "the stream ended, and TLS had not said that it would"
    elif reason == "tls_alert":
        text = "what came was no TLS, or was tampered with"
    elif error is not None:
        return error
    else:
        text = reason
    return ConnectionAbortedError(errno.ECONNABORTED, text)


def takes_exc(method):
    """Whether this connection_lost, bound to its protocol, can be called with an argument.

    It is found out once for the function behind the method.
    """
    function = getattr(method, "__func__", None)
    if function is None:
        # Set on the object instead of the class.
        return _can_be_called(method, None)
    known = _takes_exc.get(function)
    if known is None:
        known = _can_be_called(function, None, None)
        if len(_takes_exc) >= _MOST:
            # Somebody makes classes all the time: they need not be kept alive by this.
            _takes_exc.clear()
        _takes_exc[function] = known
    return known


def _can_be_called(function, *args):
    found = signature(function)
    if found is None:
        return False
    try:
        found.bind(*args)
        return True
    except TypeError:
        return False
