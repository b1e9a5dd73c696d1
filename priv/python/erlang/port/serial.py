"""Handlers in the main thread, one after the other."""

from collections import deque
from concurrent.futures import TimeoutError as FutureTimeout
from select import select
from time import monotonic, perf_counter

# A handler that takes longer, in seconds, is slow, as one is that is not known yet, until so many calls of it in a
# row were quick.
_QUICK_S = 0.001
_PROBATION = 64


class Serial:
    """Reads all that is there, answers it, and writes the answers together.

    An answer waits for those behind it only as long as their handlers have been quick of late: before a slow one, or
    one that is not known yet, what is ready is written. To write each by itself took more time than to make it.
    """

    def __init__(self, protocol):
        self._protocol = protocol
        self._port = protocol.port
        self._answers = []
        self._later = deque()
        # For each handler, how many quick calls it takes for it to count as quick.
        self._probation = {}

    def run(self):
        """Until the other side closes."""
        read, receive, handle = self._port.read_some, self._protocol.receive, self._handle
        while True:
            for frame in read():
                request, answer = receive(frame)
                if request is not None:
                    handle(request)
                elif answer is not None:
                    self._answers.append(answer)
            while self._later:
                handle(self._later.popleft())
            self._flush()

    def _handle(self, request):
        handler = request[2]
        probation = self._probation.get(handler, _PROBATION)
        if probation:
            self._flush()
        began = perf_counter()
        answer = self._protocol.handle(request)
        if answer is not None:
            self._answers.append(answer)
        if perf_counter() - began > _QUICK_S:
            self._probation[handler] = _PROBATION
        elif probation:
            self._probation[handler] = probation - 1

    def _flush(self):
        if self._answers:
            answers, self._answers = self._answers, []
            self._port.write_some(answers)

    def send(self, frame):
        """Sends what is no answer, after the answers that are ready."""
        self._answers.append(frame)
        self._flush()

    def wait(self, future, timeout):
        """Reads until this is there. Requests that come meanwhile are handled when the handler that waits is done."""
        until = None if timeout is None else monotonic() + timeout
        while not future.done():
            if until is not None:
                left = until - monotonic()
                if left <= 0 or not select([self._port], [], [], left)[0]:
                    raise FutureTimeout
            for frame in self._port.read_once():
                request, answer = self._protocol.receive(frame)
                if request is not None:
                    self._later.append(request)
                elif answer is not None:
                    self.send(answer)

    def end(self):
        """What is ready goes out, if there is still somebody."""
        try:
            self._flush()
        except EOFError:
            pass
