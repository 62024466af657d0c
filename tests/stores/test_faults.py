"""FaultStore and ManualClock do what tests of the manager rely on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from asgi_session.clock import system_clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Distrusts, Saved, Store, Stored, TouchesRarely, WakesUp
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import Call, FaultStore, ManualClock

DATA = b"a" * 16
NEXT = b"b" * 16
FIRST, SECOND = (Stored(data, data, 0) for data in (DATA, NEXT))
LATER = time.monotonic() + 10_000


def far() -> int:
    return system_clock() + 3_600_000


@pytest.fixture
def store() -> FaultStore:
    return FaultStore(MemoryStore())


async def create(store: FaultStore, key: str = "k") -> bool:
    return await store.create(key, DATA, far(), deadline=LATER) is not TAKEN


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
    task = asyncio.create_task(store.save("k", NEXT, far(), expect=FIRST, deadline=0))
    await gate.reached()
    assert await store.delete("k", deadline=LATER)
    assert not task.done()
    gate.release()
    assert await task is GONE


async def test_pause_after_lets_others_in_between(store: FaultStore) -> None:
    """A save stopped after its execution was first, and its answer says so."""
    await create(store)
    gate = store.pause("save", when="after")
    task = asyncio.create_task(store.save("k", NEXT, far(), expect=FIRST, deadline=0))
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
    await store.touch("k", expires_at + 1, expect=FIRST, deadline=LATER)
    await store.load("k", deadline=LATER)
    await store.load("k", deadline=LATER)
    assert store.counts() == {"create": 1, "touch": 1, "load": 2}
    assert store.calls[:2] == [
        Call("create", "k", LATER, data=DATA, expires_at=expires_at),
        Call("touch", "k", LATER, expires_at=expires_at + 1, expect=FIRST),
    ]


def test_distrust_is_noted(store: FaultStore) -> None:
    """The wrapper has the capability, so that its use can be seen."""
    assert isinstance(store, Distrusts)
    store.distrust("k")
    assert store.distrusted == ["k"]


class NoWakeUps:
    """The verbs of a store, without its capabilities."""

    def __init__(self, store: Store) -> None:
        self.open, self.close, self.load = store.open, store.close, store.load
        self.create, self.save, self.touch, self.delete = store.create, store.save, store.touch, store.delete


def test_wake_ups_are_a_capability_of_the_wrapped_store() -> None:
    """The wrapper claims what the wrapped one can, no more."""
    assert isinstance(FaultStore(MemoryStore()), WakesUp)
    assert isinstance(FaultStore(FaultStore(MemoryStore())), WakesUp)
    without = FaultStore(NoWakeUps(MemoryStore()))
    assert not isinstance(without, WakesUp)
    assert not isinstance(FaultStore(without), WakesUp)


class Ear:
    """A listener, and what it has heard."""

    def __init__(self, store: FaultStore, name: str) -> None:
        self.store = store
        self.name = name
        self.heard: list[str | None] = []
        self.came = asyncio.Event()

    async def listen(self) -> Callable[[], None]:
        return await self.store.listen(self.name, self.hear, deadline=LATER)

    def hear(self, key: str | None) -> None:
        self.heard.append(key)
        self.came.set()


async def wake(store: FaultStore, key: str, *ears: Ear, expect: Stored = FIRST) -> None:
    await create(store, key)
    names = [ear.name for ear in ears]
    await store.save_and_wake(key, NEXT, far(), expect=expect, wake=names, deadline=LATER)
    for _ in range(5):  # until the loop has called those who are woken
        await asyncio.sleep(0)


async def test_a_save_that_wakes_is_a_save(store: FaultStore) -> None:
    """To faults, gates and the list of calls, which names who was to be woken."""
    ear = Ear(store, "e")
    await ear.listen()
    await create(store)
    store.fail("save", "refused")
    with pytest.raises(StoreUnavailable):
        await wake(store, "k", ear)
    assert ear.heard == []
    store.fail("save", "lost reply")
    with pytest.raises(StoreUnavailable):
        await wake(store, "k", ear)
    await asyncio.wait_for(ear.came.wait(), 5)
    gate = store.pause("save", when="before")
    task = asyncio.create_task(wake(store, "k2", ear))
    await gate.reached()
    assert ear.heard == ["k"]
    gate.release()
    await task
    assert ear.heard == ["k", "k2"]
    assert store.counts()["save"] == 3
    assert [call.wake for call in store.calls if call.verb == "save"] == [("e",)] * 3
    await store.save("k", DATA, far(), expect=SECOND, deadline=LATER)
    assert store.calls[-1].wake is None


async def test_wake_ups_are_lost(store: FaultStore) -> None:
    """Some, or those to one listener, until healed; what is saved is saved."""
    one, two = Ear(store, "1"), Ear(store, "2")
    await one.listen()
    await two.listen()
    store.lose_wakeups(listener="1")
    store.lose_wakeups(1, listener="2")
    await wake(store, "a", one, two)
    await wake(store, "b", one, two)
    assert (one.heard, two.heard, store.wakeups_lost) == ([], ["b"], 3)
    store.heal()
    store.lose_wakeups(1)
    await wake(store, "c", one)
    await wake(store, "d", one, two)
    assert (one.heard, two.heard, store.wakeups_lost) == (["d"], ["b", "d"], 4)
    assert isinstance(await store.save("a", DATA, far(), expect=SECOND, deadline=LATER), Saved)


async def test_wake_ups_are_interrupted(store: FaultStore) -> None:
    """Whoever listens is told that something may be lost, even while wake-ups are lost."""
    one, two = Ear(store, "1"), Ear(store, "2")
    await one.listen()
    end = await two.listen()
    end()
    store.lose_wakeups()
    store.interrupt_wakeups()
    assert (one.heard, two.heard) == ([None], [])
    await store.close()
    store.interrupt_wakeups()
    assert one.heard == [None]


async def test_listening_fails_when_it_is_meant(store: FaultStore) -> None:
    """By its name alone; it is no verb, so it is neither counted nor meant by "any"."""
    ear = Ear(store, "e")
    store.fail(None, times=None)
    end = await ear.listen()
    end()
    store.heal()
    for fault in ("refused", "lost reply"):
        store.fail("listen", fault)  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            await ear.listen()
    await wake(store, "k", ear)
    store.interrupt_wakeups()
    assert ear.heard == []
    assert "listen" not in store.counts()


def test_the_manual_clock_moves_only_when_told() -> None:
    """Steps are exact in milliseconds, days included, and may go back."""
    clock = ManualClock(1000)
    assert clock() == clock() == 1000
    assert clock.advance(timedelta(days=14, milliseconds=1)) == 1000 + 14 * 86_400_000 + 1
    assert clock.advance(-0.25) == clock() == 751 + 14 * 86_400_000
    assert abs(ManualClock()() - system_clock()) < 10_000


def test_names_that_do_not_exist_are_refused(store: FaultStore) -> None:
    """A fault or a verb with a typo would test nothing."""
    with pytest.raises(ValueError, match="no verb 'lod'"):
        store.fail("lod")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no verb 'lod'"):
        store.pause("lod")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no fault 'lost'"):
        store.fail("load", "lost")  # type: ignore[arg-type]


def test_a_wish_for_fewer_touches_is_passed_on() -> None:
    """Around a store that asks for them a FaultStore asks, too; around another it does not."""

    class Dear(MemoryStore):
        touch_fraction = 0.25

    wrapped = FaultStore(Dear())
    assert isinstance(wrapped, TouchesRarely)
    assert wrapped.touch_fraction == 0.25
    assert not isinstance(FaultStore(MemoryStore()), TouchesRarely)
