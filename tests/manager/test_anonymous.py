"""``on_unavailable="anonymous"``: while the store is away a session reads as empty."""

from __future__ import annotations

import pytest

from asgi_session import StoreUnavailable
from tests.inside import commit, status_of
from tests.manager.kit import World


@pytest.mark.parametrize("change", ["set", "destroy", "clear", "rotate"])
async def test_an_anonymous_session_refuses_changes(change: str) -> None:
    """Promise 11: going on anonymously while the store is away reads empty, and no change is dropped."""
    world = World(on_unavailable="anonymous")
    token = await world.new()
    world.store.fail("load", times=None)
    session = world.session(token)
    if change in ("set", "rotate"):
        assert dict(await session.load()) == {}
    match change:
        case "set":
            session["a"] = 1
        case "rotate":
            session.rotate()
        case "destroy":
            session.destroy()
        case _:
            session.clear()
            session["a"] = 1
    for explicit in (True, False):
        with pytest.raises(StoreUnavailable):
            await commit(world.manager, session, explicit=explicit)
    assert world.store.counts().get("save", 0) == world.store.counts().get("create", 0) == 0
    world.store.heal()
    assert await world.read(token) == {"old": 1}


async def test_an_anonymous_session_recovers() -> None:
    """Promise 11: refresh() loads it once the store is back, under what was set; else it says so."""
    world = World(on_unavailable="anonymous", deadline=0.2)
    token = await world.new(user="alice")
    world.store.fail("load", times=2)
    session = await world.load(token)
    assert (status_of(session), dict(session)) == ("anonymous", {})
    with pytest.raises(StoreUnavailable):
        await session.refresh()
    session["mine"] = 1
    await session.refresh()
    await session.commit()
    assert await world.read(token) == {"user": "alice", "mine": 1}


async def test_an_anonymous_session_cannot_transact() -> None:
    """Promise 11: nobody decides anything on data that could not be loaded."""
    world = World(on_unavailable="anonymous")
    token = await world.new()
    world.store.fail("load", times=None)
    session = await world.load(token)
    runs: list[object] = []
    with pytest.raises(StoreUnavailable):
        await session.transact(runs.append)
    assert runs == []
