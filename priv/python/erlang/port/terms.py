"""Terms in frames: the external format, with the limits of this port."""

from functools import partial

from .. import etf
from .settings import Settings

_DEFAULT = 64 * 1024 * 1024


class Terms:
    """Encodes and decodes what may be as long as a frame."""

    def __init__(self, max_frame, max_stream):
        self.max_size = max_frame
        # Of what is sent as a stream.
        self.max_stream = max_stream
        limits = {} if max_frame <= _DEFAULT else {"max_size": max_frame}
        self.decode = partial(etf.decode, **limits) if limits else etf.decode
        if Settings.mapset_version is not None:
            limits["mapset_version"] = Settings.mapset_version
        self.encode = partial(etf.encode, **limits) if limits else etf.encode
