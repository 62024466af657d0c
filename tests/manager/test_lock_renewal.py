"""A lock is renewed for as long as its block, and the task that it runs in."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session.errors import LockLost
from tests.manager.kit import World, settle, start
from tests.manager.lock_kit import Line, lease_of


@pytest.mark.usefixtures("eager")
async def test_the_lock_is_renewed_while_the_block_runs(world: World) -> None:
    """And each renewal lasts for `lease`."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=1.5):
        first = await lease_of(world, token)
        assert first is not None
        world.clock.ms += 1
        async with asyncio.timeout(5):
            while (later := await lease_of(world, token)) == first:
                await asyncio.sleep(0.001)
        assert later is not None
        assert later.length == 1500
        assert later.fence == first.fence
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


@pytest.mark.usefixtures("eager")
async def test_a_renewal_that_the_store_refuses_is_tried_again(world: World) -> None:
    """A store that is away for a moment costs nobody the lock."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=0.1):
        world.store.fail("save", times=2)
        renewed = await lease_of(world, token)
        world.clock.ms += 1
        async with asyncio.timeout(5):
            while await lease_of(world, token) == renewed:
                await asyncio.sleep(0.001)
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


@pytest.mark.usefixtures("eager")
async def test_a_long_hold_of_one_merges_with_nobody(world: World) -> None:
    """Its own renewals, and others that queue, are no changes of the data; and each way is one save."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=30):
        first = await lease_of(world, token)
        async with asyncio.timeout(5):
            while await lease_of(world, token) == first:
                await asyncio.sleep(0.001)
        await settle()
        world.store.calls.clear()
        session["n"] = 2
    assert world.store.counts() == {"save": 1}
    assert world.named("merged") == []


@pytest.mark.usefixtures("eager")
async def test_renewal_stops_with_the_task(world: World) -> None:
    """A task that has ended without leaving the block does not hold the lock for ever."""
    token = await world.new(n=1)
    session = await world.load(token)
    block = session.lock()
    await start(block.__aenter__())
    line = Line(world, token)
    await line.client("b", world.process())
    with pytest.raises(LockLost):
        session["n"] = 9
        await block.__aexit__(None, None, None)
    assert await world.read(token) == {"n": 2}


async def test_a_block_that_outlives_the_task_that_entered_first(world: World, eager: None) -> None:
    """The lock is the request's: it is renewed for the task that entered again."""
    token = await world.new(n=0)
    session = await world.load(token)
    inside, leave = asyncio.Event(), asyncio.Event()

    async def again() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()
            session["n"] += 1

    async def first() -> asyncio.Task[None]:
        async with session.lock(lease=0.1):
            task = start(again())
            await inside.wait()
        return task

    task = await first()
    before = await lease_of(world, token)
    assert before is not None

    async def renewed() -> None:
        while await lease_of(world, token) == before:
            await asyncio.sleep(0.001)

    await asyncio.wait_for(renewed(), 5)
    leave.set()
    await task
    assert await world.read(token) == {"n": 1}
