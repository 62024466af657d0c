"""`Session.lock` as it is meant: take it, change, commit and release; and what is told of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from asgi_session.errors import LockLost, LockTimeout, SessionError, SessionGone, StoreUnavailable
from tests.inside import locks_in_use, process_name, tasks_of
from tests.manager.kit import World, settle, start
from tests.manager.lock_kit import Gate, lease_of, put


async def test_a_locked_change_is_two_saves(world: World) -> None:
    """One takes the lock, one commits and releases; the record is then as large as before."""
    token = await world.new(n=1)
    session = await world.load(token)
    world.store.calls.clear()
    async with session.lock() as inside:
        assert inside is session
        lease = await lease_of(world, token)
        assert lease is not None
        assert lease.process == process_name(world.manager)
        session["n"] += 1
    assert world.store.counts() == {"save": 2}
    assert await lease_of(world, token) is None
    assert await world.read(token) == {"n": 2}
    assert [name for name, _, _ in world.events] == ["locked", "saved", "released"]
    assert world.named("locked")[0]["fence"] == world.named("released")[0]["fence"] == lease.fence


async def test_nothing_is_left_behind(world: World) -> None:
    """No lock queue, no task, no timer, once nobody is inside and nobody waits."""
    token = await world.new(n=1)
    for _ in range(3):
        async with (await world.load(token)).lock():
            pass
        await world.manager.drain()
    assert locks_in_use(world.manager) == 0
    assert not tasks_of(world.manager)


async def test_on_entry_what_is_pending_is_committed_and_the_session_is_the_newest(world: World) -> None:
    """What others have saved is there, and what was changed before the block is not part of it."""
    token = await world.new(n=1, mine=1)
    session = await world.load(token)
    kept = session["n"]
    other = await world.load(token, world.process())
    other["n"] = 2
    await other.commit()
    session["mine"] = 2
    async with session.lock():
        assert kept == 1
        assert session["n"] == 2
        assert await world.read(token) == {"n": 2, "mine": 2}


async def test_readers_and_merging_writers_are_not_held_up(world: World) -> None:
    """The lock is among those who ask for it; other requests read, and merge by key."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
        assert await world.read(token) == {"n": 1}
        other = await world.load(token, world.process())
        other["other"] = 1
        await other.commit()
        assert await lease_of(world, token) is not None
    assert await world.read(token) == {"n": 2, "other": 1}


async def test_a_commit_inside_is_saved_under_the_lock_which_stays(world: World) -> None:
    """`commit` in the block writes now; the lock goes with the block."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
        await session.commit()
        assert await world.read(token) == {"n": 2}
        assert await lease_of(world, token) is not None
        assert await session.transact(lambda draft: draft["n"]) == 2
        session["n"] = 3
    assert await world.read(token) == {"n": 3}
    assert await lease_of(world, token) is None


async def test_entering_again_is_counted(world: World) -> None:
    """The outermost block commits and releases."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        async with session.lock(wait=0):
            session["n"] = 2
        assert await lease_of(world, token) is not None
        assert await world.read(token) == {"n": 1}
        with pytest.raises(ZeroDivisionError):
            async with session.lock(wait=0):
                session["n"] = 3
                raise ZeroDivisionError
        assert session["n"] == 3, "the outer block goes on, and decides"
    assert await world.read(token) == {"n": 3}
    assert await lease_of(world, token) is None


async def test_another_task_enters_while_the_block_is_being_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a hold of its own: the one that ends cannot be entered again."""
    token = await world.new(n=0)
    session, other = await world.load(token), await world.load(token, world.process())
    left, inside, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with session.lock():
            await left.wait()

    async def second() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()

    one = start(first())
    await settle()
    gate = Gate(world, monkeypatch)
    session["c"] = 1
    commit = start(session.commit())
    await settle()
    left.set()
    await settle()
    two = start(second())
    await settle()
    gate.opened.set()
    await asyncio.wait_for(inside.wait(), 5)
    with pytest.raises(LockTimeout):
        await other.lock(wait=0).__aenter__()
    leave.set()
    await asyncio.gather(one, commit, two)
    assert await lease_of(world, token) is None


async def test_each_hold_has_its_end_in_the_events(world: World) -> None:
    """Released with a commit or without one, or lost."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
    with pytest.raises(ZeroDivisionError):
        async with session.lock():
            raise ZeroDivisionError
    with pytest.raises(LockLost):
        async with session.lock():
            await put(world, token, None)
            session["n"] = 3
    async with session.lock():
        session.destroy()
    told = [
        (name, info.get("committed"))
        for name, _, info in world.events
        if "lock" in name or name == "released"
    ]
    assert told == [
        ("locked", None),
        ("released", True),
        ("locked", None),
        ("released", False),
        ("locked", None),
        ("lock_lost", None),
        ("locked", None),
        ("released", True),
    ]


@pytest.mark.parametrize(
    "terms",
    [{"wait": -1}, {"wait": float("nan")}, {"lease": 0}, {"lease": "30"}, {"max_hold": timedelta(days=2)}],
)
async def test_durations_that_make_no_sense(world: World, terms: dict[str, Any]) -> None:
    """They are refused when they are given, by name."""
    with pytest.raises(ValueError, match=next(iter(terms))):
        world.session().lock(**terms)


async def test_the_store_was_away_at_the_load() -> None:
    """An anonymous session cannot be locked: that would be no lock."""
    world = World(on_unavailable="anonymous")
    token = await world.new(n=1)
    world.store.fail("load")
    session = world.session(token)
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            pytest.fail("entered")


async def test_outside_a_request(world: World) -> None:
    """By the public id; the same lock, and no use by the client."""
    token = await world.new(n=1)
    expiry = await world.expiry(token)
    world.clock.ms += 3_600_000
    async with world.manager.lock(token[:22], wait=1, lease=5) as session:
        assert session["n"] == 1
        assert session.id == token[:22]
        with pytest.raises(SessionError, match="rotate"):
            session.rotate()
        session["n"] = 2
        await session.commit()
    assert await world.expiry(token) == expiry
    async with (await world.load(token, world.process())).lock():
        with pytest.raises(LockTimeout):
            async with world.manager.lock(token[:22], wait=0):
                pytest.fail("entered")
    assert await world.read(token) == {"n": 2}
    async with world.manager.lock(token[:22]) as session:
        session.destroy()
    assert await world.read(token) is None


async def test_outside_a_request_there_is_no_such_session(world: World) -> None:
    """Nothing is created by asking for it."""
    token = await world.new(n=1)
    with pytest.raises(ValueError, match="not a session id"):
        world.manager.lock(token)
    ending = await world.load(token)
    ending.destroy()
    await ending.commit()
    for selector in (token[:22], "A" * 22):
        with pytest.raises(SessionGone):
            async with world.manager.lock(selector):
                pytest.fail("entered")


async def test_outside_a_request_no_cookie_can_go_out(world: World) -> None:
    """`rotate` and `clear` say so, and what to do instead."""
    token = await world.new(n=1)
    async with world.manager.lock(token[:22]) as session:
        for change in (session.rotate, session.clear):
            with pytest.raises(SessionError, match="outside a request"):
                change()
        session["n"] = 2
    assert await world.read(token) == {"n": 2}
