"""Promise 17: the sessions of another namespace are not there, in no verb and from no side."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session import Session, SessionGone
from tests.inside import credential, is_listening, key_of, status_of
from tests.manager.kit import World, soon, start, until


@pytest.fixture
def world() -> World:
    return World(namespace="production")


async def made(world: World) -> Session:
    session = await world.session().load()
    session["n"] = 1
    await session.commit()
    return session


async def test_from_outside_a_request(world: World) -> None:
    """Promise 17: neither `lock` nor `revoke` of staging finds a session of production, by its id."""
    session = await made(world)
    assert session.id is not None
    for name in ("staging", "default"):
        other = world.process(namespace=name)
        with pytest.raises(SessionGone):
            async with other.lock(session.id):
                raise AssertionError("opened")
        assert not await other.revoke(session.id)
    again = await world.load(credential(session))
    assert dict(again) == {"n": 1}
    async with world.process().lock(session.id) as inside:
        inside["n"] += 1
    assert await world.process().revoke(session.id)


async def test_the_key_is_not_the_id(world: World) -> None:
    """Promise 17: no verb is called with another key than the derived one; events go by the id."""
    session = await made(world)
    token, key = credential(session), key_of(world.manager, session.id or "")
    again = await world.load(token)  # touches
    await world.manager.drain()
    again["n"] = 2
    await again.commit()
    await again.refresh()
    async with again.lock():
        await again.transact(lambda draft: draft.update(n=3))
    again.rotate()
    await again.commit()
    await world.manager.revoke(again.id or "")
    assert {call.key for call in world.store.calls} == {key}
    assert await world.memory.load(session.id or "", deadline=soon()) is None
    assert {event_id for _, event_id, _ in world.events} == {session.id}
    assert {"created", "touched", "saved", "locked", "released", "rotated", "revoked"} <= {
        name for name, _, _ in world.events
    }


async def test_a_lock_is_waited_for(world: World) -> None:
    """A wake-up names the key, and whoever waits knows its session by that."""
    session = await made(world)
    token, other = credential(session), world.process()
    holder, waiting = await world.load(token), await world.load(token, other)
    order: list[str] = []

    async def wait() -> None:
        async with waiting.lock():
            order.append("in")

    async with holder.lock():
        task = start(wait())
        await until(lambda: is_listening(other))
        order.append("out")
    async with asyncio.timeout(1):
        await task
    assert order == ["out", "in"]
    assert {event_id for _, event_id, _ in world.events} == {session.id}


async def test_a_cookie_of_another_namespace_is_simply_unknown() -> None:
    """Promise 8: staging's cookie is no error in production, and costs no connection."""
    world = World()
    staging = world.process(namespace="staging")
    session = await world.session(manager=staging).load()
    session["a"] = 1
    await session.commit()
    token = credential(session)  # type: ignore[arg-type]
    found = await world.load(token)
    assert (status_of(found), dict(found)) == ("new", {})
    assert world.store.distrusted == []
