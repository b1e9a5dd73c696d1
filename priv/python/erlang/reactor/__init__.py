"""Protocols for sockets that Reactor's event loops drive.

A protocol is a class with a method for each thing that can happen to a connection.
The event loop reads the socket, calls the protocol, and does what its answer asks::

    import erlang.reactor as reactor

    class Shout(reactor.Protocol):
        def data_received(self, data):
            self.write_buffer.extend(data.upper())
            return "write_pending"

    reactor.set_protocol_factory(Shout)

Each connection has a protocol object of its own. All of them in one context are called on one
thread, one at a time; a method that waits makes every connection of its context wait.

The answer to data that came, and to room to write, is an action:

=================  ==========================================================================
``continue``       go on as before: wait for the same thing again
``write_pending``  send what is in ``write_buffer``, then read on
``read_pending``   wait for data
``close``          send what is in ``write_buffer``, then close the connection
``async_pending``  the answer comes later: another thread fills ``write_buffer`` and calls
                   :func:`signal_write_ready`
=================  ==========================================================================

A listener with ``protocol: :udp`` is served by :class:`DatagramProtocol` objects instead, see there.

A connection need not come from a listener: Elixir may hand a descriptor over to a context, whose
own factory makes its protocol. Of a datagram socket each ``data_received`` brings one datagram, which
may be empty, and each ``write_buffer`` is sent as one, to whoever sent the last if the socket is not
connected. A pipe is read or written as it is open: to write to one that is only read raises OSError.

When its server stops accepting, to end, :meth:`Protocol.going_away` is called on each protocol that
defines it. A connection that then waits for its peer, and owes it nothing, is closed.

A protocol can stop what is sent to it (:meth:`Protocol.pause_reading`), is told when its peer takes too little
(:meth:`Protocol.pause_writing`), and may go on in one direction when the other has ended
(:meth:`Protocol.eof_received`, :meth:`Protocol.write_eof`).

What is printed, logged with :mod:`logging` or warned of goes to Elixir's Logger, see
:mod:`erlang.reactor.reports`.

Any other answer, and any exception, is a fault of that one connection: it is logged with its
traceback and the connection is closed.
"""

from _reactor import ReactorBuffer

from .datagram import DatagramProtocol, _datagram_instance, _datagram_lost, _datagram_open
from .ending import CallbackTimeout, CallTimeout, _end_threads
from .ends import Cut, DeadlineExceeded, Drained
from .factory import _own_factory, _resolve, set_protocol_factory
from .protocol import ACTIONS, Protocol
from .registry import (
    _checked,
    _instance,
    _lost,
    _open,
    close_connection,
    get_protocol,
    init_connection,
    on_read_ready,
    on_write_ready,
    signal_write_ready,
)

# The names with an underscore are what the native side calls.
__all__ = [
    "ACTIONS",
    "CallTimeout",
    "CallbackTimeout",
    "Cut",
    "DatagramProtocol",
    "DeadlineExceeded",
    "Drained",
    "Protocol",
    "ReactorBuffer",
    "_checked",
    "_datagram_instance",
    "_datagram_lost",
    "_datagram_open",
    "_end_threads",
    "_instance",
    "_lost",
    "_open",
    "_own_factory",
    "_resolve",
    "close_connection",
    "get_protocol",
    "init_connection",
    "on_read_ready",
    "on_write_ready",
    "set_protocol_factory",
    "signal_write_ready",
]
