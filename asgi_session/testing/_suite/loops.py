"""One store, opened, closed and used by several event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from asgi_session.store import GONE, Saved, Store
from asgi_session.testing._suite.base import HOUR, Record, Suite, new_data


class LoopTests(Suite):
    """Closing and opening, several loops, several threads."""

    async def test_open_and_close_may_be_repeated(self, store: Store) -> None:
        """A store opens twice, closes twice, and works after each with what it had."""
        record, stored = await self.written(store)
        for turn in (store.open, store.open, store.close, store.close, store.open, store.close):
            await turn()
            assert await record.load() == stored

    async def test_close_with_verbs_in_flight(self, store: Store) -> None:
        """Verbs that a close finds on their way are answered, reads and writes; then all is well."""
        record, stored = await self.written(store)
        saved, before = await self.written(store)
        tasks = [asyncio.create_task(record.load()) for _ in range(20)]
        saving = asyncio.create_task(saved.save(new_data(), self.far(), before))
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(self.timeout + 1):
            assert await asyncio.gather(*tasks) == [stored] * 20
            assert isinstance(await saving, Saved)
        assert await record.load() == stored

    async def test_close_waits_for_every_verb(self, store: Store) -> None:
        """A close returns when all five verbs have been answered, also those that are still connecting."""
        for moments, connected in ((1, False), (1, True), (2, True), (4, False), (8, True)):
            records = [await self.written(store) for _ in range(5)]
            if not connected:
                await store.close()
            (loaded, version), (saved, to_save), (touched, to_touch), (deleted, _), (ended, to_end) = records
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(loaded.load()),
                asyncio.create_task(self.record(store).create(new_data(), self.far())),
                asyncio.create_task(saved.save(new_data(), self.far(), to_save)),
                asyncio.create_task(touched.touch(self.far() + HOUR, to_touch)),
                asyncio.create_task(deleted.delete()),
                asyncio.create_task(ended.delete(to_end)),
            ]
            for _ in range(moments):
                await asyncio.sleep(0)
            async with asyncio.timeout(self.timeout + 1):
                await store.close()
            for _ in range(2):  # a verb that was answered ends
                await asyncio.sleep(0)
            pending = [not task.done() for task in tasks]
            results = await asyncio.gather(*tasks)
            assert not any(pending), f"close has returned before these were answered: {pending}"
            assert results[0] == version
            assert isinstance(results[1], Saved)
            assert isinstance(results[2], Saved)
            assert results[3:] == [True, True, True]

    async def test_close_leaves_other_loops_alone(self, store: Store) -> None:
        """A loop that closes its part of the store cuts off nobody in another loop."""
        record, stored = await self.written(store)

        async def come_and_go(moments: int) -> None:
            await record.get()
            for _ in range(moments):
                await asyncio.sleep(0)
            await store.close()

        # Each close comes amid loads of its own: a thread that runs has the interpreter for a while.
        under_way, closed = threading.Semaphore(0), threading.Semaphore(1)

        def run() -> None:
            for moments in (0, 1, 2, 4, 6, 9, 12, 16):
                under_way.acquire(timeout=self.timeout)
                asyncio.run(come_and_go(moments))
                closed.release()

        others = asyncio.create_task(asyncio.to_thread(run))
        try:
            while not others.done():
                loads = [asyncio.create_task(record.load()) for _ in range(5)]
                await asyncio.sleep(0)
                if closed.acquire(blocking=False):
                    under_way.release()
                assert await asyncio.gather(*loads) == [stored] * 5
        finally:
            under_way.release(8)
            await others

    async def test_close_releases_what_the_loop_holds(self, store: Store) -> None:
        """A loop may end after close, whatever was under way, and nothing is left open in it."""
        await store.close()

        async def close_amid(record: Record, moments: int) -> None:
            tasks = [asyncio.create_task(record.load()) for _ in range(2)]
            for _ in range(moments):
                await asyncio.sleep(0)
            tasks[0].cancel()
            await store.close()
            await asyncio.gather(*tasks, return_exceptions=True)

        def run() -> list[str]:
            gc.collect()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ResourceWarning)
                for moments in (0, 1, 2, 4, 8, 16):
                    asyncio.run(close_amid(Record(store, 0.2), moments))
                gc.collect()
            return [str(warning.message) for warning in caught]

        assert await asyncio.to_thread(run) == []

    async def test_event_loops_one_after_another(self, store: Store) -> None:
        """One store serves a loop, then others, closed in them or not, then the first again."""
        record, stored = await self.written(store)

        async def use(*, close: bool) -> None:
            nonlocal stored
            assert await record.load() == stored
            assert isinstance(await record.save(new_data(), self.far(), stored), Saved)
            stored = await record.get()
            if close:
                await store.close()

        def run() -> None:
            for close in (True, False, False, True):
                asyncio.run(use(close=close))

        await asyncio.to_thread(run)
        assert await record.load() == stored

    async def test_threads_with_a_loop_each(self, store: Store) -> None:
        """Threads that count up one record by compare-and-set lose no count."""
        record, _ = await self.written(store, new_data(b"0"))

        async def count(times: int) -> None:
            for _ in range(times):
                current = await record.get()
                while True:
                    data = new_data(b"%d" % (int(current.data[16:]) + 1))
                    result = await record.save(data, self.far(), current)
                    if isinstance(result, Saved):
                        break
                    assert result is not GONE
                    current = result.current
            await store.close()

        def run(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
            asyncio.run(make())

        await asyncio.gather(*(asyncio.to_thread(run, lambda: count(30)) for _ in range(3)))
        assert int((await record.get()).data[16:]) == 90
