"""Frames over two descriptors."""

import os
import select
import struct

from .errors import FrameError

_CHUNK = 64 * 1024
_LENGTHS = {2: struct.Struct(">H"), 4: struct.Struct(">I")}
_LONGEST = {2: 0xFFFF, 4: 0xFFFFFFFF}

# Standard input and output, once they are taken; nothing of them is left once they are closed.
_taken = None
_CLOSED = ()


def take():
    """Takes standard input and output away from the rest of the program, once.

    Who reads standard input from then on finds its end. What is written to standard output goes to standard error.

    Returns:
        The descriptors that take their place, for reading and for writing. No program that is started inherits them.

    Raises:
        ValueError: They have been taken and closed.
    """
    global _taken
    if _taken == _CLOSED:
        raise ValueError("standard input and output were taken before, and are closed")
    if _taken is None:
        _taken = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        # A fork that outlives us would keep the port open, and would speak in our place.
        os.register_at_fork(after_in_child=_forget)
    return _taken


def _forget():
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in _taken:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


class Port:
    """Reads and writes frames: bytes with their length in front, of two or four bytes, most significant first.

    One thread at a time may read, and one may write.

    Args:
        packet: How many bytes a length has: 2 or 4.
        max_frame: The longest frame, in bytes, in both directions.
        descriptors: Two, for reading and for writing; by default standard input and output, which are then taken away
            from the rest of the program.
    """

    def __init__(self, packet=2, max_frame=64 * 1024 * 1024, descriptors=None):
        if packet not in _LENGTHS:
            raise ValueError(f"a length has 2 or 4 bytes, not {packet!r}")
        self.packet = packet
        self.max_frame = min(max_frame, _LONGEST[packet])
        self._input, self._output = take() if descriptors is None else descriptors
        self._length = _LENGTHS[packet]
        # What was read of a frame that is not whole yet, and how much of it is needed to go on.
        self._parts = []
        self._have = 0
        self._need = packet
        self._frames = []

    def fileno(self):
        """The descriptor that is read, for an event loop."""
        return self._input

    def read(self):
        """Waits for one frame.

        Raises:
            EOFError: The other side has closed, perhaps in the middle of a frame.
            FrameError: A frame is announced that is longer than is allowed. There is no way to go on.
        """
        if not self._frames:
            self._frames = self.read_some()[::-1]
        return self._frames.pop()

    def read_some(self):
        """Waits until there is a whole frame, and returns all that are there then.

        Raises:
            EOFError, FrameError: As for `read`.
        """
        if self._frames:
            frames, self._frames = self._frames[::-1], []
            return frames
        frames = []
        while not frames:
            frames = self.read_once()
        return frames

    def read_once(self):
        """Reads once, which waits if there is nothing, and returns the frames that are whole now, perhaps none."""
        data = self._read()
        if not data:
            raise EOFError("the other side has closed")
        have = self._have + len(data)
        if have < self._need:
            self._parts.append(data)
            self._have = have
            return []
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts = []
        return self._split(data)

    def _split(self, data):
        unpack = self._length.unpack_from
        packet, at, end, frames = self.packet, 0, len(data), []
        need = packet
        while at + packet <= end:
            (size,) = unpack(data, at)
            if size > self.max_frame:
                raise FrameError(f"a frame of {size} bytes, {self.max_frame} are allowed")
            if at + packet + size > end:
                need = packet + size
                break
            at += packet
            frames.append(data[at : at + size])
            at += size
        if at < end:
            self._parts.append(data[at:])
        self._have = end - at
        self._need = need
        return frames

    def _read(self):
        while True:
            try:
                return os.read(self._input, _CHUNK)
            except BlockingIOError:
                select.select([self._input], [], [])

    def write(self, frame):
        """Writes one frame, or a list of those that belong together, and returns when all of it is written.

        Raises:
            FrameError: It is longer than is allowed, and nothing is written.
            EOFError: The other side has closed.
        """
        self.write_some((frame,))

    def write_some(self, frames):
        """Writes frames, all in one, as `write` does. A list among them is of frames that belong together."""
        parts = []
        for frame in frames:
            if type(frame) is list:
                for part in frame:
                    self._add(part, parts)
            else:
                self._add(frame, parts)
        data = b"".join(parts)
        try:
            written = self._write(data)
            while written < len(data):
                written += self._write(memoryview(data)[written:])
        except BrokenPipeError:
            raise EOFError("the other side has closed") from None

    def _add(self, frame, parts):
        if len(frame) > self.max_frame:
            raise FrameError(f"a frame of {len(frame)} bytes, {self.max_frame} are allowed")
        parts.append(self._length.pack(len(frame)))
        parts.append(frame)

    def _write(self, data):
        while True:
            try:
                return os.write(self._output, data)
            except BlockingIOError:
                select.select([], [self._output], [])

    def close(self):
        """Closes both descriptors. To do so again does nothing: their numbers may be somebody else's by then."""
        global _taken
        descriptors = {self._input, self._output} - {-1}
        if _taken is not None and descriptors == set(_taken):
            _taken = _CLOSED
        self._input = self._output = -1
        for descriptor in descriptors:
            os.close(descriptor)
