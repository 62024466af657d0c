"""What clocks that differ do, in numbers; the page on promises has them."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session import SessionManager
from asgi_session.clock import system_clock
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore, ManualClock
from tests.inside import ENDED_FOR, MAX_SKEW, commit, owed_by, status_of
from tests.manager.kit import World, credential
from tests.servers import ServerProcess


def ahead(world: World, ms: int) -> SessionManager:
    """Return another process's manager, whose clock is fast by `ms`."""
    return SessionManager(world.store, clock=lambda: world.clock() + ms)


@pytest.mark.parametrize("skew", [0, 10_000, 25_000, -25_000])
async def test_the_lock_bears_clocks_that_differ(skew: int) -> None:
    """Promise 12: with 25 s between two processes, all of 200 holds end as they should, and none overlap."""
    lost: list[str] = []

    def on_event(name: str, session_id: str | None, **_: object) -> None:
        if name in ("lock_lost", "lock_timeout"):
            lost.append(name)

    store = MemoryStore()
    clocks = (system_clock, lambda: system_clock() + skew)
    managers = [SessionManager(store, clock=clock, on_event=on_event) for clock in clocks]
    world = World()
    world.store = FaultStore(store)
    world.manager = managers[0]
    world.memory = store
    world.clock = ManualClock(system_clock())
    token = await world.new(n=0)
    inside = 0

    async def work(manager: SessionManager) -> None:
        nonlocal inside
        for _ in range(10):
            session = await world.load(token, manager)
            async with session.lock(wait=20):
                inside += 1
                assert inside == 1
                session["n"] += 1
                await asyncio.sleep(0.0005)
                inside -= 1

    await asyncio.gather(*(work(manager) for manager in managers for _ in range(10)))
    for manager in managers:
        await manager.drain()
    assert lost == []
    assert await world.read(token) == {"n": 200}


async def test_by_how_much_a_lease_may_seem_to_be_over() -> None:
    """The bound is 30 s, beyond what is left of the lease."""
    assert MAX_SKEW == 30_000


@pytest.mark.parametrize(("skew", "opens"), [(0, True), (14_000, True), (16_000, False), (-60_000, True)])
async def test_a_grace_shorter_than_the_difference_is_void(skew: int, opens: bool) -> None:
    """A process ahead by more than the grace takes the old cookie for retired once the new one was seen."""
    world = World()
    token = await world.new(n=1)
    session = await world.load(token)
    session.rotate(grace=15)
    await session.commit()
    assert status_of(await world.load(token, ahead(world, skew))) == "live", "the new one was not seen yet"
    await world.load(credential(session))
    await world.manager.drain()
    other = await world.load(token, ahead(world, skew))
    assert (status_of(other) == "live") is opens
    assert opens or status_of(other) == "detached", "it reads empty, and sets no cookie"


@pytest.mark.parametrize("end", ["rotate", "destroy"])
@pytest.mark.parametrize(("skew", "owed"), [(59_000, "nothing"), (61_000, "cookie")])
async def test_beyond_a_minute_a_write_in_flight_sets_a_cookie(skew: int, owed: str, end: str) -> None:
    """Promise 14 holds up to 60 s between two clocks; beyond, an old cookie is simply unknown."""
    assert ENDED_FOR == 60_000
    world = World()
    token = await world.new(n=1)
    session = await world.load(token)
    getattr(session, end)()
    await session.commit()
    in_flight = await world.load(token, ahead(world, skew))
    in_flight["written"] = True
    assert (status_of(in_flight) == "detached") is (owed == "nothing")
    await commit(world.manager, in_flight, explicit=False)
    assert owed_by(in_flight) == owed
    assert end == "destroy" or await world.read(credential(session)) == {"n": 1}


@pytest.mark.parametrize(("skew", "lives"), [(0, True), (59 * 60_000, True), (61 * 60_000, False)])
async def test_a_session_expires_earlier_for_who_is_ahead(skew: int, lives: bool) -> None:
    """By as much as it is ahead of who wrote the expiry."""
    world = World()
    session = await world.session().load()
    session["n"] = 1
    await session.commit()
    found = await world.load(credential(session), ahead(world, skew))
    assert (status_of(found) == "live") is lives


@pytest.mark.parametrize(("behind", "lives"), [(59 * 60_000, True), (61 * 60_000, False)])
async def test_a_store_that_is_ahead_ends_sessions_earlier(
    valkey: ServerProcess, behind: int, lives: bool
) -> None:
    """The store's own clock ends a record, too: here one that is ahead of the app by an hour."""
    store = RedisStore.from_url(valkey.url)
    manager = SessionManager(store, clock=lambda: system_clock() - behind)
    world = World()
    session = await world.session(manager=manager).load()
    session["n"] = 1
    await session.commit()
    assert (valkey.command("DBSIZE") == 1) is lives
    await store.close()
