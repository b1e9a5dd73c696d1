"""The asyncio loop of a context: coroutines run on the context's one thread, between the turns of its native loop.

Nothing here waits. The native loop watches the selector of the asyncio loop as it watches sockets, and has it
go on (:meth:`Tasks.pump`) when one of its descriptors is ready, a timer is due, or something was put into it.
"""

import asyncio
import concurrent.futures
import functools
import itertools
import selectors
import threading
import time
import weakref

# How long coroutines may go on before connections and calls get their turn, in seconds.
_TURN = 0.005

# How often it is looked whether a child process has ended that was killed, in seconds.
_PAUSE = 0.005

_RESOLUTION = time.get_clock_info("monotonic").resolution

_numbers = itertools.count(1)


class _Selector(selectors.DefaultSelector):
    """Says what is ready now. Where asyncio would wait it has its loop stop, and notes until when."""

    loop = None
    waits = False
    # There is more to do at once, or else when it is due; never by itself if None.
    more = False
    due = None
    until = 0.0

    def select(self, timeout=None):
        if self.waits:
            return super().select(timeout)
        events = super().select(0)
        now = time.monotonic()
        if events or (timeout is not None and timeout <= 0):
            if now >= self.until:
                self.more = True
                self.loop.stop()
            return events
        self.more = False
        self.due = None if timeout is None else now + timeout
        self.loop.stop()
        return events


class _Loop(asyncio.SelectorEventLoop):
    """Knows what has to be closed with it, and says when it was given something while it did not run."""

    def __init__(self, wake):
        # First of all, since it is asked while the rest is made.
        self.pumped = True
        self.wake = wake
        self.pool = None
        self.pool_name = f"asyncio-{next(_numbers)}"
        # Servers, and transports of child processes.
        self.kept = weakref.WeakSet()
        self.selector = _Selector()
        super().__init__(self.selector)
        self.selector.loop = self
        self.pumped = False

    def call_soon(self, callback, *args, context=None):
        if not self.pumped:
            self.wake()
        return super().call_soon(callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        if not self.pumped:
            self.wake()
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, executor, func, *args):
        if executor is None and self.pool is None:
            # One whose threads can be told from others.
            pool = concurrent.futures.ThreadPoolExecutor(thread_name_prefix=self.pool_name)
            self.set_default_executor(pool)
        return super().run_in_executor(executor, func, *args)

    def set_default_executor(self, executor):
        super().set_default_executor(executor)
        self.pool = executor

    async def create_server(self, *args, **kwargs):
        return self._keep(await super().create_server(*args, **kwargs))

    async def create_unix_server(self, *args, **kwargs):
        return self._keep(await super().create_unix_server(*args, **kwargs))

    async def subprocess_exec(self, *args, **kwargs):
        transport, protocol = await super().subprocess_exec(*args, **kwargs)
        return self._keep(transport), protocol

    async def subprocess_shell(self, *args, **kwargs):
        transport, protocol = await super().subprocess_shell(*args, **kwargs)
        return self._keep(transport), protocol

    def _keep(self, what):
        self.kept.add(what)
        return what


