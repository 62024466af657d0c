"""Between a store and its service: verbs that wait, that come late, and that are sent twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, TypeAlias

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored, WakesUp
from asgi_session.testing._suite.base import HOUR, Record, Suite, new_data

Verb: TypeAlias = Literal["load", "create", "save", "save and wake", "touch", "delete", "delete one version"]
WRITES: tuple[Verb, ...] = ("create", "save", "touch", "delete", "delete one version")


class ServiceTests(Suite):
    """Each needs a hook, or asks nothing but that a verb tells the truth."""

    def _saves(self, store: Store) -> tuple[Verb, ...]:
        """Return how the store saves: it may do so by other means when the save wakes somebody up."""
        return ("save", "save and wake") if isinstance(store, WakesUp) else ("save",)

    async def _waited(self, store: Store, verb: Verb, data: bytes | None, expires_at: int) -> object:
        """Do a verb that waits behind a write of `data`, or behind a delete; what it answers."""
        record, stored = await self.written(store)
        holding = self.holding(store, record.key, data, expires_at)
        assert holding is not None
        async with holding as waiting:
            task = asyncio.ensure_future(self._verb(record, verb, stored))
            await waiting()
            assert not task.done(), f"{verb} did not wait"
        result = await task
        if isinstance(result, Conflict):
            assert result.current.tag != stored.tag, f"{verb}: a conflict with the very version expected"
            assert await record.load() == result.current
        return result

    def _verb(self, record: Record, verb: Verb, stored: Stored) -> Awaitable[object]:
        match verb:
            case "load":
                return record.load()
            case "create":
                return record.create(new_data(), self.far())
            case "save":
                return record.save(new_data(), self.far(), stored)
            case "save and wake":
                store = record.store
                assert isinstance(store, WakesUp)
                return store.save_and_wake(
                    record.key,
                    new_data(),
                    self.far(),
                    expect=stored,
                    wake=["0" * 16],
                    deadline=time.monotonic() + self.timeout,
                )
            case "touch":
                return record.touch(self.far() + HOUR, stored)
            case "delete":
                return record.delete()
            case "delete one version":
                return record.delete(stored)

    async def test_a_verb_that_has_waited_sees_the_newest_record(self, store: Store) -> None:
        """Behind another's save a verb meets what that save has written, not what it saw before."""
        if self.holding(store, self.record(store).key, b"", 0) is None:
            return
        data, far = new_data(b"newest"), self.far() + 5
        for save in self._saves(store):
            result = await self._waited(store, save, data, far)
            assert isinstance(result, Conflict), result
            assert (result.current.data, result.current.expires_at) == (data, far)
        assert await self._waited(store, "touch", new_data(), far) is False
        assert await self._waited(store, "create", new_data(), far) is TAKEN
        assert await self._waited(store, "delete one version", new_data(), far) is False
        assert await self._waited(store, "delete", new_data(), far) is True

    async def test_a_verb_that_has_waited_sees_that_the_record_is_gone(self, store: Store) -> None:
        """Behind a delete, or a write that ends the record, there is no record."""
        if self.holding(store, self.record(store).key, b"", 0) is None:
            return
        for data in (None, new_data()):
            past = self.now() - 1000
            for save in self._saves(store):
                assert await self._waited(store, save, data, past) is GONE
            assert await self._waited(store, "touch", data, past) is False
            assert isinstance(await self._waited(store, "create", data, past), Saved)
            assert await self._waited(store, "delete one version", data, past) is False
            assert await self._waited(store, "delete", data, past) is False

    async def test_a_write_that_is_sent_twice_counts_once(self, store: Store) -> None:
        """Whose client repeats a write by itself, because its reply was lost, knows its own bytes."""
        if self.repeating(store) is None:
            return

        async def twice(record: Record, act: Callable[[Record], Awaitable[object]]) -> object:
            repeating = self.repeating(store)
            assert repeating is not None
            async with repeating as lossy:
                return await act(self.record(lossy, record.key))

        data, far = new_data(b"once"), self.far()
        created = self.record(store)
        result = await twice(created, lambda record: record.create(data, far))
        assert isinstance(result, Saved), f"its own create: {result}"
        assert await created.load() == Stored(data, result.tag, far)

        if "save and wake" in self._saves(store):
            woken, stored = await self.written(store)
            result = await twice(woken, partial(self._verb, verb="save and wake", stored=stored))
            assert isinstance(result, Saved), f"its own save that wakes up: {result}"
            assert (await woken.get()).tag == result.tag

        saved, stored = await self.written(store)
        result = await twice(saved, lambda record: record.save(data, far, stored))
        assert isinstance(result, Saved), f"its own save: {result}"
        version = await saved.get()
        assert version == Stored(data, result.tag, far)
        # One that loses is no more than that, however often it is sent.
        assert await twice(saved, lambda record: record.save(new_data(), far, stored)) == Conflict(version)
        assert await twice(saved, lambda record: record.create(new_data(), far)) is TAKEN
        assert await twice(saved, lambda record: record.touch(far + HOUR, stored)) is False
        assert await twice(saved, lambda record: record.delete(stored)) is False
        assert await saved.load() == version

        touched, stored = await self.written(store)
        assert await twice(touched, lambda record: record.touch(far + HOUR, stored)) is True
        assert (await touched.get()).expires_at == far + HOUR
        deletes: tuple[Callable[[Stored, Record], Awaitable[object]], ...] = (
            lambda _, record: record.delete(),
            lambda stored, record: record.delete(stored),
        )
        for delete in deletes:
            deleted, stored = await self.written(store)
            assert await twice(deleted, partial(delete, stored)) is True
            assert await deleted.load() is None
            assert await twice(deleted, partial(delete, stored)) is False

    async def test_what_was_not_executed_has_changed_nothing(self, store: Store) -> None:
        """A hundred verbs with hardly any time: those that say "not executed" were not, then or later."""
        unexecuted: list[tuple[Record, Stored | None]] = []

        async def hurried(number: int, seconds: float, record: Record, stored: Stored | None) -> None:
            hasty = Record(store, seconds, record.key)
            if stored is None:
                verb = self._verb(hasty, "create", Stored(b"", b"", 0))
            else:
                verb = self._verb(hasty, WRITES[1 + number % 4], stored)
            try:
                async with asyncio.timeout(self.timeout):
                    result = await verb
            except StoreUnavailable as error:
                if error.executed is False:
                    unexecuted.append((record, stored))
            else:
                assert isinstance(result, Saved) or result is True, f"nobody else writes it: {result}"

        for seconds in (0.0005, 0.002, 0.008):
            made = await asyncio.gather(*(self.written(store) for _ in range(80)))
            free = [(self.record(store), None) for _ in range(20)]
            await store.close()  # so that they wait for a connection as well
            began = time.monotonic()
            await asyncio.gather(
                *(hurried(number, seconds, *each) for number, each in enumerate([*made, *free]))
            )
            assert time.monotonic() - began < 2, "a verb outlives its deadline"
        await asyncio.sleep(0.05)  # what was sent after all would have come by then
        found = await asyncio.gather(*(record.load() for record, _ in unexecuted))
        for (record, stored), current in zip(unexecuted, found, strict=True):
            assert current == stored, f"{record.key} was changed by a verb that was not executed"
