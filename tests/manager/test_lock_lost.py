"""A lock that has passed on: what is saved under it is refused."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session.errors import LockLost, SessionGone
from asgi_session.store import Saved
from tests.inside import changed, process_name, wake_up
from tests.manager.kit import World, settle, soon, start, until
from tests.manager.lock_kit import SOMEBODY, Line, held_by_somebody, lease_of, put


@pytest.mark.parametrize("new_holder", ["somebody", "this process again", "nobody"])
async def test_a_save_under_a_lock_that_has_passed_on_is_refused(world: World, new_holder: str) -> None:
    """Promise 12: nothing written, no merge; also when the process holds the lock again."""
    token = await world.new(n=1)
    session = await world.load(token)
    name = process_name(world.manager)
    with pytest.raises(LockLost):
        async with session.lock():
            lease = await lease_of(world, token)
            assert lease is not None
            by = {
                "somebody": changed(lease, process=SOMEBODY, fence=99),
                "this process again": changed(lease, process=name, fence=lease.fence + 1),
                "nobody": None,
            }
            await put(world, token, by[new_holder])
            session["n"] = 2
    assert session["n"] == 1
    assert not session.modified
    session["after"] = 1
    await session.commit()
    assert await world.read(token) == {"n": 1, "after": 1}
    await world.manager.drain()
    if new_holder == "somebody":
        assert await lease_of(world, token) == by["somebody"], "it was not released by the wrong one"


async def test_a_commit_inside_finds_the_lock_lost(world: World) -> None:
    """So does `transact`; what comes after the error in the block is not saved either."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock():
            await held_by_somebody(world, token)
            session["n"] = 2
            with pytest.raises(LockLost):
                await session.commit()
            with pytest.raises(LockLost):
                await session.transact(lambda draft: draft.update(n=3))
            session["n"] = 4
    assert await world.read(token) == {"n": 1}


@pytest.mark.usefixtures("eager")
async def test_a_renewal_that_finds_the_lock_lost(world: World) -> None:
    """It does not cancel the block; its next commit raises. Who waits here goes on waiting."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(lease=30):
            await held_by_somebody(world, token, length=60_000)
            await until(lambda: world.named("lock_lost") != [])
            line = Line(world, token)
            waiter = await line.queue("a", world.manager)
            session["n"] = 2
    await put(world, token, None)
    await waiter
    assert await world.read(token) == {"n": 2}


async def test_no_longer_than_max_hold(world: World) -> None:
    """The lock ends, whatever the block does, and goes to the next one."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(max_hold=0.1):
            await Line(world, token).client("b", world.process())
            assert world.named("lock_lost") != []
            session["n"] = 9
    assert await world.read(token) == {"n": 2}


async def test_a_lost_block_does_not_release_that_of_another_task(world: World) -> None:
    """Promise 12: it is told, and the other task of its request keeps the lock and its changes."""
    token = await world.new(n=0)
    session, holder = await world.load(token), await world.load(token, world.process())
    inside, leave = asyncio.Event(), asyncio.Event()

    async def lost() -> None:
        async with session.lock(max_hold=0.1):
            await inside.wait()

    async def keeps() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()
            session["n"] += 1

    async with holder.lock():
        one, two = start(lost()), start(keeps())
        await settle()
    with pytest.raises(LockLost):
        await one
    assert await lease_of(world, token) is not None
    leave.set()
    await two
    assert await world.read(token) == {"n": 1}


@pytest.mark.parametrize("again", [1, 3])
async def test_a_failover_that_lost_what_was_saved_under_the_lock(world: World, again: int) -> None:
    """What the store has is the newest data, although a session knows a higher version of it."""
    token = await world.new(n=1)
    before = await world.memory.load(token[:22], deadline=soon())
    assert before is not None
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    lost = await world.memory.save(token[:22], before.data, before.expires_at, expect=stored, deadline=soon())
    assert isinstance(lost, Saved)
    for count in range(1, again + 1):
        async with session.lock():
            assert session["n"] == count
            session["n"] += 1
    assert await world.read(token) == {"n": 1 + again}


async def test_entering_again_after_the_lock_was_lost(world: World) -> None:
    """An inner block of a lost one is not entered."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(max_hold=0.1):
            await until(lambda: world.named("lock_lost") != [])
            with pytest.raises(LockLost):
                async with session.lock():
                    pytest.fail("entered")
            session["n"] = 2
    assert await world.read(token) == {"n": 1}


async def test_a_wake_up_that_tells_the_holder_of_the_sessions_end(world: World) -> None:
    """The hold has its end in the events at once; what is changed afterwards is refused, and not saved."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises((SessionGone, LockLost)):
        async with session.lock():
            await world.process().revoke(token[:22])
            wake_up(world.manager, token[:22])
            await until(lambda: world.named("released") != [])
            session["n"] = 2
    assert [info["committed"] for info in world.named("released")] == [False]
    assert await world.read(token) is None
