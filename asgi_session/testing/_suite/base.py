"""What the parts of the conformance suite share: the hooks, and a handle on one record."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from asgi_session.clock import system_clock
from asgi_session.store import Conflict, CreateResult, Saved, SaveResult, Store, Stored

HOUR = 3_600_000
LONGEST_TAG = 255

Waiting: TypeAlias = Callable[[], Awaitable[None]]
"""Returns once a verb waits in the server."""


def new_data(body: bytes = b"body") -> bytes:
    """Return data as the core writes it: 16 bytes that never repeat, then the body."""
    return os.urandom(16) + body


def new_key() -> str:
    """Return a key that no other test uses: 22 characters of the URL-safe base64 alphabet."""
    return secrets.token_urlsafe(16)


def strange() -> Stored:
    """Return a version that no record has or had."""
    data = new_data()
    return Stored(data, data[:16], system_clock() + HOUR)


def seeded(seed: int) -> random.Random:
    """Return chance that is the same at every run."""
    return random.Random(seed)  # noqa: S311


def check_tag(tag: object) -> None:
    """A tag is bytes, as they are, and not many."""
    assert type(tag) is bytes, f"a tag is bytes, not {type(tag).__name__}"
    assert 0 < len(tag) <= LONGEST_TAG, f"a tag of {len(tag)} bytes"


def check_version(stored: Stored) -> None:
    """A version that a store gives is made of what the contract says."""
    assert type(stored) is Stored
    assert type(stored.data) is bytes, f"data is bytes, not {type(stored.data).__name__}"
    assert type(stored.expires_at) is int, "an expiry is an int"
    check_tag(stored.tag)


@dataclass
class Record:
    """The five verbs on one key, each with a deadline; what holds of every answer is checked here."""

    store: Store
    timeout: float
    key: str = field(default_factory=new_key)

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout

    async def load(self) -> Stored | None:
        stored = await self.store.load(self.key, deadline=self._deadline())
        if stored is not None:
            check_version(stored)
        return stored

    async def create(self, data: bytes, expires_at: int) -> CreateResult:
        result = await self.store.create(self.key, data, expires_at, deadline=self._deadline())
        if isinstance(result, Saved):
            check_tag(result.tag)
        return result

    async def save(self, data: bytes, expires_at: int, expect: Stored) -> SaveResult:
        result = await self.store.save(self.key, data, expires_at, expect=expect, deadline=self._deadline())
        if isinstance(result, Saved):
            check_tag(result.tag)
            assert result.tag != expect.tag, "a save makes a version of its own"
        elif isinstance(result, Conflict):
            check_version(result.current)
            assert result.current.tag != expect.tag, "a conflict with the very version that was expected"
        return result

    async def touch(self, expires_at: int, expect: Stored) -> bool:
        return await self.store.touch(self.key, expires_at, expect=expect, deadline=self._deadline())

    async def delete(self, expect: Stored | None = None) -> bool:
        return await self.store.delete(self.key, expect=expect, deadline=self._deadline())

    async def get(self) -> Stored:
        """Load what must be there."""
        stored = await self.load()
        assert stored is not None, f"the record {self.key} is missing"
        return stored


class Suite:
    """The hooks that a subclass may override; see `StoreConformance`."""

    timeout: ClassVar[float] = 5.0
    """Seconds a verb is given."""

    short_ms: ClassVar[int] = 50
    """How long records live that a test lets expire."""

    slack_ms: ClassVar[int] = 20
    """By how much the store's clock may be behind `now`."""

    largest: ClassVar[int] = 66_000
    """The size in bytes of the largest record tried: what `max_size` allows by default, and a header."""

    steps: ClassVar[int] = 500
    """How many random verbs are compared with a model, three times over. Below 100 other tests that go on for
    many rounds have fewer of them, in proportion."""

    def now(self) -> int:
        """Return the time that the store goes by, in milliseconds."""
        return system_clock()

    async def pass_time(self, until_ms: int) -> None:
        """Let time pass until the store, too, must find that `until_ms` has passed."""
        while (rest := until_ms + self.slack_ms - self.now()) >= 0:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep((rest + 1) / 1000)

    def another(self, store: Store) -> Store:
        """Return another store object with the same records, as another process has it."""
        return store

    def holding(
        self, store: Store, key: str, data: bytes | None, expires_at: int
    ) -> AbstractAsyncContextManager[Waiting] | None:
        """Hold a record in the server, so that verbs wait; on leaving write `data`, or with None delete."""
        return None

    def repeating(self, store: Store) -> AbstractAsyncContextManager[Store] | None:
        """Give a store whose next write is carried out, its reply lost, and the write sent again."""
        return None

    def far(self) -> int:
        """Return an expiry that no test lives to see."""
        return self.now() + HOUR

    def soon(self) -> int:
        """Return an expiry worth waiting for."""
        return self.now() + self.short_ms

    def rounds(self, most: int) -> int:
        """Return how often to do what is done `most` times on a real server."""
        return max(1, most * min(self.steps, 100) // 100)

    def record(self, store: Store, key: str | None = None) -> Record:
        """Return a handle on a record that is not there."""
        return Record(store, self.timeout, key or new_key())

    async def written(
        self, store: Store, data: bytes | None = None, expires_at: int | None = None
    ) -> tuple[Record, Stored]:
        """Create a record and load it."""
        record = self.record(store)
        data = new_data() if data is None else data
        expires_at = self.far() if expires_at is None else expires_at
        assert isinstance(await record.create(data, expires_at), Saved), "create on a free key answers Saved"
        return record, await record.get()
