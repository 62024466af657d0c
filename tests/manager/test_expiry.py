"""Touch and expiry, with a clock that stands still."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from asgi_session import SessionManager
from asgi_session.errors import ConfigurationError
from asgi_session.stores.memory import MemoryStore
from tests.inside import credential, seal, status_of
from tests.manager.kit import World, settle, start

HOUR = 3_600_000
DAY = 24 * HOUR
IDLE = 14 * DAY


async def visit(world: World, token: str) -> str:
    session = await world.load(token)
    await world.manager.drain()
    return status_of(session)


async def create(world: World) -> str:
    session = await world.session().load()
    session["a"] = 1
    await session.commit()
    return credential(session)


async def test_an_unconfirmed_session_expires_after_its_own_timeout() -> None:
    """A session whose cookie never comes back lasts `unconfirmed_timeout`."""
    world = World(unconfirmed_timeout=timedelta(minutes=10))
    token = await create(world)
    assert await world.expiry(token) == world.clock() + 10 * 60_000
    world.clock.advance(timedelta(minutes=10))
    assert len(world.memory) == 0
    assert await visit(world, token) == "new"


async def test_the_first_return_confirms() -> None:
    """Promise 2: the first return of a cookie is one touch, which brings the idle timeout."""
    world = World()
    token = await create(world)
    world.clock.advance(60)
    await visit(world, token)
    assert await world.expiry(token) == world.clock() + IDLE
    assert world.store.counts() == {"create": 1, "load": 1, "touch": 1}
    await visit(world, token)
    assert world.store.counts()["touch"] == 1


async def test_a_touch_at_most_once_per_five_percent() -> None:
    """Promise 2: a session in steady use is touched once per 5 % of the idle timeout."""
    world = World(idle_timeout=timedelta(hours=20), absolute_timeout=timedelta(days=90))
    token = await world.new()
    for _ in range(20 * 6):  # 20 hours, a visit every ten minutes
        world.clock.advance(timedelta(minutes=10))
        assert await visit(world, token) == "live"
    touches = world.store.counts()["touch"]
    assert 15 <= touches <= 20
    assert await world.expiry(token) >= world.clock() + 19 * HOUR


def dear(memory: MemoryStore) -> MemoryStore:
    """Make a touch cost as much as a save."""
    memory.touch_fraction = 0.25  # type: ignore[attr-defined]
    return memory


async def test_a_store_may_ask_for_fewer_touches() -> None:
    """Where a touch is dear, one comes per quarter of the idle timeout, and idle expiry as much too early."""
    world = World(dear, idle_timeout=timedelta(hours=20), absolute_timeout=timedelta(days=90))
    token = await world.new()
    for _ in range(20 * 6):
        world.clock.advance(timedelta(minutes=10))
        assert await visit(world, token) == "live"
    assert world.store.counts()["touch"] == 3
    world.clock.advance(timedelta(hours=5))
    assert await visit(world, token) == "live"
    assert await world.expiry(token) == world.clock() + 20 * HOUR
    world.clock.advance(timedelta(hours=5))
    assert await visit(world, token) == "live"  # not touched: it gains no more than a quarter
    world.clock.advance(timedelta(hours=15))
    assert await visit(world, token) == "new"


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, 1, True, "0.1", None, float("nan")])
def test_a_fraction_that_cannot_work_is_refused(fraction: object) -> None:
    """A store that would have sessions expire at once, or never touched, is refused by name."""
    store = MemoryStore()
    store.touch_fraction = fraction  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"MemoryStore\.touch_fraction"):
        SessionManager(store)


async def test_one_touch_for_sixty_parallel_requests() -> None:
    """Promise 2: sixty requests at once, with a touch due, send one."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=2))
    gate = world.store.pause("touch")
    loads = [start(world.load(token)) for _ in range(60)]
    await gate.reached()
    await asyncio.gather(*loads)  # nobody waits for the touch
    await settle()
    gate.release()
    await world.manager.drain()
    assert world.store.counts() == {"load": 60, "touch": 1}


