"""What Python asks of the Erlang and Elixir around it.

A call out is made in a process of its own, made for it. Meanwhile the calling thread waits, without holding the
interpreter. A context's thread does one thing besides: calls into this context that descend from the one that
waits, because its process makes them or a Task of that process does, are run there and then. So Python may call
Elixir that calls Python again, and so on. All other calls, and the context's connections, wait.

Any thread may call out. One that is waiting in a context's call or callback is interrupted when that is: see
``timeout`` in ``Reactor.Python.call/5`` and ``callback_timeout``.
"""

import _reactor


class CallError(Exception):
    """A call out failed.

    Attributes:
        kind: What happened: ``"error"``, ``"exit"`` or ``"throw"``, as Elixir has it; or ``"undefined"``, when
            no function is registered under the name.
        type: The exception's module, as ``"ArgumentError"``, for the kind ``"error"``; else None.
        reason: In words.
        stacktrace: Where it happened, as text; may be empty.
    """

    def __init__(self, kind, type, reason, stacktrace=""):
        super().__init__(kind, type, reason, stacktrace)
        self.kind = kind
        self.type = type
        self.reason = reason
        self.stacktrace = stacktrace

    def __str__(self):
        return f"{self.type or self.kind}: {self.reason}"


class Function:
    """A function that is registered outside of Python, as ``from erlang import name`` gives it."""

    __slots__ = ("__name__",)

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, timeout=None):
        """Calls it: see :func:`call`."""
        return _reactor.call(self.__name__, args, timeout)

    def __eq__(self, other):
        if type(other) is not Function:
            return NotImplemented
        return self.__name__ == other.__name__

    def __hash__(self):
        return hash((Function, self.__name__))

    def __reduce__(self):
        return Function, (self.__name__,)

    def __repr__(self):
        return f"<erlang function {self.__name__}>"


def call(name, *args, timeout=None):
    """Calls a registered function, and returns what it returns.

    Args:
        name: As it was registered.
        args: Its arguments.
        timeout: How long to wait, in seconds; None for as long as it takes. The process that runs the function
            is ended then.

    Raises:
        CallError: There is no such function, or it failed.
        TimeoutError: There was no answer in time.
        TypeError, ValueError: Something has no counterpart on the other side.
        RecursionError: Calls out wait within each other too deep.
        RuntimeError: Too many other threads wait already, or nobody is there to answer.
    """
    return _reactor.call(name, args, timeout)


async def async_call(name, *args, timeout=None):
    """Calls a registered function likewise, for coroutines: others go on while this one waits.

    It waits in a thread of the loop's default executor. So no more than that has threads wait at once, and what
    the function asks of this context is no part of the call that asks: it has its turn like others. A function that
    is waited for is not ended when its coroutine is cancelled: give it a ``timeout``.

    Arguments and exceptions are those of :func:`call`.
    """
    # Not before it is needed: it is large.
    import asyncio

    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: _reactor.call(name, args, timeout))


def send(to, term):
    """Sends a message to a process, and does not wait.

    Args:
        to: An :class:`erlang.Pid`, of any node, or a name that a process of this node has. The names of Elixir's
            modules are written as there: ``"MyApp.Orders"``.
        term: The message.

    Raises:
        LookupError: No process has that name. Of a pid nothing is known: who is dead gets nothing.
        TypeError, ValueError: The message has no counterpart outside of Python.
        RuntimeError: Too many messages wait for other nodes already.
    """
    _reactor.send(to, term)


def whereis(name):
    """The :class:`erlang.Pid` of the process that has a name, or None."""
    return _reactor.whereis(name)


def is_registered(name):
    """True if a function is registered under that name."""
    return _reactor.has_function(name)


def _failure(kind="exit", type=None, reason="nobody is left who could answer", stacktrace=""):
    return CallError(kind, type, reason, stacktrace)
