"""Python's side of programs that run inside the BEAM.

Functions that Elixir has registered with ``Reactor.Python.register_function`` are found here by their names::

    import erlang
    from erlang import price_of

    price_of("tea")                       # calls it, and waits for what it returns
    erlang.call("price_of", "tea")        # likewise
    await erlang.async_call("price_of", "tea")    # likewise, in a coroutine
    erlang.send("MyApp.Orders", ("new", 7))   # a message to a process, by its name or pid
    erlang.whereis("MyApp.Orders")        # its erlang.Pid, or None

Each waits without holding the interpreter, so other contexts go on. See :mod:`erlang.calls`.

The classes of :mod:`erlang.terms` are here too, and need no BEAM around them.
"""

import importlib

_TERMS = ("Atom", "BitString", "Fun", "ImproperList", "Pid", "Port", "Reference")
_CALLS = ("CallError", "async_call", "call", "send", "whereis")


def __getattr__(name):
    if name in _TERMS:
        value = getattr(importlib.import_module("erlang.terms"), name)
    elif name in _CALLS:
        value = getattr(importlib.import_module("erlang.calls"), name)
    else:
        # Not kept: it may be registered anew, or not at all any more.
        return _function(name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_TERMS, *_CALLS})


def _function(name):
    if not name.startswith("__"):
        try:
            calls = importlib.import_module("erlang.calls")
        except ModuleNotFoundError:
            # There is no BEAM around this Python.
            pass
        else:
            if calls.is_registered(name):
                return calls.Function(name)
    raise AttributeError(
        f"module 'erlang' has no {name!r}, and no function is registered under that name"
    )
