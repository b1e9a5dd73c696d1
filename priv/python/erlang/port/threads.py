"""Handlers in threads of their own, while the main thread reads."""

import threading
from queue import Empty, SimpleQueue


class Threads:
    """A fixed number of threads take requests in the order in which they came; each writes its own answers."""

    def __init__(self, protocol, workers):
        self._protocol = protocol
        self._port = protocol.port
        self._requests = SimpleQueue()
        self._writing = threading.Lock()
        # No daemons, which not every interpreter has: `end` waits for them in any case.
        self._threads = [
            threading.Thread(target=self._work, name=f"port-worker-{n + 1}", daemon=False)
            for n in range(workers)
        ]

    def run(self):
        """Until the other side closes."""
        for thread in self._threads:
            thread.start()
        receive = self._protocol.receive
        while True:
            for frame in self._port.read_some():
                request, answer = receive(frame)
                if request is not None:
                    self._requests.put(request)
                elif answer is not None:
                    self.send(answer)

    def _work(self):
        while True:
            request = self._requests.get()
            if request is None:
                return
            try:
                answer = self._protocol.handle(request)
            except BaseException as error:
                # SystemExit and its like would end this thread and nothing else.
                answer = self._protocol.raised(request, error)
            if answer is not None:
                try:
                    self.send(answer)
                except EOFError:
                    return

    def send(self, frame):
        """Sends a frame, from any thread."""
        with self._writing:
            self._port.write(frame)

    def wait(self, future, timeout):
        """For an answer that the main thread will read."""
        if threading.current_thread() is threading.main_thread():
            raise RuntimeError("this thread reads the answers: call from a handler")
        future.result(timeout)

    def end(self):
        """Nothing more is begun; what has begun has as long as the process has."""
        self._protocol.closed()
        try:
            while True:
                self._requests.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._requests.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