class Tasks:
    """The loop of one context, and the calls that are tasks in it.

    Args:
        wake: Called without arguments when there is something to do for :meth:`pump`, and it does not run.
    """

    def __init__(self, wake):
        self._loop = _Loop(wake)
        self._calls = {}
        self._done = []
        self._kept = set()

    @property
    def loop(self):
        """The asyncio loop."""
        return self._loop

    def fileno(self):
        """What becomes readable when one of the loop's descriptors is ready."""
        return self._loop.selector.fileno()

    def __len__(self):
        """How many calls have not come to their end."""
        return len(self._calls)

    def start(self, number, awaitable):
        """Makes a task of a call; :meth:`pump` tells under its number what it came to.

        Raises:
            ValueError: It is a future of another loop.
        """
        task = asyncio.ensure_future(awaitable, loop=self._loop)
        self._calls[number] = task
        task.add_done_callback(functools.partial(self._ended, number))

    def cancel(self, number):
        """Cancels the task of a call that nobody waits for any more, if it still runs."""
        task = self._calls.get(number)
        if task is not None:
            # Whatever is raised now is told to nobody.
            task.add_done_callback(_take)
            task.cancel("its caller does not wait for it any more")
            if not self._loop.pumped:
                self._loop.wake()

    def runs_one_of(self, numbers):
        """True if the task that is running just now is one of these calls'. Other threads may ask."""
        current = asyncio.current_task(self._loop)
        return current is not None and any(self._calls.get(each) is current for each in numbers)

    def keep(self, coroutine):
        """Makes a task that nobody waits for, and keeps it until it is over."""
        task = self._loop.create_task(coroutine)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def pump(self):
        """Lets the tasks go on until they all wait, for 5 ms at most.

        Returns:
            Whether there is more to do at once; after how many seconds there is something to do
            by itself, or None; and the calls that have ended, each as its number, whether it returned, and
            what it returned or raised.
        """
        loop, selector = self._loop, self._loop.selector
        selector.until = time.monotonic() + _TURN
        # Unless it comes to wait.
        selector.more = True
        loop.pumped = True
        try:
            loop.run_forever()
        except BaseException as error:
            # Of a task that knows it too: SystemExit, or what interrupts a step that takes too long.
            loop.call_exception_handler(
                {"message": "the loop of a context was left by an exception", "exception": error}
            )
        finally:
            loop.pumped = False
        ended, self._done = self._done, []
        more, left = selector.more, None
        if not more and selector.due is not None:
            left = max(0.0, selector.due - time.monotonic())
            # What was due in the last moment has been run, and may have left something to do.
            more = left <= _RESOLUTION
        return more, left, ended

    def end(self, seconds):
        """Cancels all tasks, and closes what they had open; waits for them for as many seconds."""
        loop = self._loop
        loop.pumped = loop.selector.waits = True
        try:
            loop.run_until_complete(self._finish(time.monotonic() + seconds))
        finally:
            loop.close()
            loop.selector.loop = None
            self._calls.clear()
            self._done.clear()

    def _ended(self, number, task):
        del self._calls[number]
        try:
            self._done.append((number, True, task.result()))
        except asyncio.CancelledError as error:
            said = str(error) or "the task was cancelled"
            told = asyncio.CancelledError(said).with_traceback(error.__traceback__)
            self._done.append((number, False, told))
        except BaseException as error:
            self._done.append((number, False, error))

    async def _finish(self, deadline):
        loop = self._loop
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel("its context ends")
        if tasks:
            # One that takes long to end must not use up what the rest needs.
            left = max(0.0, deadline - time.monotonic()) * 0.6
            done, pending = await asyncio.wait(tasks, timeout=left)
            for task in done:
                _tell(loop, task)
            for task in pending:
                context = {"message": "a task did not end when it was cancelled", "task": task}
                loop.call_exception_handler(context)
        try:
            left = max(0.0, deadline - time.monotonic()) * 0.5
            await asyncio.wait_for(loop.shutdown_asyncgens(), left)
        except asyncio.TimeoutError:
            pass
        kept = list(loop.kept)
        for each in kept:
            each.close()
        # What was left open: asyncio's own list of it, where it has one.
        for transport in list(getattr(loop, "_transports", {}).values()):
            transport.abort()
        await asyncio.sleep(0)
        await self._reap(kept, deadline)
        if loop.pool is not None:
            loop.pool.shutdown(wait=False, cancel_futures=True)
            for thread in threading.enumerate():
                if thread.name.startswith(f"{loop.pool_name}_"):
                    thread.join(max(0.0, deadline - time.monotonic()))

    async def _reap(self, kept, deadline):
        children = [each for each in kept if isinstance(each, asyncio.SubprocessTransport)]
        while time.monotonic() < deadline:
            if all(child.get_returncode() is not None for child in children):
                return
            await asyncio.sleep(_PAUSE)


def _take(task):
    if not task.cancelled():
        task.exception()


def _tell(loop, task):
    if not task.cancelled() and task.exception() is not None:
        loop.call_exception_handler(
            {
                "message": "a task failed when it was cancelled",
                "exception": task.exception(),
                "task": task,
            }
        )
