"""Items that are taken some at a time. Needs no context."""

import asyncio
import time
import unittest
from unittest import mock

from erlang import streams

# On a machine that stops for a while items that come at once are taken for slow ones.
all_are_quick = mock.patch.object(streams, "_PATIENCE", 60)


class SyncTest(unittest.TestCase):
    @all_are_quick
    def test_items_come_some_at_a_time_and_in_order(self):
        stream = streams.open_stream(iter(range(5)))
        self.assertEqual(stream.take(3), ([0], False))
        self.assertEqual(stream.take(3), ([1, 2], False))
        self.assertEqual(stream.take(3), ([3, 4], True))
        self.assertEqual(stream.take(3), ([], True))

    @all_are_quick
    def test_there_are_never_more_than_asked_for(self):
        stream = streams.open_stream(iter(range(100)))
        answers = [len(stream.take(5)[0]) for _ in range(6)]
        self.assertEqual(answers, [1, 2, 4, 5, 5, 5])

    def test_any_iterable_will_do(self):
        stream = streams.open_stream({"a": 1})
        self.assertEqual(stream.take(9), (["a"], False))
        self.assertEqual(stream.take(9), ([], True))
        with self.assertRaises(TypeError):
            streams.open_stream(5)

    @all_are_quick
    def test_nothing_is_made_before_it_is_asked_for(self):
        made = []

        def numbers():
            for number in range(9):
                made.append(number)
                yield number

        stream = streams.open_stream(numbers())
        self.assertEqual(made, [])
        stream.take(2)
        self.assertEqual(made, [0])
        stream.take(2)
        self.assertEqual(made, [0, 1, 2])

    def test_items_that_take_long_are_not_waited_for_together(self):
        def slowly():
            while True:
                time.sleep(0.02)
                yield 1

        stream = streams.open_stream(slowly())
        for _ in range(3):
            self.assertEqual(stream.take(100), ([1], False))

    def test_what_is_raised_comes_after_the_items_before_it(self):
        def fail():
            yield 1
            raise ValueError("no more")

        stream = streams.open_stream(fail())
        self.assertEqual(stream.take(5), ([1], False))
        with self.assertRaisesRegex(ValueError, "no more"):
            stream.take(5)
        self.assertEqual(stream.take(5), ([], True))

    def test_closing_runs_what_the_generator_has_left_to_do(self):
        said = []

        def numbers():
            try:
                while True:
                    yield 1
            finally:
                said.append("closed")

        stream = streams.open_stream(numbers())
        stream.take(1)
        stream.close()
        self.assertEqual(said, ["closed"])
        self.assertEqual(stream.take(1), ([], True))

    def test_a_file_is_not_closed_with_its_stream(self):
        with open(__file__) as file:
            streams.open_stream(file).close()
            self.assertFalse(file.closed)


class AsyncTest(unittest.TestCase):
    def run_in_loop(self, coroutine):
        # Not asyncio.run, which would leave the thread without the loop that it had.
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    @all_are_quick
    def test_items_come_some_at_a_time_and_in_order(self):
        async def numbers():
            for number in range(5):
                await asyncio.sleep(0)
                yield number

        async def test():
            stream = streams.open_stream(numbers())
            return [await stream.take(3) for _ in range(3)]

        answers = [([0, 1, 2], False), ([3, 4], True), ([], True)]
        self.assertEqual(self.run_in_loop(test()), answers)

    def test_what_is_there_is_not_held_back_for_what_is_not(self):
        async def test():
            event = asyncio.Event()

            async def numbers():
                yield 1
                await event.wait()
                yield 2

            stream = streams.open_stream(numbers())
            first = await stream.take(5)
            event.set()
            return first, await stream.take(5)

        self.assertEqual(self.run_in_loop(test()), (([1], False), ([2], True)))

    def test_what_is_raised_comes_after_the_items_before_it(self):
        async def fail():
            yield 1
            raise ValueError("no more")

        async def test():
            stream = streams.open_stream(fail())
            first = await stream.take(5)
            with self.assertRaisesRegex(ValueError, "no more"):
                await stream.take(5)
            return first, await stream.take(5)

        self.assertEqual(self.run_in_loop(test()), (([1], False), ([], True)))

    def test_closing_ends_one_that_waits(self):
        said = []

        async def numbers():
            try:
                yield 1
                await asyncio.sleep(60)
            finally:
                said.append("closed")

        async def test():
            stream = streams.open_stream(numbers())
            await stream.take(5)
            await stream.close()
            return await stream.take(5)

        self.assertEqual(self.run_in_loop(test()), ([], True))
        self.assertEqual(said, ["closed"])

    def test_a_call_that_is_cancelled_loses_no_item(self):
        async def test():
            event = asyncio.Event()

            async def numbers():
                await event.wait()
                yield 1

            stream = streams.open_stream(numbers())
            waiting = asyncio.ensure_future(stream.take(5))
            await asyncio.sleep(0)
            waiting.cancel()
            event.set()
            return await stream.take(5)

        self.assertEqual(self.run_in_loop(test()), ([1], True))


if __name__ == "__main__":
    unittest.main()
