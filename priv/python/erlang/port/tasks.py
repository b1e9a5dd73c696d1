"""Handlers in an event loop of asyncio."""

import asyncio
import inspect
import threading


class Tasks:
    """Each call of an ``async def`` is a task; other handlers run between these.

    Where the order counts, one call is finished before the next begins.
    """

    def __init__(self, protocol):
        self._protocol = protocol
        self._port = protocol.port
        self._answers = []
        self._tasks = set()
        self._thread = None
        self._loop = None
        self._end = None

    def run(self):
        """Until the other side closes; what has begun is cancelled then."""
        asyncio.run(self._run())

    async def _run(self):
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.create_future()
        self._queue = asyncio.Queue()
        self._loop.add_reader(self._port.fileno(), self._read)
        try:
            if self._protocol.ordered:
                self._keep(self._loop.create_task(self._in_order()))
            await self._end
        finally:
            self._loop.remove_reader(self._port.fileno())
            self._protocol.closed()

    def _read(self):
        try:
            for frame in self._port.read_once():
                request, answer = self._protocol.receive(frame)
                if self._protocol.ordered:
                    # An answer to a call of ours is nothing to be done.
                    if request is not None or answer is not None:
                        self._queue.put_nowait(request or answer)
                elif request is not None:
                    self._start(request)
                elif answer is not None:
                    self._answer(answer)
        except BaseException as error:
            self._fail(error)

    def _start(self, request):
        if inspect.iscoroutinefunction(request[2]):
            self._keep(self._loop.create_task(self._await(request)))
        else:
            self._answer(self._protocol.handle(request))

    async def _in_order(self):
        while True:
            request = await self._queue.get()
            if type(request) is not tuple:
                self._answer(request)
            elif inspect.iscoroutinefunction(request[2]):
                await self._await(request)
            else:
                self._answer(self._protocol.handle(request))

    async def _await(self, request):
        kind, id, handler, args = request
        try:
            value = await handler(*args)
        except asyncio.CancelledError as error:
            if self._end.done():
                raise
            # By something of its own: whoever called still waits.
            answer = self._protocol.raised(request, error)
        except Exception as error:
            answer = self._protocol.raised(request, error)
        else:
            answer = self._protocol.answer(kind, id, value)
        self._answer(answer)

    def _keep(self, task):
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task):
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def _fail(self, error):
        if not self._end.done():
            self._end.set_exception(error)

    def send(self, frame):
        """Sends a request, at the end of a turn of the loop, from any thread: in the order in which they come here."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._answer, frame)
        else:
            self._loop.call_soon_threadsafe(self._answer, frame)

    def _answer(self, frame):
        if frame is None:
            return
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(frame)

    def _flush(self):
        answers, self._answers = self._answers, []
        try:
            self._port.write_some(answers)
        except EOFError as error:
            self._fail(error)

    def wait(self, future, timeout):
        """For an answer that the loop will read, in another thread."""
        future.result(timeout)

    def end(self):
        """The loop has ended."""
