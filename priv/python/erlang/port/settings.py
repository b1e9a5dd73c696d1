"""What ``Reactor.Port`` tells a script that it starts, by the environment."""

import os

_NAME = "REACTOR_PORT"


class Settings:
    """The defaults are those of a script that something else has started."""

    protocol = "plain"
    packet = 2
    max_frame = 64 * 1024 * 1024
    max_stream = 64 * 1024 * 1024
    shutdown_s = 2.0
    # Of a MapSet, where it has one.
    mapset_version = None


# Taken out, since it is meant for this process and not for those that it starts.
_given = os.environ.pop(_NAME, None)
if _given is not None:
    Settings.protocol, *_numbers = _given.split()
    Settings.packet, Settings.max_frame, Settings.max_stream, *_numbers = map(int, _numbers)
    _shutdown_ms, _version = _numbers
    Settings.shutdown_s = _shutdown_ms / 1000
    Settings.mapset_version = _version or None
