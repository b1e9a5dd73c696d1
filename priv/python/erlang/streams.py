"""Items of an iterator or a generator, taken some at a time by whoever wants them outside of Python."""

import asyncio
import time

# An answer that has an item already does not wait longer for more, in seconds.
_PATIENCE = 0.01

# So many items an answer has at most.
_MOST = 10_000


def open_stream(source):
    """A stream of the items of ``source``: an iterable, or one for ``async for``.

    Raises:
        TypeError: It is neither.
    """
    if hasattr(type(source), "__aiter__"):
        return AsyncStream(source)
    return Stream(source)


class Stream:
    """Items of an iterable."""

    def __init__(self, source):
        self._items = iter(source)
        # So many may be made in one go: more and more while they come quickly.
        self._quick = 1
        self._error = None
        self._over = False

    def take(self, most):
        """The next items, ``most`` of them at most, and whether these are the last ones. There may be none.

        What the iterator raises is raised by itself, when the items before it have been taken.
        """
        items = []
        until = time.monotonic() + _PATIENCE
        self._raise()
        most = min(most, self._quick)
        self._quick = min(2 * self._quick, _MOST)
        while len(items) < most and not self._over:
            try:
                items.append(next(self._items))
            except StopIteration:
                self._over = True
            except BaseException as error:
                self._fail(error, items)
                break
            if time.monotonic() >= until:
                # What is there is not to wait for one that takes as long again.
                self._quick = 1
                break
        return items, self._over

    def close(self):
        """Closes the generator, if it is one: there are no more items."""
        self._over = True
        close = getattr(self._items, "close", None)
        if close is not None and hasattr(self._items, "send"):
            close()

    def _raise(self):
        if self._error is not None:
            error, self._error, self._over = self._error, None, True
            raise error

    def _fail(self, error, items):
        if not items:
            self._over = True
            raise error
        # Next time.
        self._error = error


class AsyncStream(Stream):
    """Items that have to be waited for: both methods return what is to be awaited."""

    def __init__(self, source):
        super().__init__(())
        self._items = type(source).__aiter__(source)
        self._next = None

    async def take(self, most):
        items = []
        until = time.monotonic() + _PATIENCE
        self._raise()
        while len(items) < most and not self._over:
            if self._next is None:
                self._next = asyncio.ensure_future(self._one())
            left = max(0.0, until - time.monotonic()) if items else None
            # Not cancelled with this call: the next one goes on waiting for it.
            done, _ = await asyncio.wait({self._next}, timeout=left)
            if not done:
                break
            task, self._next = self._next, None
            try:
                items.append(task.result())
            except StopAsyncIteration:
                self._over = True
            except BaseException as error:
                self._fail(error, items)
                break
        return items, self._over

    async def close(self):
        self._over = True
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

    async def _one(self):
        return await self._items.__anext__()
