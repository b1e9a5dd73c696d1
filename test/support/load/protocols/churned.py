"""What clients that come and go do something to, and what counts what is left of them."""

import ctypes
import gc
import sys

import erlang.reactor as reactor


class Churned(reactor.Protocol):
    """Echoes; pours a megabyte; or raises."""

    def data_received(self, data):
        if data == b"raise":
            raise RuntimeError("as told")
        self.write_buffer.extend(b"x" * 1_000_000 if data == b"pour" else data)
        return "write_pending"


def count(with_blocks):
    """How many protocols are alive in this interpreter, how many objects, and how many blocks of memory.

    Python counts the blocks of all interpreters, and looks into memory that another one with a GIL of its own gives back
    meanwhile: it crashes. So they are counted only where there is one interpreter, and are 0 else.
    """
    gc.collect()
    # What the C library keeps for later is not in use: it goes back to the system, where that can be asked.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    objects = gc.get_objects()
    alive = sum(isinstance(one, Churned) for one in objects)
    return alive, len(objects), sys.getallocatedblocks() if with_blocks else 0
