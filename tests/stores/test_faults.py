"""FaultStore and ManualClock do what tests of the manager rely on."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from asgi_session.clock import system_clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Distrusts, Saved
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import Call, FaultStore, ManualClock

DATA = b"a" * 16
NEXT = b"b" * 16
LATER = time.monotonic() + 10_000


def far() -> int:
    return system_clock() + 3_600_000


@pytest.fixture
def store() -> FaultStore:
    return FaultStore(MemoryStore())


async def create(store: FaultStore, key: str = "k") -> bool:
    return await store.create(key, DATA, far(), deadline=LATER)


async def exists(store: FaultStore, key: str = "k") -> bool:
    return await store.store.load(key, deadline=LATER) is not None


async def test_refused_is_not_executed_and_known(store: FaultStore) -> None:
    """The fault hits one call; the next one goes through."""
    store.fail("create", "refused")
    with pytest.raises(StoreUnavailable) as caught:
        await create(store)
    assert caught.value.executed is False
    assert not await exists(store)
    assert await create(store)


async def test_lost_request_is_not_executed_and_unknown(store: FaultStore) -> None:
    """What did not arrive looks to the caller like what did."""
    store.fail("create", "lost request")
    with pytest.raises(StoreUnavailable) as caught:
        await create(store)
    assert caught.value.executed is None
    assert not await exists(store)


async def test_lost_reply_is_executed_and_unknown(store: FaultStore) -> None:
    """The write is there although its caller got an error."""
    store.fail("create", "lost reply")
    with pytest.raises(StoreUnavailable) as caught:
        await create(store)
    assert caught.value.executed is None
    assert await exists(store)


async def test_nth_times_and_match_choose_the_calls(store: FaultStore) -> None:
    """Options count matching calls only."""
    store.fail("create", nth=2, times=2, match=lambda call: call.key != "x")
    outcomes: list[str] = []
    for key in "axbxcd":
        try:
            await create(store, key)
        except StoreUnavailable:
            outcomes.append(key)
    assert outcomes == ["b", "c"]


async def test_any_verb_until_healed(store: FaultStore) -> None:
    """Without a verb and a number everything fails, until it is taken back."""
    store.fail(None, times=None)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.load("k", deadline=LATER)
        with pytest.raises(StoreUnavailable):
            await store.delete("k", deadline=LATER)
    store.heal()
    assert await store.load("k", deadline=LATER) is None


async def test_hang_ends_with_the_deadline(store: FaultStore) -> None:
    """A store that does not answer raises at the deadline, the verb executed or not as asked."""
    for when, executed in (("before", False), ("after", True)):
        store.hang("create", when=when)  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable) as caught:
            await store.create(when, DATA, far(), deadline=time.monotonic() + 0.01)
        assert caught.value.executed is None
        assert await exists(store, when) is executed


async def test_hang_can_be_released(store: FaultStore) -> None:
    """A late answer is an answer."""
    gate = store.hang("create")
    task = asyncio.create_task(create(store))
    await gate.reached()
    gate.release()
    assert await task is True


async def test_pause_before_lets_others_in_between(store: FaultStore) -> None:
    """A save stopped before its execution finds the record gone."""
    await create(store)
    gate = store.pause("save")
    task = asyncio.create_task(store.save("k", NEXT, far(), expect=DATA, deadline=0))
    await gate.reached()
    assert await store.delete("k", deadline=LATER)
    assert not task.done()
    gate.release()
    assert await task is GONE


async def test_pause_after_lets_others_in_between(store: FaultStore) -> None:
    """A save stopped after its execution was first, and its answer says so."""
    await create(store)
    gate = store.pause("save", when="after")
    task = asyncio.create_task(store.save("k", NEXT, far(), expect=DATA, deadline=0))
    await gate.reached()
    assert await store.delete("k", deadline=LATER)
    gate.release()
    assert await task == Saved(NEXT)


async def test_a_gate_waits_for_several(store: FaultStore) -> None:
    """`reached` counts, and times out rather than hang."""
    gate = store.pause("load", times=2)
    tasks = [asyncio.create_task(store.load("k", deadline=LATER)) for _ in range(3)]
    await gate.reached(2)
    assert await tasks[2] is None
    assert not any(task.done() for task in tasks[:2])
    gate.release()
    assert await asyncio.gather(*tasks) == [None] * 3


async def test_calls_are_logged_with_their_arguments(store: FaultStore) -> None:
    """Counting and comparing calls needs no mock."""
    expires_at = far()
    await store.create("k", DATA, expires_at, deadline=LATER)
    await store.touch("k", expires_at + 1, expect=DATA, deadline=LATER)
    await store.load("k", deadline=LATER)
    await store.load("k", deadline=LATER)
    assert store.counts() == {"create": 1, "touch": 1, "load": 2}
    assert store.calls[:2] == [
        Call("create", "k", LATER, data=DATA, expires_at=expires_at),
        Call("touch", "k", LATER, expires_at=expires_at + 1, expect=DATA),
    ]


def test_distrust_is_noted(store: FaultStore) -> None:
    """The wrapper has the capability, so that its use can be seen."""
    assert isinstance(store, Distrusts)
    store.distrust("k")
    assert store.distrusted == ["k"]


def test_the_manual_clock_moves_only_when_told() -> None:
    """Steps are exact in milliseconds, days included, and may go back."""
    clock = ManualClock(1000)
    assert clock() == clock() == 1000
    assert clock.advance(timedelta(days=14, milliseconds=1)) == 1000 + 14 * 86_400_000 + 1
    assert clock.advance(-0.25) == clock() == 751 + 14 * 86_400_000
    assert abs(ManualClock()() - system_clock()) < 10_000
