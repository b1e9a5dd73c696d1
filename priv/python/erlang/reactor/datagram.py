"""The base class of protocols for datagrams."""

import _reactor

from .factory import describe

FRESH = None  # has no socket yet
LOST = -1  # has none any more


class DatagramProtocol:
    """What serves a datagram socket: that of a listener with ``protocol: :udp``.

    Each context of the listener has one such object, which the listener's factory makes, and all
    contexts read from the socket side by side. The methods are those of
    :class:`asyncio.DatagramProtocol`, and the object is its own transport::

        class Echo(reactor.DatagramProtocol):
            def datagram_received(self, data, addr):
                self.send_to(data, addr)

    An exception in a method is logged with its traceback and reported; the protocol goes on with
    the next datagram. One in the factory or in :meth:`connection_made` leaves the context without a
    protocol, and it is tried again, later each time, up to a second.

    Attributes:
        closed: True once it has no socket any more.
    """

    __slots__ = ("_handle", "_sockname", "closed")

    closed: bool

    def __new__(cls, *_args, **_kwargs):
        self = super().__new__(cls)
        self._handle = FRESH
        self._sockname = None
        self.closed = False
        return self

    def __init__(self):
        super().__init__()

    def connection_made(self, transport):
        """The socket is there.

        Args:
            transport: This object.
        """

    def datagram_received(self, data, addr):
        """A datagram came.

        Args:
            data: What it holds, a :class:`ReactorBuffer`; it may be empty. Keeping it keeps its
                pooled memory occupied; ``bytes(data)`` and slices are copies.
            addr: Who sent it: ``(host, port)``, for IPv6 ``(host, port, flowinfo, scope_id)``.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define datagram_received")

    def error_received(self, exc):
        """A datagram could not be sent, or the network says something about a peer.

        The socket goes on.

        Args:
            exc: An OSError, as ``ConnectionRefusedError``.
        """

    def connection_lost(self, exc):
        """The socket is gone: the server drains, is suspended or stops, the context got another
        factory, or :meth:`close` was called. Called once; a farewell can still be sent in it.

        Args:
            exc: None.
        """

    def send_to(self, data, addr):
        """Sends a datagram. May be called from any thread.

        In a method that the event loop calls, it is sent when all methods of the turn are done.

        Args:
            data: A bytes-like object, up to 65,507 bytes over IPv4. If it is too large,
                :meth:`error_received` is told.
            addr: As :meth:`datagram_received` has it. The host is an IP address, not a name.

        Returns:
            True; or False if it was dropped, since 256 datagrams wait for room in the kernel, or
            since there is no socket any more.

        Raises:
            RuntimeError: There is no socket yet.
            TypeError: ``data`` or ``addr`` is something else.
            ValueError: The host is no IP address, or the port not one.
        """
        handle = self._handle
        if handle is FRESH:
            raise RuntimeError(f"{type(self).__qualname__}.send_to: there is no socket yet")
        if handle == LOST:
            return False
        return _reactor.send_to(handle, data, addr)

    sendto = send_to

    def get_extra_info(self, name, default=None):
        """What is known of the socket: ``"sockname"`` is its own address.

        Returns:
            That, or ``default`` for any other name.
        """
        if name == "sockname" and self._sockname is not None:
            return self._sockname
        return default

    def is_closing(self):
        """True once the socket is gone, or :meth:`close` was called."""
        return self.closed

    def close(self):
        """Ends this protocol; the context's next one, which the factory makes, gets the socket."""
        if self._handle not in (FRESH, LOST):
            self.closed = True
            _reactor.close_datagrams(self._handle)


def _datagram_instance(factory):
    """A protocol that the factory made just now.

    Raises:
        TypeError: It made something else.

    What the factory raises is raised as it is.
    """
    if factory is None:
        raise LookupError("no factory was loaded for this listener")
    protocol = factory()
    if not isinstance(protocol, DatagramProtocol):
        if isinstance(protocol, type):
            made = f"the class {protocol.__qualname__} instead of an instance"
        elif protocol is None:
            made = "None"
        else:
            made = f"an instance of {type(protocol).__qualname__}"
        raise TypeError(
            f"{describe(factory)} must make a reactor.DatagramProtocol for protocol :udp, "
            f"but it made {made}"
        )
    if protocol._handle is not FRESH:
        raise TypeError(
            f"{describe(factory)} must make a new protocol each time, "
            "but it made one that it had made before"
        )
    return protocol


def _datagram_open(handle, sockname, protocol):
    """Gives a socket to a protocol that _datagram_instance made.

    Raises:
        What connection_made raises. There is no connection_lost after that.
    """
    protocol._handle = handle
    protocol._sockname = sockname
    try:
        protocol.connection_made(protocol)
    except BaseException:
        protocol._handle = LOST
        protocol.closed = True
        raise


def _datagram_lost(protocol):
    """Ends it."""
    protocol.closed = True
    try:
        protocol.connection_lost(None)
    finally:
        protocol._handle = LOST
