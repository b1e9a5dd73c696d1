"""Handlers in the main thread, one after the other."""

from collections import deque
from concurrent.futures import TimeoutError as FutureTimeout
from select import select
from time import monotonic, perf_counter

# A handler that has once taken longer, in seconds, is slow from then on.
_QUICK_S = 0.0005


class Serial:
    """Reads all that is there, answers it, and writes the answers together.

    An answer waits for those behind it only as long as their handlers have always been quick: before a slow one, or
    one that is not known yet, what is ready is written.
    """

    def __init__(self, protocol):
        self._protocol = protocol
        self._port = protocol.port
        self._answers = []
        self._requests = deque()
        self._quick = {}

    def run(self):
        """Until the other side closes."""
        while True:
            self._take(self._port.read_some())
            while self._requests:
                self._handle(self._requests.popleft())
            self._flush()

    def _take(self, frames):
        receive = self._protocol.receive
        for frame in frames:
            request, answer = receive(frame)
            # What cannot be handled has its place in the order, too.
            if request is not None or answer is not None:
                self._requests.append(request or answer)

    def _handle(self, request):
        if type(request) is bytes:
            self._answers.append(request)
            return
        handler = request[2]
        quick = self._quick.get(handler)
        if not quick:
            self._flush()
        began = perf_counter()
        answer = self._protocol.handle(request)
        if answer is not None:
            self._answers.append(answer)
        if perf_counter() - began > _QUICK_S:
            self._quick[handler] = False
        elif quick is None:
            self._quick[handler] = True

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
            self._take(self._port.read_once())

    def end(self):
        """What is ready goes out, if there is still somebody."""
        try:
            self._flush()
        except EOFError:
            pass
