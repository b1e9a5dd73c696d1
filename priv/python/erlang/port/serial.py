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
        # What was read and is not looked at yet, and what came while a handler waited: requests, and answers to some.
        self._frames = deque()
        self._later = deque()
        # For each handler, how many quick calls it takes for it to count as quick.
        self._probation = {}

    def run(self):
        """Until the other side closes."""
        read, receive, handle = self._port.read_some, self._protocol.receive, self._handle
        frames, later = self._frames, self._later
        while True:
            frames.extend(read())
            while frames:
                request, answer = receive(frames.popleft())
                if request is not None:
                    handle(request)
                    while later:
                        self._handle_later(later.popleft())
                elif answer is not None:
                    self._answers.append(answer)
            self._flush()

    def _handle_later(self, request):
        if type(request) is tuple:
            self._handle(request)
        else:
            self._answers.append(request)

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
        """Reads until this is there. Requests that come meanwhile have their turn when the handler that waits is done."""
        until = None if timeout is None else monotonic() + timeout
        while not future.done():
            # What is there already comes first: where there are no numbers, it is the order that says what is whose.
            while self._frames:
                request, answer = self._protocol.receive(self._frames.popleft())
                if request is not None or answer is not None:
                    self._later.append(request or answer)
                if future.done():
                    return
            if until is not None:
                left = until - monotonic()
                if left <= 0 or not select([self._port], [], [], left)[0]:
                    raise FutureTimeout
            self._frames.extend(self._port.read_once())

    def end(self):
        """What is ready goes out, if there is still somebody."""
        try:
            self._flush()
        except EOFError:
            pass
