"""Cancelled while it waits for a lock, takes it, has it or gives it back."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session import SessionManager
from tests.inside import is_listening, locks_in_use, waiters_for
from tests.manager.kit import World, settle, start, until
from tests.manager.lock_kit import Line, lease_of


async def test_cancelled_while_it_waits(world: World) -> None:
    """The one behind it gets its place."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    leaving = await line.queue("b", other)
    staying = await line.queue("c", other)
    leaving.cancel()
    gate.set()
    await asyncio.gather(first, staying)
    assert line.entered == ["a", "c"]
    assert leaving.cancelled()


@pytest.mark.parametrize("others", [False, True])
async def test_cancelled_while_it_takes_the_lock(world: World, others: bool) -> None:
    """What its save brings is for who waits behind it, or is given back."""
    token = await world.new(n=0)
    line = Line(world, token)
    gate = world.store.pause("save")
    taking = start(line.client("a", world.manager))
    await gate.reached()
    waiting = [await start_waiting(line, "b", world.manager)] if others else []
    taking.cancel()
    await settle()
    gate.release()
    await asyncio.gather(*waiting)
    await world.manager.drain()
    assert taking.cancelled()
    assert line.entered == (["b"] if others else [])
    assert await lease_of(world, token) is None
    assert locks_in_use(world.manager) == 0


async def start_waiting(line: Line, name: str, manager: SessionManager) -> asyncio.Task[None]:
    task = start(line.client(name, manager))
    await settle()
    return task


async def test_cancelled_at_the_moment_it_is_let_in(world: World) -> None:
    """The lock is passed on, not forgotten."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", world.manager)
    third = await line.queue("c", world.manager)
    gate.set()
    while waiters_for(world.manager, token) > 1:
        await asyncio.sleep(0)
    assert line.entered == ["a"], "it has been let in, and does not know it yet"
    second.cancel()
    await asyncio.gather(first, third)
    assert line.entered == ["a", "c"]
    assert second.cancelled()


async def test_a_grant_to_a_process_where_nobody_waits_any_more_is_passed_on(world: World) -> None:
    """Even when leaving the queue has failed: the wake-up finds nobody, and the next gets the lock."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    b, c = world.process(), world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    leaving = await line.queue("b", b)
    await until(lambda: is_listening(b))
    staying = await line.queue("c", c)
    await settle()
    world.store.fail("save")
    leaving.cancel()
    await settle()
    lease = await lease_of(world, token)
    assert lease is not None
    assert len(lease.queue) == 2, "it could not leave"
    gate.set()
    await asyncio.gather(first, staying)
    assert await world.read(token) == {"n": 2}


async def test_cancelled_while_it_commits_and_releases(world: World) -> None:
    """The save goes on without the request: applied once, and released."""
    token = await world.new(n=1)
    session = await world.load(token)
    gate = world.store.pause("save", nth=2)

    async def work() -> None:
        async with session.lock():
            session["n"] += 1

    task = start(work())
    await gate.reached()
    task.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    assert task.cancelled()
    assert await world.read(token) == {"n": 2}
    assert await lease_of(world, token) is None


async def test_cancelled_while_it_commits_in_vain() -> None:
    """What could not be saved under the lock is not merged later without it."""
    world = World(deadline=0.2)
    token = await world.new(n=1)
    session = await world.load(token)
    gate = world.store.pause("save", nth=2)
    world.store.fail("save", nth=3, times=None)

    async def work() -> None:
        async with session.lock():
            session["n"] += 1

    task = start(work())
    await gate.reached()
    task.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    world.store.heal()
    assert not session.modified
    await session.commit()
    assert await world.read(token) == {"n": 1}
