"""MemoryStore beyond the contract: it is bounded, and forgets in a sensible order."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import Any

import pytest

from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Saved, Stored
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import ManualClock

HOUR = 3_600_000
LATER = float("inf")


ANY = Stored(b"", b"t" * 16, 0)
"""Every record here has this tag, and the memory store compares nothing else."""


def data(size: int = 100, *, tag: bytes = b"t" * 16) -> bytes:
    return tag + b"x" * (size - 16)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


async def create(store: MemoryStore, key: str, expires_at: int, size: int = 100) -> bool:
    return await store.create(key, data(size), expires_at, deadline=LATER) is not TAKEN


async def loads(store: MemoryStore, keys: str) -> str:
    return "".join([key for key in keys if await store.load(key, deadline=LATER) is not None])


async def test_the_number_of_records_is_bounded(clock: ManualClock) -> None:
    """A full store lets go of those that expire soonest, in whatever order they came."""
    store = MemoryStore(max_records=3, clock=clock)
    for key, hours in [("a", 5), ("b", 1), ("c", 3), ("d", 4), ("e", 2)]:
        assert await create(store, key, clock() + hours * HOUR)
        assert len(store) <= 3
    assert await loads(store, "abcde") == "ade"


async def test_the_newest_record_stays_even_if_it_expires_first(clock: ManualClock) -> None:
    """What was just written is never the one that goes: its writer was told that it is stored."""
    store = MemoryStore(max_records=1, clock=clock)
    await create(store, "a", clock() + 9 * HOUR)
    await create(store, "b", clock() + HOUR)
    assert await loads(store, "ab") == "b"
    await create(store, "c", clock() + 2 * HOUR)
    assert await loads(store, "abc") == "c"


async def test_the_bytes_are_bounded_also_when_a_record_grows(clock: ManualClock) -> None:
    """A save that makes a record larger makes room, too; a smaller one gives room back."""
    store = MemoryStore(max_bytes=1000, clock=clock)
    for index, key in enumerate("abcd"):
        await create(store, key, clock() + (1 + index) * HOUR, size=250)
    assert await loads(store, "abcd") == "abcd"
    grown = await store.save("d", data(500), clock() + HOUR // 2, expect=ANY, deadline=LATER)
    assert grown == Saved(b"t" * 16)
    assert await loads(store, "abcd") == "bcd"
    await store.save("d", data(250), clock() + HOUR, expect=ANY, deadline=LATER)
    await create(store, "e", clock() + HOUR, size=250)
    assert await loads(store, "bcde") == "bcde"


async def test_touched_records_outlive_untouched_ones(clock: ManualClock) -> None:
    """The order of leaving follows the expiry as it is now, moved either way by touches."""
    store = MemoryStore(max_records=3, clock=clock)
    for index, key in enumerate("abc"):
        await create(store, key, clock() + (1 + index) * HOUR)
    assert await store.touch("a", clock() + 9 * HOUR, expect=ANY, deadline=LATER)
    assert await store.touch("c", clock() + HOUR, expect=ANY, deadline=LATER)
    await create(store, "d", clock() + 8 * HOUR)
    assert await loads(store, "abcd") == "abd"
    await create(store, "e", clock() + 8 * HOUR)
    assert await loads(store, "abde") == "ade"


async def test_expired_records_go_first_and_in_silence(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Removing the expired is no news; the first living record that has to go is, once."""
    caplog.set_level(logging.DEBUG)
    store = MemoryStore(max_records=2, clock=clock)
    await create(store, "a", clock() + HOUR)
    await create(store, "b", clock() + HOUR)
    clock.advance(timedelta(hours=1))
    await create(store, "c", clock() + HOUR)
    await create(store, "d", clock() + HOUR)
    assert caplog.records == []
    await create(store, "e", clock() + HOUR)
    await create(store, "f", clock() + HOUR)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "max_records" in caplog.text


async def test_a_record_larger_than_the_store_is_refused(clock: ManualClock) -> None:
    """It is an error that says so, nothing is thrown out for it, and nothing was executed."""
    store = MemoryStore(max_bytes=200, clock=clock)
    await create(store, "a", clock() + HOUR)
    with pytest.raises(StoreUnavailable, match="max_bytes=200") as create_error:
        await create(store, "b", clock() + HOUR, size=201)
    with pytest.raises(StoreUnavailable) as save_error:
        await store.save("a", data(201), clock() + HOUR, expect=ANY, deadline=LATER)
    assert create_error.value.executed is save_error.value.executed is False
    assert await loads(store, "ab") == "a"


async def test_expired_records_do_not_pile_up(clock: ManualClock) -> None:
    """Ever new records that expire leave neither records nor queue entries behind."""
    store = MemoryStore(clock=clock)
    for index in range(5000):
        await create(store, f"k{index}", clock() + 10)
        clock.advance(0.001)
        assert len(store._records) <= 30
    assert len(store._queue) <= 100


