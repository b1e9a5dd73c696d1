"""Which protocol serves which descriptor, and the calls by which an event loop drives one.

Descriptors are unique while they are open, and this table is one per interpreter. A number is
used again as soon as it is closed, perhaps before the old protocol heard of it: so an entry is
removed only by the protocol that it names.
"""

import _reactor

from .ends import exception_for, takes_exc
from .factory import current_factory, describe
from .protocol import ACTIONS, BARE, FRESH, LOST, Protocol

_protocols = {}


def get_protocol(fd):
    """The protocol that serves the descriptor ``fd``, or None.

    Example::

        protocol = reactor.get_protocol(fd)
        if protocol is not None:
            print(protocol.client_info)
    """
    return _protocols.get(fd)


def signal_write_ready(fd):
    """Tells the event loop that ``write_buffer`` of the protocol on ``fd`` has something to send.

    May be called from any thread. This is how an answer of ``"async_pending"`` is completed::

        def work(protocol, request):
            protocol.write_buffer.extend(answer(request))
            reactor.signal_write_ready(protocol.fd)

    Returns:
        True; or False if no event loop serves ``fd`` (any more), so that the answer is lost.
    """
    protocol = _protocols.get(fd)
    if protocol is None or protocol._handle in (FRESH, BARE, LOST):
        return False
    return bool(_reactor.signal_write_ready(protocol._handle))


def init_connection(fd, client_info):
    """Makes a protocol for a descriptor, and tells it that the connection is there.

    The protocol comes from the factory that :func:`set_protocol_factory` set. The caller keeps the
    descriptor, which should be non-blocking, and calls :func:`on_read_ready`,
    :func:`on_write_ready` and :func:`close_connection` when something happens to it.

    Returns:
        The protocol. What its connection_made returned is dropped: after this call, the caller
        looks at ``write_buffer`` itself.

    Raises:
        ValueError: ``fd`` is not a descriptor, or has a protocol already.
        RuntimeError: No factory is set.
        TypeError: The factory made something that is not a fresh protocol.
    """
    if not isinstance(fd, int) or fd < 0:
        raise ValueError(f"not a file descriptor: {fd!r}")
    if fd in _protocols:
        raise ValueError(f"fd {fd} is served by {_protocols[fd]!r} already")
    protocol = _instance(current_factory())
    _open(BARE, fd, client_info, protocol)
    return protocol


def on_read_ready(fd, data):
    """Gives data that was read from ``fd`` to its protocol.

    Returns:
        The protocol's action; ``"close"`` if no protocol serves ``fd``.

    Raises:
        TypeError: The protocol returned something that is not a string.
        ValueError: It returned a string that is no action.
    """
    protocol = _protocols.get(fd)
    if protocol is None:
        return "close"
    return _checked(protocol, "data_received", protocol.data_received(data))


def on_write_ready(fd):
    """Tells the protocol of ``fd`` that there is room to write.

    Returns and raises as :func:`on_read_ready`.
    """
    protocol = _protocols.get(fd)
    if protocol is None:
        return "close"
    return _checked(protocol, "write_ready", protocol.write_ready())


def close_connection(fd):
    """Ends the connection of ``fd``, if it has a protocol, which is told.

    An event loop then closes its descriptor. One that was given to :func:`init_connection` stays
    open: it belongs to whoever opened it.
    """
    protocol = _protocols.get(fd)
    if protocol is None:
        return
    handle = protocol._handle
    _lost(protocol)
    if handle not in (FRESH, BARE, LOST):
        _reactor.close(handle)


def _open(handle, fd, client_info, protocol):
    """Connects a protocol that _instance made.

    Returns:
        What its connection_made returned: None, or an action.

    Raises:
        What connection_made raises. There is no connection_lost after that.
    """
    protocol._handle = handle
    protocol.fd = fd
    protocol.client_info = client_info
    _protocols[fd] = protocol
    try:
        action = protocol.connection_made(fd, client_info)
        return action if action is None else _checked(protocol, "connection_made", action)
    except BaseException:
        _forget(protocol)
        raise


def _lost(protocol, reason="local", error=None):
    """Ends the protocol's connection. Only the first call does anything.

    Args:
        reason: Why, as telemetry names it.
        error: What a method of the protocol raised, if that is why.
    """
    handle = protocol._handle
    if handle is FRESH or handle == LOST:
        return
    _forget(protocol)
    protocol.close_reason = reason
    lost = protocol.connection_lost
    if takes_exc(lost):
        lost(exception_for(reason, error))
    else:
        lost()


def _forget(protocol):
    if _protocols.get(protocol.fd) is protocol:
        del _protocols[protocol.fd]
    protocol._handle = LOST
    protocol.closed = True


def _instance(factory):
    """A protocol that the factory made just now.

    Raises:
        TypeError: It made something else.

    What the factory raises is raised as it is.
    """
    protocol = factory()
    if not isinstance(protocol, Protocol):
        if isinstance(protocol, type):
            made = f"the class {protocol.__qualname__} instead of an instance"
        elif protocol is None:
            made = "None"
        else:
            made = f"an instance of {type(protocol).__qualname__}"
        raise TypeError(f"{describe(factory)} must make a reactor.Protocol, but it made {made}")
    if protocol._handle is not FRESH:
        raise TypeError(
            f"{describe(factory)} must make a new protocol for each connection, "
            f"but it made the one that served fd {protocol.fd} again"
        )
    return protocol


def _checked(protocol, method, action):
    """The action that ``method`` of ``protocol`` returned, if it is one."""
    if isinstance(action, str):
        if action in ACTIONS:
            return action
        error = ValueError
        returned = repr(action[:40])
    else:
        error = TypeError
        returned = "None" if action is None else f"an instance of {type(action).__qualname__}"
    expected = ", ".join(map(repr, ACTIONS))
    where = f"{type(protocol).__qualname__}.{method}"
    raise error(f"{where} returned {returned}, but an action is one of {expected}")
