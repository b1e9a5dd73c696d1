"""What ``Reactor.Port`` tells a script that it starts, by the environment."""

import os

_NAME = "REACTOR_PORT"


class Settings:
    """The defaults are those of a script that something else has started."""

    protocol = "plain"
    packet = 2
    max_frame = 64 * 1024 * 1024
    shutdown_s = 2.0


# Taken out, since it is meant for this process and not for those that it starts.
_given = os.environ.pop(_NAME, None)
if _given is not None:
    _protocol, _packet, _max_frame, _shutdown_ms = _given.split()
    Settings.protocol = _protocol
    Settings.packet = int(_packet)
    Settings.max_frame = int(_max_frame)
    Settings.shutdown_s = int(_shutdown_ms) / 1000
