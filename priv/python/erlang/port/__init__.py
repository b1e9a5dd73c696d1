"""Python's side of ``Reactor.Port``, and of any Erlang port: a program that is called by its standard input.

A subclass of :class:`Protocol` names what may be called::

    from erlang.port import Protocol

    class Calculator(Protocol):
        def handler_twice(self, x):
            return 2 * x

    if __name__ == "__main__":
        Calculator().run()

It needs nothing but the standard library. ``Reactor.Port`` tells the script which protocol is spoken; a script that
something else has started speaks the plain one, with two bytes of length.

Standard input and output belong to the protocol. What a script prints goes elsewhere: to Elixir's Logger where
``Reactor.Port`` has started it, else to standard error.
"""

from .errors import FrameError, RemoteError
from .protocol import Protocol
from .streams import Port

__all__ = ["FrameError", "Port", "Protocol", "RemoteError"]
