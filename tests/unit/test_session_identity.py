"""Promise 8 where commits meet: nothing of a new identity reaches an old one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session
from tests.unit.world import World


@pytest.fixture
async def world() -> World:
    return World()


async def committing(session: Session, world: World) -> tuple[asyncio.Task[None], Any]:
    """Start a commit and stop it on its way to the store."""
    gate = world.store.pause(None, match=lambda call: call.verb in ("save", "create"))
    task = asyncio.create_task(session.commit())
    await gate.reached()
    return task, gate


@pytest.mark.parametrize("mark", ["rotate", "clear"])
async def test_a_batch_that_ends_an_identity_hands_nothing_of_it_to_the_others(
    mark: str, world: World
) -> None:
    """Promise 8: a write that left in one save with a login is not taken into the new identity."""
    cookie = await world.create(a=0)
    blocker, slow, login = [await world.load(cookie) for _ in range(3)]
    blocker["b"] = 1
    busy, gate = await committing(blocker, world)
    slow["s"] = 1
    waiting = asyncio.create_task(world.respond(slow))
    await asyncio.sleep(0)
    getattr(login, mark)()
    login["secret"] = "of the new identity"
    ending = asyncio.create_task(world.respond(login))
    await asyncio.sleep(0)
    gate.release()
    await asyncio.gather(busy, waiting, ending)
    assert "secret" not in dict(slow)
    slow["late"] = 1
    await world.respond(slow)
    stored = await world.stored(world.cookie(login))
    assert "late" not in stored
    assert stored["secret"] == "of the new identity"


async def test_a_lost_reply_behind_a_login_hands_over_nothing(world: World) -> None:
    """Promise 8: nor when a save's own success is only seen in the record of the new identity."""
    cookie = await world.create(a=0)
    slow = await world.load(cookie)
    login = await world.load(cookie)
    slow["s"] = 1
    world.store.fail("save", "lost reply")
    gate = world.store.pause("save", nth=2)
    saving = asyncio.create_task(world.respond(slow))
    await gate.reached()
    other = World()  # another process, on the same store
    other.memory, other.store.store, other.clock.ms = world.memory, world.memory, world.clock.ms
    login = await other.load(cookie)
    login.rotate()
    login["secret"] = 1
    await login.commit()
    gate.release()
    await saving
    assert "secret" not in dict(slow)
    slow["late"] = 1
    await world.respond(slow)
    assert await other.stored(other.cookie(login)) == {"a": 0, "s": 1, "secret": 1}


async def test_a_batch_that_ends_a_session_leaves_nobody_behind(world: World) -> None:
    """Promise 5: a write that left in one save with a logout cannot save to the ended record."""
    cookie = await world.create(a=0)
    blocker, slow, logout = [await world.load(cookie) for _ in range(3)]
    blocker["b"] = 1
    busy, gate = await committing(blocker, world)
    slow["s"] = 1
    waiting = asyncio.create_task(world.respond(slow))
    await asyncio.sleep(0)
    logout.destroy()
    ending = asyncio.create_task(world.respond(logout))
    await asyncio.sleep(0)
    gate.release()
    await asyncio.gather(busy, waiting, ending)
    slow["late"] = 1
    world.events.clear()
    await world.respond(slow)
    assert "saved" not in world.names()
    assert "dropped" in world.names()
