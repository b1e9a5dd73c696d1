"""The asyncio loop of a context, driven by hand as the native loop does it. Needs no context."""

import asyncio
import gc
import os
import select
import socket
import subprocess
import sys
import threading
import time
import unittest

from erlang import aio


class Driven(unittest.TestCase):
    """Has a loop that is pumped as the native side does."""

    def setUp(self):
        self.woken = 0
        self.tasks = aio.Tasks(self.wake)
        self.ended = {}
        self.addCleanup(self.end)

    def wake(self):
        self.woken += 1

    def end(self):
        if self.tasks is not None:
            self.tasks.end(5)
            self.tasks = None

    def run_until(self, done, seconds=10):
        """Pumps, and between that waits as the native loop does: for the descriptor, or the time."""
        limit = time.monotonic() + seconds
        while not done():
            more, left, ended = self.tasks.pump()
            self.ended.update({number: (returned, value) for number, returned, value in ended})
            if done():
                return
            wait = limit - time.monotonic()
            self.assertGreater(wait, 0, "it takes too long")
            if not more:
                wait = wait if left is None else min(wait, left)
                select.select([self.tasks.fileno()], [], [], wait)

    def result(self, awaitable):
        """What a call comes to."""
        self.tasks.start(0, awaitable)
        self.run_until(lambda: 0 in self.ended)
        returned, value = self.ended.pop(0)
        if returned:
            return value
        raise value


class PumpTest(Driven):
    def test_a_coroutine_returns(self):
        async def double(x):
            await asyncio.sleep(0)
            return x * 2

        self.assertEqual(self.result(double(4)), 8)
        self.assertEqual(len(self.tasks), 0)

    def test_it_runs_in_the_loop(self):
        async def running():
            return asyncio.get_running_loop()

        self.assertIs(self.result(running()), self.tasks.loop)
        with self.assertRaises(RuntimeError):
            asyncio.get_running_loop()

    def test_timers_are_kept(self):
        async def sleep():
            began = time.monotonic()
            await asyncio.sleep(0.03)
            return time.monotonic() - began

        self.assertGreaterEqual(self.result(sleep()), 0.029)

    def test_a_pump_says_until_when_there_is_nothing(self):
        self.tasks.start(1, asyncio.sleep(3_000))
        more, left, ended = self.tasks.pump()
        self.assertFalse(more)
        self.assertGreater(left, 2_900)
        self.assertEqual(ended, [])
        self.tasks.cancel(1)
        self.run_until(lambda: 1 in self.ended)
        self.assertEqual(self.tasks.pump(), (False, None, []))

    def test_tasks_go_on_side_by_side(self):
        async def meet(mine, other):
            mine.set()
            await other.wait()

        async def events():
            return asyncio.Event(), asyncio.Event()

        one, other = self.result(events())
        self.tasks.start(1, meet(one, other))
        self.tasks.start(2, meet(other, one))
        self.run_until(lambda: len(self.ended) == 2)
        self.assertEqual(self.ended, {1: (True, None), 2: (True, None)})

    def test_one_that_never_waits_leaves_time_for_others(self):
        async def spin():
            while True:
                await asyncio.sleep(0)

        self.tasks.start(1, spin())
        # Else this would not come to an end.
        more, _left, _ended = self.tasks.pump()
        self.assertTrue(more)
        self.tasks.cancel(1)
        self.run_until(lambda: 1 in self.ended)

    def test_it_wakes_for_what_is_put_in_from_outside_alone(self):
        async def sleep():
            await asyncio.sleep(0.001)

        self.tasks.start(1, sleep())
        self.assertEqual(self.woken, 1)
        self.run_until(lambda: 1 in self.ended)
        self.assertEqual(self.woken, 1)
        self.tasks.loop.call_later(0.001, self.ended.update, {2: None})
        self.assertEqual(self.woken, 2)
        self.run_until(lambda: 2 in self.ended)

    def test_a_thread_can_call_in(self):
        async def wait():
            future = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            threading.Thread(
                target=lambda: loop.call_soon_threadsafe(future.set_result, "from a thread")
            ).start()
            return await future

        self.assertEqual(self.result(wait()), "from a thread")

    def test_functions_run_in_the_executor(self):
        async def elsewhere():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, threading.get_ident)

        self.assertNotEqual(self.result(elsewhere()), threading.get_ident())

    def test_a_future_and_what_has_await_are_awaited_too(self):
        class Awaited:
            def __await__(self):
                yield
                return 5

        self.assertEqual(self.result(Awaited()), 5)
        future = self.tasks.loop.create_future()
        future.set_result(6)
        self.assertEqual(self.result(future), 6)

    def test_a_future_of_another_loop_is_refused(self):
        other = asyncio.new_event_loop()
        self.addCleanup(other.close)
        with self.assertRaises(ValueError):
            self.tasks.start(1, other.create_future())


