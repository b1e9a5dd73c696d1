"""The base class of protocols."""

import errno
import os
from typing import Optional

import _reactor

ACTIONS = ("continue", "write_pending", "read_pending", "close", "async_pending")
"""What data_received, write_ready, connection_made, going_away and eof_received may answer."""

# What `_handle` is when it is not the object by which an event loop knows the connection.
FRESH = None  # not connected yet
BARE = -1  # a plain descriptor that somebody else polls, see init_connection
LOST = -2  # over


class Protocol:
    """One connection. Subclass it and override what should happen.

    A subclass need not call any of these methods through ``super()``: the attributes have their
    values before ``__init__`` runs, and the reactor sets ``fd`` and ``client_info`` before it
    calls :meth:`connection_made`.

    Attributes:
        fd: The number of the file descriptor, -1 before there is one. It belongs to the event
            loop: never close it, and do not read or write it but by :meth:`read` and
            :meth:`write`. It stays readable after the end, for log lines.
        client_info: What is known of the connection, a dict: ``addr`` (the peer's address, a
            str), ``port`` (an int), ``type`` (``"tcp"``, ``"unix"`` ...), ``tls`` (None without
            TLS, else a dict: ``version`` (``"TLSv1.3"``), ``cipher``, ``alpn`` and ``sni`` (a str or
            None), ``resumed`` (a bool), ``peer_certificate`` (its DER, bytes, or None)). What is
            read and written is plaintext either way. ``proxy`` (None, or a dict with what a trusted
            proxy said of the connection: ``version``, ``command``, ``transport``, ``source`` and
            ``destination`` (an address and a port each), ``tlvs``). Of a Unix socket
            ``addr`` is the peer's path, mostly ``""``, ``port`` is None, and ``pid``, ``uid``
            and ``gid`` say which process of whom has connected, where the system knows. Of a
            descriptor that was handed over ``type`` may also be ``"udp"``, ``"pipe"``, ``"tty"`` or
            ``"device"``, and whoever handed it over may have said otherwise, and more.
        write_buffer: Bytes to send, a bytearray.
        closed: True once the connection is over.
        close_reason: None while it is open, then why it is over, as telemetry names it:
            ``"remote"`` (the peer ended the stream), ``"local"`` (the protocol closed it),
            ``"reset"``, ``"exception"``, ``"drained"``, ``"cut"``, the deadline that passed
            (``"idle_timeout"`` ...). Known in :meth:`connection_lost`, and after it.
    """

    __slots__ = ("_handle", "client_info", "close_reason", "closed", "fd", "write_buffer")

    fd: int
    client_info: dict
    write_buffer: bytearray
    closed: bool
    close_reason: Optional[str]

    def __new__(cls, *_args, **_kwargs):
        self = super().__new__(cls)
        self._handle = FRESH
        self.fd = -1
        self.client_info = {}
        self.write_buffer = bytearray()
        self.closed = False
        self.close_reason = None
        return self

    def __init__(self):
        super().__init__()

    def connection_made(self, fd, client_info):
        """The connection is there: the place to set up per-connection state.

        Returns:
            None, to wait for data; or an action, as ``"write_pending"`` after a greeting was put
            into ``write_buffer``.

        If this raises, the connection is closed, and :meth:`connection_lost` is not called.
        """
        self.fd = fd
        self.client_info = client_info

    def data_received(self, data):
        """Data arrived.

        Args:
            data: What one read found, a :class:`ReactorBuffer`. It behaves like bytes. Keeping
                it, or a memoryview of it, keeps its pooled memory occupied; ``bytes(data)`` and
                slices are copies.

        Returns:
            An action, see the module.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define data_received")

    def write_ready(self):
        """There is room to write, and something to send.

        This one sends as much of ``write_buffer`` as fits. While a subclass leaves it alone the
        event loop does the same by itself, without calling it.

        Returns:
            ``"continue"`` while ``write_buffer`` holds something, else ``"read_pending"``.
        """
        buffer = self.write_buffer
        if buffer:
            written = self.write(buffer)
            del buffer[:written]
        return "continue" if buffer else "read_pending"

    def going_away(self):
        """The server is about to end, and accepts no more: the place for a goodbye.

        Called at most once, as soon as draining begins, whatever the protocol waits for. A server
        that drains closes each connection as soon as it is idle: when its protocol waits for data,
        and nothing is there. What is left when the time to drain is over is cut.

        Returns:
            None or ``"continue"``, if there is nothing to say. ``"write_pending"`` after a goodbye
            was put into ``write_buffer``. ``"async_pending"`` if another thread makes the goodbye.
            ``"close"`` to close now. ``"read_pending"`` to stay open, though idle, for what the
            peer still has to send: until the protocol answers ``"close"``, the peer ends the
            stream, or the time is over. To say goodbye and stay, call :func:`signal_write_ready`
            and return ``"read_pending"``.

        Example::

            def going_away(self):
                self.write_buffer.extend(b"BYE\r\n")
                return "write_pending"
        """

    def eof_received(self):
        """The peer has ended what it sends; it may still read. Only the first end counts.

        A stream under TLS that ends without TLS saying so does not come here: it may have been
        cut by somebody else, so its connection is over, see :meth:`connection_lost`.

        Returns:
            None, to end the connection at once; this is what a protocol that does not override
            this method does. Or an action. ``"close"``, and ``"write_pending"``: send what is in
            ``write_buffer``, then close. ``"async_pending"``: another thread makes an answer; close
            when it is sent. ``"continue"`` and ``"read_pending"``: stay open for what there still
            is to send, until the protocol says ``"close"``, or :func:`close_connection` is called;
            such a connection is idle for a server that drains.

        Example::

            def eof_received(self):
                self.write_buffer.extend(self.summary())
                return "close"
        """

    def pause_writing(self):
        """More than ``high_watermark`` bytes wait to be sent: the place to stop making more.

        What counts is what the kernel has not taken: the bytes that the event loop has queued
        for the connection, and what its last look at ``write_buffer`` has left in there. Called
        once, then :meth:`resume_writing` when no more than ``low_watermark`` are left, and so on.
        Both marks are options of the listener. While the loop sends, ``data_received`` is not called:
        this is for protocols whose data comes from elsewhere, as from threads or other
        connections. One that overrides :meth:`write_ready` or :meth:`write` has nothing queued, and
        is not called.

        Returns:
            None. Or ``"write_pending"``, to have ``write_buffer`` sent, ``"close"``, or another
            action, which changes nothing. Likewise :meth:`resume_writing`.

        Example of one that passes on what another connection gets::

            def pause_writing(self):
                self.source.pause_reading()

            def resume_writing(self):
                self.source.resume_reading()
        """

    def resume_writing(self):
        """There is room again, after :meth:`pause_writing`."""

    def connection_lost(self, exc=None):
        """The connection is over, whoever ended it. Called once; ``closed`` is True by then.

        An override may leave ``exc`` out. Whether it takes an argument is looked at once for each
        class.

        Args:
            exc: None after a clean end: the peer ended the stream, or the protocol closed it
                (``close_reason`` tells which). Else an exception:
                ``ConnectionResetError`` (the connection broke), :class:`DeadlineExceeded`, a
                ``TimeoutError`` (its ``deadline`` says which), :class:`Drained` (the server ended
                while the connection was idle) and its subclass :class:`Cut` (it was not done in
                time), ``ConnectionAbortedError`` (what came was no TLS, or ended without it), or what
                another method of this protocol raised.
        """

    def pause_reading(self):
        """Has :meth:`data_received` not called until :meth:`resume_reading` is.

        What comes meanwhile waits, in the kernel and at the peer. Neither the end of the stream nor
        a broken connection is noticed before it is read on, or something is sent. The
        deadlines for what the peer sends stand still, and a server that drains waits for the
        connection as for a busy one. May be called from any thread, in any state: twice is as good as
        once. If it comes from another thread, a call that is being made goes on.

        Raises:
            RuntimeError: The protocol has no event loop (yet).
        """
        self._tell("pause_reading", _reactor.pause_reading)

    def resume_reading(self):
        """Ends what :meth:`pause_reading` began. Likewise from any thread."""
        self._tell("resume_reading", _reactor.resume_reading)

    def write_eof(self):
        """Ends what is sent, behind what is in ``write_buffer``; what the peer sends still comes.

        Over TLS the peer is told so in TLS as well. Of a protocol that overrides
        :meth:`write_ready` or :meth:`write` it happens when it does not wait for room any more. What
        is put into ``write_buffer`` after that is an error. May be called from any thread.

        Raises:
            RuntimeError: The protocol has no event loop (yet).
        """
        self._tell("write_eof", _reactor.write_eof)

    def _tell(self, name, function):
        handle = self._handle
        if handle is FRESH:
            raise RuntimeError(f"{type(self).__qualname__}.{name}: there is no connection yet")
        if handle == BARE:
            raise RuntimeError(
                f"{type(self).__qualname__}.{name}: whoever called init_connection for fd "
                f"{self.fd} polls it, not an event loop of the reactor"
            )
        if handle != LOST:
            function(handle)

    def read(self, size):
        """Reads what is there now, without waiting.

        Args:
            size: The most that is wanted, in bytes; at least 1.

        Returns:
            Up to ``size`` bytes. ``b""`` at the end of the stream, which a connection that was
            reset or closed has reached too.

        Raises:
            BlockingIOError: Nothing is there yet.
            RuntimeError: The protocol has no connection yet.
            ValueError: ``size`` is less than 1.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1 byte, not {size}")
        handle = self._handle
        if handle is FRESH:
            raise RuntimeError(f"{type(self).__qualname__}.read: there is no connection yet")
        if self.closed or handle == LOST:
            return b""
        try:
            return os.read(self.fd, size) if handle == BARE else _reactor.read(handle, size)
        except ConnectionError:
            return b""

    def write(self, data):
        """Writes what fits now, without waiting.

        Args:
            data: A bytes-like object.

        Returns:
            How many bytes were taken; 0 if the kernel has no room, so that a protocol that wants
            to write the rest waits for :meth:`write_ready`.

        Raises:
            ConnectionError: The connection is broken or closed (``BrokenPipeError``,
                ``ConnectionResetError``).
            RuntimeError: The protocol has no connection yet.
        """
        handle = self._handle
        if handle is FRESH:
            raise RuntimeError(f"{type(self).__qualname__}.write: there is no connection yet")
        if self.closed or handle == LOST:
            raise BrokenPipeError(errno.EPIPE, f"the connection on fd {self.fd} is closed")
        if handle != BARE:
            return _reactor.write(handle, data)
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