async def test_churn_and_touches_do_not_grow_the_queue(clock: ManualClock) -> None:
    """Records that live long but are deleted soon, or touched often, leave no queue entries behind."""
    store = MemoryStore(clock=clock)
    await create(store, "touched", clock() + HOUR)
    for index in range(5000):
        await create(store, "k", clock() + HOUR + index)
        await store.touch("touched", clock() + HOUR - index, expect=ANY, deadline=LATER)
        await store.delete("k", deadline=LATER)
    assert len(store._queue) <= 100


async def test_the_books_balance(clock: ManualClock) -> None:
    """After thousands of random verbs at the bounds, what is counted is what is there."""
    rng = random.Random(7)
    store = MemoryStore(max_records=20, max_bytes=5000, clock=clock)
    for _ in range(20_000):
        key, expires_at = (
            rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"),
            clock() + rng.randrange(-5, 200),
        )
        match rng.randrange(5):
            case 0:
                await create(store, key, expires_at, rng.randrange(16, 600))
            case 1:
                await store.save(key, data(rng.randrange(16, 600)), expires_at, expect=ANY, deadline=LATER)
            case 2:
                await store.touch(key, expires_at, expect=ANY, deadline=LATER)
            case 3:
                await store.delete(key, deadline=LATER)
            case _:
                clock.advance(0.001)
        assert store._bytes == sum(len(stored.data) for stored in store._records.values()) <= 5000
        assert len(store._records) <= 20
        assert store._due.keys() == store._records.keys()
        queued = set(store._queue)
        for name, due in store._due.items():
            assert due <= store._records[name].expires_at
            assert (due, name) in queued


async def test_len_and_clear(clock: ManualClock) -> None:
    """The length counts living records; a cleared store is as new."""
    store = MemoryStore(clock=clock)
    await create(store, "a", clock() + 10)
    await create(store, "b", clock() + 20)
    assert len(store) == 2
    clock.advance(0.010)
    assert len(store) == 1
    store.clear()
    assert len(store) == 0
    assert await store.save("b", data(), clock() + HOUR, expect=ANY, deadline=LATER) is GONE
    assert await create(store, "b", clock() + HOUR)


def test_bounds_must_be_positive() -> None:
    """A bound of nothing is a mistake, found when the store is made."""
    bad: Any
    for bad in (0, -1, "5", 1.5, True, None):
        with pytest.raises(ConfigurationError, match="max_records="):
            MemoryStore(max_records=bad)
        with pytest.raises(ConfigurationError, match="max_bytes="):
            MemoryStore(max_bytes=bad)


def test_a_clock_must_be_a_function() -> None:
    """Anything else is found when the store is made."""
    clock: Any = 5
    with pytest.raises(ConfigurationError, match="clock=5"):
        MemoryStore(clock=clock)


async def woken(store: MemoryStore, key: str, *listeners: str) -> None:
    await create(store, key, system_clock() + HOUR)
    await store.save_and_wake(key, data(), system_clock() + HOUR, expect=ANY, wake=listeners, deadline=LATER)


async def test_listeners_are_not_called_inside_of_the_save() -> None:
    """Whoever saves does not run what others do at a wake-up, nor learns that it fails."""
    store = MemoryStore()
    heard: list[str | None] = []
    await store.listen("e", heard.append, deadline=LATER)
    await woken(store, "a", "e")
    assert heard == []
    await asyncio.sleep(0)
    assert heard == ["a"]


async def test_who_ends_is_not_called_any_more_even_if_woken_before() -> None:
    """The call that is on its way finds that it is over."""
    store = MemoryStore()
    heard: list[str | None] = []
    end = await store.listen("e", heard.append, deadline=LATER)
    await woken(store, "a", "e")
    end()
    await asyncio.sleep(0)
    assert heard == []
    assert store._listeners == {}


async def test_a_listener_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and it hears the next one."""
    store = MemoryStore()
    heard: list[str | None] = []

    def hear(key: str | None) -> None:
        heard.append(key)
        raise IndexError("no good")

    await store.listen("e", hear, deadline=LATER)
    await woken(store, "a", "e")
    await woken(store, "b", "e")
    await asyncio.sleep(0)
    assert heard == ["a", "b"]
    assert len(caplog.records) == 2


def test_listeners_of_closed_loops_are_forgotten() -> None:
    """They hinder no save, and are gone when somebody listens next."""
    store = MemoryStore()

    async def listen(listener: str) -> None:
        await store.listen(listener, lambda *_: None, deadline=LATER)

    for number in range(5):
        asyncio.run(listen(f"{number}"))
        asyncio.run(woken(store, "a", *"01234"))
    assert list(store._listeners) == ["4"]
    asyncio.run(store.close())
