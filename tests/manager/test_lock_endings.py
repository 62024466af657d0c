"""Locks of sessions that do not exist yet, end, or get another identity meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session.errors import SessionGone
from tests.inside import look_again
from tests.manager.kit import World, credential, settle, start
from tests.manager.lock_kit import Line, held_by_somebody, lease_of, put


async def test_a_session_that_does_not_exist_yet_is_not_created_by_its_lock(world: World) -> None:
    """Nothing goes to the store until there is something to keep."""
    session = world.session()
    async with session.lock():
        assert session.is_new
    assert world.store.calls == []
    async with session.lock():
        session["n"] = 1
    assert world.store.counts() == {"create": 1}
    token = credential(session)
    assert await world.read(token) == {"n": 1}
    assert await lease_of(world, token) is None


async def test_a_session_created_in_the_block_is_locked_from_the_start(world: World) -> None:
    """An explicit commit in the block creates it with the lock taken."""
    session = world.session()
    async with session.lock():
        session["n"] = 0
        await session.commit()
        token = credential(session)
        assert await lease_of(world, token) is not None
        waiter = await Line(world, token).queue("b", world.process())
        session["n"] = 1
    await waiter
    assert await world.read(token) == {"n": 2}


async def test_a_session_that_is_gone_at_entry(world: World) -> None:
    """Ended, revoked, or overtaken by a login: never a lock on something else."""
    token = await world.new(n=1)
    sessions = [await world.load(token) for _ in range(3)]
    ending = await world.load(token)
    ending.destroy()
    await ending.commit()
    for session in sessions[:2]:
        with pytest.raises(SessionGone):
            async with session.lock():
                pytest.fail("entered")
        assert dict(session) == {}
    await world.manager.revoke(token[:22])
    with pytest.raises(SessionGone):
        async with sessions[2].lock():
            pytest.fail("entered")


async def test_the_holder_ends_the_session(world: World) -> None:
    """Who waits is told at once."""
    token = await world.new(n=1)
    holder = await world.load(token)
    line = Line(world, token)
    async with holder.lock():
        waiters = [await line.queue("a", world.manager), await line.queue("b", world.process())]
        holder.destroy()
    for waiter in waiters:
        with pytest.raises(SessionGone):
            await waiter
    assert line.entered == []


async def test_another_request_ends_the_session(world: World) -> None:
    """The holder's changes go nowhere, and it is told; so is who waits."""
    token = await world.new(n=1)
    holder = await world.load(token)
    line = Line(world, token)
    with pytest.raises(SessionGone):
        async with holder.lock():
            waiter = await line.queue("b", world.process())
            ending = await world.load(token, world.process())
            ending.destroy()
            await ending.commit()
            holder["n"] = 2
    with pytest.raises(SessionGone):
        await waiter
    assert await world.read(token) is None


async def test_a_login_overtakes_the_holder(world: World) -> None:
    """Promise 8: nothing written under the old identity reaches the new one; the lock is released."""
    token = await world.new(n=1)
    holder = await world.load(token)
    with pytest.raises(SessionGone):
        async with holder.lock():
            login = await world.load(token, world.process())
            login.rotate()
            await login.commit()
            assert await lease_of(world, token) is not None
            holder["n"] = 2
    await world.manager.drain()
    assert await lease_of(world, token) is None
    assert await world.read(credential(login)) == {"n": 1}


async def test_a_login_under_the_lock(world: World) -> None:
    """A rotation is carried out, and the lock released, in the one save."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        world.store.calls.clear()
        session.rotate()
        session["n"] = 2
    assert world.store.counts() == {"save": 1}
    assert await lease_of(world, token) is None
    assert await world.read(credential(session)) == {"n": 2}
    assert await world.read(token) is None


@pytest.mark.parametrize("end", ["destroy", "revoke", "rotate"])
async def test_who_waits_is_told_that_the_session_has_ended(world: World, end: str) -> None:
    """At once, also in the process in which it was ended, by a request without the lock."""
    token = await world.new(n=1)
    await held_by_somebody(world, token)
    line = Line(world, token)
    waiter = await line.queue("a", world.manager)
    if end == "revoke":
        await world.manager.revoke(token[:22])
    else:
        session = await world.load(token)
        getattr(session, end)()
        await session.commit()
        if end == "rotate":  # the lock is still somebody's; its end is what the waiter waits for
            await put(world, credential(session), None)
            look_again(world.manager, token)
    async with asyncio.timeout(1):
        with pytest.raises(SessionGone):
            await waiter


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_session_that_begins_anew_in_the_block(world: World, revoked: bool) -> None:
    """The lock goes on with the new one; who waited for the old one is told that it is gone."""
    token = await world.new(n=0)
    session, waiter = await world.load(token), await world.load(token, world.process())
    async with session.lock():
        waiting = start(waiter.lock().__aenter__())
        await settle()
        if revoked:
            await world.manager.revoke(token[:22])
        session.clear()
        if revoked:
            session["w"] = 1
        await session.commit()
        session["x"] = 1
        await session.commit()
        session["y"] = 2
        assert await lease_of(world, credential(session)) is not None
    stored = await world.read(credential(session))
    assert stored is not None
    assert stored.items() >= {"x": 1, "y": 2}.items()
    assert await lease_of(world, credential(session)) is None
    if not revoked:
        with pytest.raises(SessionGone):
            await asyncio.wait_for(waiting, 5)
    waiting.cancel()
