"""Wake-ups, for stores that have them. One that has not passes by not claiming to."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from asgi_session.store import GONE, Conflict, Saved, SaveResult, Store, Stored, WakesUp
from asgi_session.testing._suite.base import Record, Suite, new_data, strange


class Ear:
    """A listener, and what it has heard."""

    def __init__(self, store: WakesUp, timeout: float) -> None:
        self.name = secrets.token_hex(8)
        self.heard: list[str] = []
        self._store = store
        self._timeout = timeout
        self._came = asyncio.Event()

    def _hear(self, key: str | None) -> None:
        if key is not None:  # else: something may be lost, which it is not here
            self.heard.append(key)
            self._came.set()

    async def listen(self) -> Callable[[], None]:
        return await self._store.listen(self.name, self._hear, deadline=time.monotonic() + self._timeout)

    def keys(self) -> set[str]:
        """Return what was heard of; a wake-up may come twice."""
        return set(self.heard)

    async def hears_of(self, key: str) -> None:
        """Wait for the key's wake-up."""
        async with asyncio.timeout(self._timeout):
            while key not in self.keys():
                self._came.clear()
                await self._came.wait()


class WakeUpTests(Suite):
    """`save_and_wake` and `listen`."""

    def waking(self, store: Store) -> WakesUp | None:
        """Return the store if it has wake-ups; it has both methods or neither."""
        if isinstance(store, WakesUp):
            return store
        assert not hasattr(store, "save_and_wake"), "save_and_wake without listen"
        assert not hasattr(store, "listen"), "listen without save_and_wake"
        return None

    @asynccontextmanager
    async def ears(self, store: WakesUp, count: int = 1) -> AsyncGenerator[list[Ear]]:
        """Listen."""
        ears = [Ear(store, self.timeout) for _ in range(count)]
        ends = [await ear.listen() for ear in ears]
        try:
            yield ears
        finally:
            for end in ends:
                end()

    async def save_and_wake(
        self, store: WakesUp, record: Record, data: bytes, expect: Stored, *ears: Ear, expires_at: int = 0
    ) -> SaveResult:
        """Save, and wake the ears up."""
        return await store.save_and_wake(
            record.key,
            data,
            expires_at or self.far(),
            expect=expect,
            wake=[ear.name for ear in ears],
            deadline=time.monotonic() + self.timeout,
        )

    async def wake(self, store: Store, *ears: Ear) -> str:
        """Wake the ears up with a record made for it; its key."""
        assert isinstance(store, WakesUp)
        record, stored = await self.written(store)
        assert isinstance(await self.save_and_wake(store, record, new_data(), stored, *ears), Saved)
        return record.key

    async def test_save_and_wake_saves_as_save_does(self, store: Store) -> None:
        """Saved, Conflict and GONE mean what they do in a save, whether anybody listens or not."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking) as ears:
            nobody = Ear(waking, self.timeout)
            for woken in ([], [nobody], ears, [*ears, nobody]):
                record, stored = await self.written(store)
                data, expires_at = new_data(), self.far() + 7
                saved = await self.save_and_wake(waking, record, data, stored, *woken, expires_at=expires_at)
                assert isinstance(saved, Saved)
                current = await record.get()
                assert current == Stored(data, saved.tag, expires_at)
                lost = await self.save_and_wake(waking, record, new_data(), stored, *woken)
                assert lost == Conflict(current)
                assert await record.load() == current
                assert await record.delete()
                assert await self.save_and_wake(waking, record, new_data(), current, *woken) is GONE
                assert await record.load() is None

    async def test_every_size_is_saved_and_woken_for(self, store: Store) -> None:
        """However large a record is, its save wakes up."""
        if (waking := self.waking(store)) is None:
            return
        sizes = [*(16, 17, 100, 1000, 4096, 8191, 8192, 8193, 16_384), self.largest]
        async with self.ears(waking) as (ear,):
            for size in sizes:
                record, stored = await self.written(store)
                data, expires_at = new_data(b"\0" * (size - 16)), self.far() + size
                saved = await self.save_and_wake(waking, record, data, stored, ear, expires_at=expires_at)
                assert isinstance(saved, Saved)
                await ear.hears_of(record.key)
                assert await record.get() == Stored(data, saved.tag, expires_at), f"{size} bytes"

    async def test_the_named_listeners_are_woken_and_no_others(self, store: Store) -> None:
        """One, another, both or none."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking, 3) as (one, two, three):
            first = await self.wake(store, one)
            both = await self.wake(store, two, one)
            await self.wake(store)
            for ear, expected in ((one, {first, both}), (two, {both}), (three, set[str]())):
                for key in expected:  # of several servers, which need not be heard in this order
                    await ear.hears_of(key)
                await ear.hears_of(last := await self.wake(store, ear))
                assert ear.keys() - {last} == expected

    async def test_a_save_that_was_not_done_wakes_nobody(self, store: Store) -> None:
        """Neither a conflict nor a missing record wakes anybody up."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking) as (ear,):
            record, _ = await self.written(store)
            assert isinstance(await self.save_and_wake(waking, record, new_data(), strange(), ear), Conflict)
            assert await self.save_and_wake(waking, self.record(store), new_data(), strange(), ear) is GONE
            done = await self.wake(store, ear)
            await ear.hears_of(done)
            assert ear.keys() == {done}

    async def test_a_plain_save_wakes_nobody(self, store: Store) -> None:
        """Who listens hears of saves that name it, not of every save."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking) as (ear,):
            record, stored = await self.written(store)
            await record.save(new_data(), self.far(), stored)
            done = await self.wake(store, ear)
            await ear.hears_of(done)
            assert ear.keys() == {done}

    async def test_an_ended_listener_hears_nothing(self, store: Store) -> None:
        """Ended, even twice, it is silent, others go on; and it may listen again."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking) as (other,):
            ear = Ear(waking, self.timeout)
            end = await ear.listen()
            first = await self.wake(store, ear)
            await ear.hears_of(first)
            end()
            end()
            await other.hears_of(await self.wake(store, ear, other))
            assert ear.keys() == {first}
            again = await ear.listen()
            await ear.hears_of(await self.wake(store, ear))
            again()

    async def test_the_last_listener_ends_and_another_begins(self, store: Store) -> None:
        """Nothing is left that would hinder the next one."""
        if (waking := self.waking(store)) is None:
            return
        for _ in range(3):
            async with self.ears(waking) as (ear,):
                await ear.hears_of(await self.wake(store, ear))

    async def test_close_ends_listening(self, store: Store) -> None:
        """After a close nothing is heard, until somebody listens again."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking) as (ear,):
            await store.close()
            async with self.ears(waking) as (other,):
                await other.hears_of(await self.wake(store, ear, other))
                assert ear.keys() == set()

    async def test_many_wake_ups_at_once(self, store: Store) -> None:
        """A hundred saves at once wake up each its own two of ten listeners."""
        if (waking := self.waking(store)) is None:
            return
        async with self.ears(waking, 10) as ears:

            async def life(number: int) -> None:
                woken = ears[number % 10], ears[(number + 1) % 10]
                key = await self.wake(store, *woken)
                for ear in woken:
                    await ear.hears_of(key)

            await asyncio.gather(*map(life, range(100)))
            for ear in ears:
                assert len(ear.keys()) == 20

    async def test_two_store_objects(self, store: Store) -> None:
        """A save through one wakes up who listens through the other, both ways."""
        if self.waking(store) is None:
            return
        other = self.another(store)
        same = other is store
        assert isinstance(store, WakesUp)
        assert isinstance(other, WakesUp)
        try:
            async with self.ears(store) as (here,), self.ears(other) as (there,):
                await there.hears_of(await self.wake(store, there))
                await here.hears_of(await self.wake(other, here))
        finally:
            if not same:
                await other.close()

    async def test_a_listener_in_another_event_loop(self, store: Store) -> None:
        """Each thread's listener hears, in its own loop; one whose loop has ended hinders no save."""
        if (waking := self.waking(store)) is None:
            return
        ready: asyncio.Queue[Ear] = asyncio.Queue()
        here = asyncio.get_running_loop()
        threads: list[int] = []

        async def listen() -> None:
            ear = Ear(waking, self.timeout)
            hear = ear._hear

            def noting(key: str | None) -> None:
                threads.append(threading.get_ident())
                hear(key)

            ear._hear = noting  # type: ignore[method-assign]
            await ear.listen()
            here.call_soon_threadsafe(ready.put_nowait, ear)
            async with asyncio.timeout(self.timeout):
                while not ear.heard:
                    await ear._came.wait()
            threads.append(-threading.get_ident())

        task = asyncio.create_task(asyncio.to_thread(asyncio.run, listen()))
        async with asyncio.timeout(self.timeout):
            ear = await ready.get()
        await self.wake(store, ear)
        await task
        assert threads[0] == -threads[-1] != threading.get_ident()
        await self.wake(store, ear)  # its loop is closed
