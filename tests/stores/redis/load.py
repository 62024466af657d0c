"""A steady load of saves and loads that keeps book, for tests that break a cluster under it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable

from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAKEN, Conflict, Saved, SaveResult, Stored
from asgi_session.stores.redis import RedisStore

DEADLINE = 10.0


def soon(seconds: float = DEADLINE) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


_IN_AN_HOUR = int(time.time() * 1000) + 3_600_000


def in_an_hour() -> int:
    """Return an `expires_at`: always the same one, so that what tests expect is what is there."""
    return _IN_AN_HOUR


def version(data: bytes) -> Stored:
    """Return the version that was written with `data` and the hour."""
    return Stored(data, data[:16], _IN_AN_HOUR)


def record(text: str | bytes = b"") -> bytes:
    """Return data with a tag of its own."""
    return os.urandom(16) + (text.encode() if isinstance(text, str) else text)


async def save_surely(
    store: RedisStore, key: str, data: bytes, expect: Stored, deadline: float
) -> SaveResult:
    """Save as the manager does: after a lost reply, send the identical bytes again."""
    unsure = False
    while True:
        try:
            result = await store.save(key, data, in_an_hour(), expect=expect, deadline=deadline)
        except StoreUnavailable as error:
            if error.executed is False or time.monotonic() >= deadline:
                raise
            unsure = True
            continue
        if unsure and isinstance(result, Conflict) and result.current.data == data:
            return Saved(data[:16])
        return result


class Book:
    """What one key's writer has done: `written[i]` is the i-th value, `acked` the last acknowledged."""

    def __init__(self, key: str, first: bytes) -> None:
        self.key = key
        self.written = [first]
        self.acked = 0
        self.floor = 0
        self.rollbacks = 0
        self.worst = 0.0
        self.saves = 0
        self.loads = 0


class Load:
    """One writer and one reader per key, until the block ends; any error ends the test.

    A failover may lose acknowledged writes that the dead primary had not passed on. `mark` says that
    all acknowledged so far has been passed on: a value older than that must not come back.
    """

    def __init__(self, store: RedisStore, keys: Iterable[str]) -> None:
        self.store = store
        self.books = {key: Book(key, record("0")) for key in keys}
        self._stop = False
        self._rollbacks_allowed: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        for book in self.books.values():
            assert (
                await self.store.create(book.key, book.written[0], in_an_hour(), deadline=soon()) is not TAKEN
            )
        async with asyncio.TaskGroup() as tasks:
            for book in self.books.values():
                tasks.create_task(self._write(book))
                tasks.create_task(self._read(book))
            await self.progress()
            try:
                yield
                await self.progress()
            finally:
                self._stop = True
        await self._verify()

    async def progress(self, rounds: int = 5) -> None:
        """Wait until every key was saved and loaded several times from now."""
        goals = [(book, book.saves + rounds, book.loads + rounds) for book in self.books.values()]
        deadline = soon(30)
        while any(book.saves < saves or book.loads < loads for book, saves, loads in goals):
            assert time.monotonic() < deadline, "the load makes no progress"
            await asyncio.sleep(0.01)

    def mark(self, keys: Iterable[str]) -> dict[str, int]:
        """Note what is acknowledged of these keys now; to be given to `allow_rollback`."""
        return {key: self.books[key].acked for key in keys}

    def allow_rollback(self, floors: dict[str, int]) -> None:
        """From now on these keys may fall back, though not below the floors."""
        for key, floor in floors.items():
            self.books[key].floor = floor
        self._rollbacks_allowed |= floors.keys()

    def worst(self, keys: Iterable[str]) -> float:
        """Return the longest that any verb on these keys took, in seconds."""
        return max(self.books[key].worst for key in keys)

    def rollbacks(self) -> int:
        return sum(book.rollbacks for book in self.books.values())

    async def _write(self, book: Book) -> None:
        while not self._stop:
            data = record(str(len(book.written)))
            book.written.append(data)
            mine = len(book.written) - 1
            began = time.monotonic()
            expect = version(book.written[book.acked])
            result = await save_surely(self.store, book.key, data, expect, began + DEADLINE)
            book.worst = max(book.worst, time.monotonic() - began)
            if isinstance(result, Saved):
                book.acked = mine
                book.saves += 1
            else:
                assert isinstance(result, Conflict), f"{book.key} is gone"
                self._rolled_back(book, result.current.data)
            await asyncio.sleep(0.002)

    def _rolled_back(self, book: Book, data: bytes) -> None:
        found = book.written.index(data)  # nobody else writes this key
        assert book.key in self._rollbacks_allowed, f"lost: {found} came back, {book.acked} was acknowledged"
        assert book.floor <= found, f"lost: {found} came back, {book.floor} had reached the replica"
        book.rollbacks += 1
        book.acked = found

    async def _read(self, book: Book) -> None:
        while not self._stop:
            began = time.monotonic()
            acked = book.acked
            found = await self.store.load(book.key, deadline=began + DEADLINE)
            book.worst = max(book.worst, time.monotonic() - began)
            book.loads += 1
            assert found is not None, f"{book.key} is missing"
            seen = book.written.index(found.data)
            if book.key not in self._rollbacks_allowed:
                assert seen >= acked, f"read {seen} after {acked} was acknowledged"
            await asyncio.sleep(0.002)

    async def _verify(self) -> None:
        for book in self.books.values():
            found = await self.store.load(book.key, deadline=soon())
            assert found is not None, f"{book.key} is missing"
            assert book.written.index(found.data) == book.acked, f"{book.key}: an acknowledged write is lost"
