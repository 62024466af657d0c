"""Leaving a block of the lock otherwise than well: errors, of the app and of the store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session
from asgi_session.errors import SessionError, SessionSerializationError, SessionTooLarge, StoreUnavailable
from tests.inside import seal, wake_up
from tests.manager.kit import World, settle, start
from tests.manager.lock_kit import lease_of, self_increment


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, OSError])
async def test_an_error_in_the_block_discards_what_was_changed_in_it(
    world: World, error: type[BaseException]
) -> None:
    """It must not be merged later, without the lock."""
    token = await world.new(n=1, cart=[1])
    session = await world.load(token)
    with pytest.raises(error):
        async with session.lock():
            session["n"] = 2
            session["cart"].append(2)
            session["more"] = 3
            session.rotate()
            raise error
    assert dict(session) == {"n": 1, "cart": [1]}
    assert not session.modified
    session["after"] = 1
    await session.commit()
    await world.manager.drain()
    assert await world.read(token) == {"n": 1, "cart": [1], "after": 1}
    assert await lease_of(world, token) is None


async def test_a_destroy_in_the_block_is_not_discarded(world: World) -> None:
    """An explicit destroy() is carried out whatever happens."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(ZeroDivisionError):
        async with session.lock():
            session.destroy()
            raise ZeroDivisionError
    await session.commit()
    assert await world.read(token) is None


async def test_the_reply_to_the_last_save_is_lost(world: World) -> None:
    """Promise 7: it was applied, which is found out; and released."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] += 1
        world.store.fail("save", "lost reply")
    assert await world.read(token) == {"n": 2}
    assert await lease_of(world, token) is None


async def test_the_last_save_is_refused(world: World) -> None:
    """The error comes out, the changes are forgotten, the lock is released as soon as possible."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            session["n"] += 1
            world.store.fail("save")
    assert not session.modified
    assert session["n"] == 1
    await world.manager.drain()
    assert await lease_of(world, token) is None


@pytest.mark.parametrize(
    ("value", "error"), [("x" * 90_000, SessionTooLarge), (object(), SessionSerializationError)]
)
async def test_what_cannot_be_stored(world: World, value: Any, error: type[SessionError]) -> None:
    """As above: an error, nothing written, released."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(error):
        async with session.lock():
            session["n"] = value
    assert session["n"] == 1
    await world.manager.drain()
    assert await lease_of(world, token) is None


async def test_the_lock_cannot_be_taken(world: World) -> None:
    """The store's error for all who wait; and the next one starts afresh."""
    token = await world.new(n=1)
    sessions = [await world.load(token) for _ in range(2)]
    gate = world.store.pause("save")
    world.store.fail("save")

    async def work(session: Session) -> None:
        async with session.lock():
            pytest.fail("entered")

    tasks = [start(work(session)) for session in sessions]
    await gate.reached()
    await settle()
    gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert results[0] is not results[1], "a traceback belongs to one request"
    async with sessions[0].lock(wait=0):
        pass


async def test_what_failed_in_a_block_of_a_new_session_is_not_saved_later(world: World) -> None:
    """As for one that is stored."""
    session = world.session()
    await session.load()
    world.store.fail("create")
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            session["paid"] = 1
    assert dict(session) == {}


async def test_data_that_comes_too_late_for_its_cookie(world: World) -> None:
    """At the end of a block it is called that, as by `commit`."""
    session = world.session()
    await session.load()
    seal(session)
    with pytest.raises(SessionError, match="after the response had started"):
        async with session.lock():
            session["x"] = 1


@pytest.mark.parametrize("woken", [False, True])
async def test_a_grant_whose_release_failed_is_good_for_nobody_else(world: World, woken: bool) -> None:
    """Promise 12: who is let in next, in the same process, has a fence of its own."""
    token = await world.new(n=1)
    first, second = await world.load(token), await world.load(token)
    with pytest.raises(ZeroDivisionError):
        async with first.lock():
            world.store.fail("save", times=1)
            raise ZeroDivisionError
    await world.manager.drain()
    assert await lease_of(world, token) is not None  # it could not be released
    if woken:
        gate = world.store.pause("load")
        wake_up(world.manager, token[:22])
        entering = start(self_increment(second))
        await gate.reached()
        gate.release()
        await entering
    else:
        await self_increment(second)
    assert await world.read(token) == {"n": 2}
    fences = [info["fence"] for info in world.named("locked")]
    assert len({*fences}) == 2