class FailureTest(Driven):
    def test_an_exception_comes_back_with_where_it_was_raised(self):
        async def fail():
            await asyncio.sleep(0)
            raise KeyError("x")

        self.tasks.start(1, fail())
        self.run_until(lambda: 1 in self.ended)
        returned, error = self.ended[1]
        self.assertFalse(returned)
        self.assertIsInstance(error, KeyError)
        trace, names = error.__traceback__, []
        while trace:
            names.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        self.assertIn("fail", names)

    def test_cancelling_says_who_did(self):
        self.tasks.start(1, asyncio.sleep(30))
        self.tasks.pump()
        self.tasks.cancel(1)
        self.run_until(lambda: 1 in self.ended)
        returned, error = self.ended[1]
        self.assertFalse(returned)
        self.assertIsInstance(error, asyncio.CancelledError)
        self.assertTrue(str(error))

    def test_a_task_may_cancel_itself(self):
        async def give_up():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        with self.assertRaises(asyncio.CancelledError) as raised:
            self.result(give_up())
        self.assertEqual(str(raised.exception), "the task was cancelled")

    def test_cancelling_what_is_not_there_does_nothing(self):
        self.tasks.cancel(7)
        self.assertEqual(self.woken, 0)

    def test_sys_exit_is_the_failure_of_that_task_alone(self):
        async def leave():
            sys.exit(3)

        self.tasks.loop.set_exception_handler(lambda _loop, _context: None)
        self.tasks.start(1, asyncio.sleep(0.01, "stays"))
        with self.assertRaises(SystemExit):
            self.result(leave())
        self.run_until(lambda: 1 in self.ended)
        self.assertEqual(self.ended[1], (True, "stays"))


class EndTest(Driven):
    def setUp(self):
        gc.collect()
        self.before = self.count()
        super().setUp()

    def count(self):
        """Open descriptors, and threads that Python has started."""
        threads = threading.enumerate()
        # It notes a thread of somebody else's when that first asks which it is.
        started = [each for each in threads if not isinstance(each, threading._DummyThread)]
        return len(os.listdir("/proc/self/fd")), len(started)

    def assert_nothing_left(self):
        self.end()
        # Inside a server others come and go: what was there before may be gone.
        limit = time.monotonic() + 20
        while any(now > before for now, before in zip(self.count(), self.before)):
            self.assertLess(time.monotonic(), limit, (self.count(), self.before))
            gc.collect()

    def test_tasks_are_cancelled_and_may_clean_up(self):
        said = []

        async def tidy():
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0)
                said.append("tidy")

        self.tasks.start(1, tidy())
        self.tasks.pump()
        self.assert_nothing_left()
        self.assertEqual(said, ["tidy"])

    def test_one_that_does_not_end_is_left_after_its_time(self):
        said = []
        self.tasks.loop.set_exception_handler(lambda _loop, context: said.append(context))

        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    pass

        self.tasks.start(1, stubborn())
        self.tasks.pump()
        began = time.monotonic()
        self.tasks.end(0.2)
        self.tasks = None
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("did not end", said[0]["message"])

    def test_generators_are_closed(self):
        said = []

        async def numbers():
            try:
                while True:
                    yield 1
            finally:
                await asyncio.sleep(0)
                said.append("closed")

        async def first():
            generator = numbers()
            kept.append(generator)
            return await generator.__anext__()

        kept = []
        self.assertEqual(self.result(first()), 1)
        self.assert_nothing_left()
        self.assertEqual(said, ["closed"])

    def test_the_executor_ends(self):
        async def elsewhere():
            return await asyncio.get_running_loop().run_in_executor(None, len, "four")

        self.assertEqual(self.result(elsewhere()), 4)
        self.assert_nothing_left()

    def test_servers_and_connections_are_closed(self):
        async def serve():
            async def handle(reader, writer):
                writer.write(await reader.read(10))

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            client = socket.create_connection(address)
            client.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(b"x")
            return server, reader, writer, await reader.read(1)

        self.assertEqual(self.result(serve())[3], b"x")
        self.assert_nothing_left()

    def test_child_processes_have_their_status_and_end(self):
        async def run():
            quick = await asyncio.create_subprocess_exec(sys.executable, "-c", "exit(7)")
            slow = await asyncio.create_subprocess_exec(
                "sleep", "60", stdout=asyncio.subprocess.PIPE
            )
            return await quick.wait(), slow

        status, slow = self.result(run())
        self.assertEqual(status, 7)
        self.assert_nothing_left()
        self.assertEqual(subprocess.call(["kill", "-0", str(slow.pid)], stderr=-3), 1)


if __name__ == "__main__":
    unittest.main()