async def test_an_idle_session_expires() -> None:
    """Promise 5: unused for its idle timeout a session is gone, and at most 5 % earlier."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(milliseconds=IDLE * 0.94))
    assert await visit(world, token) == "live"
    world.clock.advance(timedelta(milliseconds=IDLE))
    assert await visit(world, token) == "new"
    assert await world.record(token) is None


async def test_the_absolute_timeout_ends_a_session_in_use() -> None:
    """Promise 5: however much it is used, a session ends at its absolute deadline."""
    world = World(idle_timeout=timedelta(days=10), absolute_timeout=timedelta(days=25))
    begin = world.clock()
    token = await world.new()
    while world.clock() < begin + 25 * DAY - HOUR:
        session = await world.load(token)
        assert status_of(session) == "live"
        session["n"] = world.clock()
        await session.commit()
        await world.manager.drain()
        assert await world.expiry(token) <= begin + 25 * DAY
        world.clock.advance(timedelta(hours=30))
    world.clock.ms = begin + 25 * DAY
    assert await visit(world, token) == "new"


async def test_a_touch_never_revives_or_shortens() -> None:
    """Promise 5: a touch that comes late, or from a clock that is behind, changes nothing for the worse."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=5))
    gate = world.store.pause("touch")
    await world.load(token)
    await gate.reached()
    assert await world.manager.revoke(token[:22])
    gate.release()
    await world.manager.drain()
    assert await world.record(token) is None

    token = await world.new()
    expiry = await world.expiry(token)
    world.clock.advance(timedelta(days=-3))
    await visit(world, token)
    assert await world.expiry(token) == expiry


async def test_a_touch_that_meets_a_destroy() -> None:
    """Promise 5: a touch on its way does not lengthen the life of an ended record."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=5))
    gate = world.store.pause("touch")
    session = await world.load(token)
    await gate.reached()
    session.destroy()
    await session.commit()
    gate.release()
    await world.manager.drain()
    assert await world.expiry(token) == world.clock() + 60_000
    world.clock.advance(61)
    assert await world.record(token) is None


async def test_a_late_commit_does_not_unconfirm() -> None:
    """A second commit by the request that created a session leaves a confirmed one its whole time."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()
    token = credential(session)
    seal(session)  # the response has started: its cookie may come back from now on
    world.clock.advance(30)
    await visit(world, token)
    confirmed = await world.expiry(token)
    world.clock.advance(30)
    session["late"] = 1
    await session.commit()
    assert await world.expiry(token) >= confirmed
    assert await world.read(token) == {"a": 1, "late": 1}


async def test_a_save_extends_without_a_touch() -> None:
    """Promise 2: a request that writes needs no touch besides, unless it is due when it loads."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(hours=10))
    session = await world.load(token)
    session["a"] = 1
    await session.commit()
    assert await world.expiry(token) == world.clock() + IDLE
    assert world.store.counts() == {"load": 1, "save": 1}


@pytest.mark.parametrize("by", ["commit", "refresh"])
async def test_what_a_websocket_does_counts_as_use(by: str) -> None:
    """A commit without changes, or a refresh, touches a session that is held open for long."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    seal(session)
    world.clock.advance(timedelta(days=3))
    await (session.commit() if by == "commit" else session.refresh())
    await world.manager.drain()
    assert await world.expiry(token) == world.clock() + IDLE
    await (session.commit() if by == "commit" else session.refresh())
    await world.manager.drain()
    assert world.store.counts()["touch"] == 1


async def test_unchanged_data_is_never_written() -> None:
    """Promise 2: reading, also nested values, and setting what was there sends nothing."""
    world = World()
    token = await world.new(nested={"a": [1, {2, 3}]}, flat=1)
    session = await world.load(token)
    assert session["nested"]["a"][1] == {3, 2}
    session["flat"] = 1
    session["nested"] = {"a": [1, {3, 2}]}
    session["new"] = 1
    del session["new"]
    await session.commit()
    assert world.store.counts() == {"load": 1}


async def test_two_commits_confirm_nothing() -> None:
    """A crawler whose first request commits twice must not fill the store for two weeks."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()
    session["b"] = 2
    await session.commit()
    await session.commit()
    await session.refresh()
    await world.manager.drain()
    assert await world.expiry(credential(session)) == world.clock() + 3_600_000


async def test_a_save_expects_the_expiry_that_its_touch_has_written() -> None:
    """Promise 2: a store that compares whole versions needs no further command for a save after a touch."""
    world = World()
    token = await create(world)
    session = await world.load(token)
    await world.manager.drain()  # the touch is answered
    session["a"] = 2
    await session.commit()
    save = world.store.calls[-1]
    assert save.verb == "save"
    assert save.expect is not None
    assert save.expect.expires_at == world.clock() + IDLE


async def test_a_touch_answered_during_a_refresh_costs_no_second_load() -> None:
    """Promise 2: what has moved is the expiry alone, so what the refresh has loaded is still the newest."""
    world = World()
    token = await create(world)
    touching, loading = world.store.pause("touch", when="after"), world.store.pause("load", nth=2)
    session = await world.load(token)
    await touching.reached()
    refreshing = start(session.refresh())
    await loading.reached()
    touching.release()
    await settle()
    loading.release()
    await refreshing
    await world.manager.drain()
    assert world.store.counts() == {"create": 1, "load": 2, "touch": 1}
