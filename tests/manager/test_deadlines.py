"""The deadline: one budget for all that a request waits on the store, and each commit's own."""

from __future__ import annotations

import asyncio
import time

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAKEN, SaveResult, Stored, Taken
from asgi_session.stores.memory import MemoryStore
from tests.inside import pause_after_tries, use_up
from tests.manager.kit import World, settle, start

MARGIN = 0.4
"""Seconds by which a loaded machine may be late."""


async def write(world: World, token: str, key: str) -> None:
    session = await world.load(token, world.process())
    session[key] = 1
    await session.commit()


class GivesUpEarly:
    """A store that cannot connect: it pauses as long as the deadline allows, then says so."""

    def __init__(self, memory: MemoryStore) -> None:
        self.memory = memory
        self.down = asyncio.Event()
        self.up = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self.memory, name)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        if self.down.is_set():
            try:
                async with asyncio.timeout(deadline - 0.01 - time.monotonic()):
                    await self.up.wait()
            except TimeoutError:
                raise StoreUnavailable("no connection", executed=False) from None
        return await self.memory.save(key, data, expires_at, expect=expect, deadline=deadline)


async def test_the_rest_of_a_batch_goes_on_when_one_has_no_more_time() -> None:
    """Promise 13: a commit with little time left does not take down those that leave with it."""
    stores: list[GivesUpEarly] = []

    def wrap(memory: MemoryStore) -> GivesUpEarly:
        stores.append(GivesUpEarly(memory))
        return stores[0]

    world = World(wrap)  # type: ignore[arg-type]
    token = await world.new()
    first, hasty, patient = [await world.load(token) for _ in range(3)]
    gate = world.store.pause("save")
    first["first"] = 1
    tasks = [start(first.commit())]
    await gate.reached()
    hasty["hasty"] = 1
    use_up(hasty, 4.9)  # of 5
    patient["patient"] = 1
    tasks += [start(hasty.commit()), start(patient.commit())]
    await settle()
    stores[0].down.set()
    stores[0].up.clear()
    gate.release()
    # The first save is on its way into a store that is down as well.
    with pytest.raises(StoreUnavailable) as caught:
        await tasks[1]
    assert caught.value.executed is False
    stores[0].up.set()
    await tasks[0]
    await tasks[2]
    # What failed with certainty is not there.
    assert await world.read(token) == {"old": 1, "first": 1, "patient": 1}


async def test_a_load_leaves_the_rest_of_the_time_to_the_commit() -> None:
    """Promise 11: load and commit together end within one deadline."""
    world = World(deadline=0.6)
    token = await world.new()
    gate = world.store.hang("load")
    began = time.monotonic()
    loading = start(world.load(token))
    await gate.reached()
    asyncio.get_running_loop().call_later(0.4, gate.release)
    session = await loading
    world.store.hang("save", times=None)
    session["a"] = 1
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert 0.5 < time.monotonic() - began < 0.6 + MARGIN
    world.store.heal()


@pytest.mark.parametrize("verb", ["load", "save", "create"])
async def test_a_hung_store_ends_with_the_deadline(verb: str) -> None:
    """Promise 11: with the store hung each verb ends within the deadline, with an error."""
    world = World(deadline=0.2)
    token = await world.new()
    world.store.hang(verb, times=None)  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        session = await world.load(token) if verb != "create" else await world.session().load()
        session["a"] = 1
        await session.commit()
    assert time.monotonic() - began < 0.2 + MARGIN
    world.store.heal()
    await world.manager.drain()
    assert await world.read(token) in ({"old": 1}, {"old": 1, "a": 1})


async def test_each_of_many_waits_no_longer_than_its_own_deadline() -> None:
    """Promise 11: with saves hung, commits that have more or less time left end when theirs is over."""
    world = World(deadline=1.0)
    token = await world.new()
    world.store.hang("save", times=None)
    began = time.monotonic()
    took: dict[float, float] = {}

    async def commit(used: float) -> None:
        session = await world.load(token)
        use_up(session, used)
        session[f"k{used}"] = 1
        with pytest.raises(StoreUnavailable):
            await session.commit()
        took[used] = time.monotonic() - began

    await asyncio.gather(*(commit(used / 10) for used in range(9)))
    for used, seconds in took.items():
        assert 1.0 - used - 0.05 < seconds < 1.0 - used + MARGIN
    world.store.heal()
    await world.manager.drain()


@pytest.mark.parametrize("fault", ["hang", "lost request"])
async def test_who_leads_a_save_waits_no_longer_than_the_others(fault: str) -> None:
    """Promise 11: the first of several commits ends with its own deadline, and the others go on."""
    world = World(deadline=3.0)
    token = await world.new()
    hasty, patient = await world.load(token), await world.load(token)
    await write(world, token, "between")
    began = time.monotonic()
    first = world.store.pause("save")
    hasty["hasty"] = 1
    use_up(hasty, 2.8)
    leading = start(hasty.commit())
    await first.reached()
    patient["patient"] = 1
    joined = start(patient.commit())
    await settle()
    if fault == "hang":
        world.store.hang("save", times=None)
    else:
        world.store.fail("save", "lost request", times=None)
    first.release()  # it conflicts, and the next one carries both
    with pytest.raises(StoreUnavailable):
        await leading
    assert time.monotonic() - began < 0.2 + MARGIN
    assert not joined.done()
    world.store.heal()
    await joined
    assert (await world.read(token) or {})["patient"] == 1


async def test_a_hung_save_holds_up_no_other_session() -> None:
    """Saves of different sessions are independent."""
    world = World()
    one, other = await world.new(), await world.new()
    gate = world.store.pause("save", match=lambda call: call.key == one[:22])
    stuck = await world.load(one)
    stuck["a"] = 1
    waiting = start(stuck.commit())
    await gate.reached()
    free = await world.load(other)
    free["a"] = 1
    await free.commit()
    assert not waiting.done()
    gate.release()
    await waiting
    assert await world.read(one) == await world.read(other) == {"old": 1, "a": 1}


async def test_many_tries_within_a_long_deadline() -> None:
    """A pause between tries stays short and a number after thousands of tries."""
    began = time.monotonic()
    await pause_after_tries(5_000, began + 60)
    assert time.monotonic() - began < 0.2 + MARGIN


async def test_a_store_that_takes_every_key_for_taken() -> None:
    """Promise 11: a create that never succeeds ends with the deadline, without holding up the loop."""
    world = World(deadline=0.3)

    async def taken(*args: object, **options: object) -> Taken:
        return TAKEN

    world.memory.create = taken  # type: ignore[method-assign, assignment]
    session = await world.session().load()
    session["a"] = 1
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="already in use"):
        await session.commit()
    assert time.monotonic() - began < 0.3 + MARGIN
    assert len(world.store.calls) < 500
