"""`Session.refresh`, alone and beside loads, commits and endings of the same session."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session import SessionGone
from tests.inside import credential, owed_by, replaced_values, status_of
from tests.manager.kit import World, settle, start


async def test_clear_then_refresh_brings_nothing_back() -> None:
    """Promise 8: what clear() has left behind does not return with a refresh."""
    world = World()
    token = await world.new(user="alice", cart=["secret"])
    session = await world.load(token)
    session.clear()
    await session.refresh()
    session["user"] = "bob"
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_clear_during_a_refresh_brings_nothing_back() -> None:
    """Promise 8: the same while the refresh is on its way."""
    world = World()
    token = await world.new(user="alice")
    session = await world.load(token)
    gate = world.store.pause("load")
    refreshing = asyncio.create_task(session.refresh())
    await gate.reached()
    session.clear()
    session["user"] = "bob"
    gate.release()
    await refreshing
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_destroy_then_refresh_is_gone() -> None:
    """Promise 5: a destroyed session cannot be refreshed back, before or after its commit."""
    world = World()
    token = await world.new(user="alice")
    session = await world.load(token)
    session.destroy()
    with pytest.raises(SessionGone):
        await session.refresh()
    await session.commit()
    with pytest.raises(SessionGone):
        await session.refresh()
    assert dict(session) == {}


async def test_refresh_of_a_session_cleared_before_it_was_loaded() -> None:
    """A session that begins anew is newest already."""
    world = World()
    token = await world.new(user="alice")
    session = world.session(token)
    session.clear()
    session["user"] = "bob"
    assert await session.refresh() == {"user": "bob"}


async def test_refreshing_for_ever_keeps_nothing() -> None:
    """A WebSocket that only refreshes does not pile up the values that were replaced."""
    world = World()
    token = await world.new(log=[0])
    socket = await world.load(token)
    for number in range(20):
        other = await world.load(token)
        other["log"] = [number + 1]
        await other.commit()
        await socket.refresh()
        assert socket["log"] == [number + 1]
    assert replaced_values(socket) <= 1


async def test_refresh_beside_a_rotation_of_ones_own() -> None:
    """A refresh whose load meets the rotation that the same session is committing goes on with it."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    loading = world.store.pause("load")
    refreshing = start(session.refresh())
    await loading.reached()
    saving = world.store.pause("save", when="after")
    session.rotate()
    session["user"] = "bob"
    committing = start(session.commit())
    await saving.reached()
    loading.release()
    await settle()
    saving.release()
    await asyncio.gather(committing, refreshing)
    assert status_of(session) == "live"
    assert owed_by(session) == "cookie"
    assert dict(session) == {"old": 1, "user": "bob"}
    assert await world.read(credential(session)) == {"old": 1, "user": "bob"}


async def test_refresh_beside_a_commit_does_not_write_twice() -> None:
    """Promise 2: what a commit on its way has saved is no change any more after a refresh beside it."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    loading = world.store.pause("load")
    refreshing = start(session.refresh())
    await loading.reached()
    saving = world.store.pause("save")
    session["mine"] = 1
    committing = start(session.commit())
    await saving.reached()
    loading.release()
    await settle()
    saving.release()
    await asyncio.gather(committing, refreshing)
    assert not session.modified


async def test_refresh_sees_what_was_saved_while_a_commit_went_on_beside_it() -> None:
    """After a refresh the newest values are there, whatever its own commit did meanwhile."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    assert session["old"] == 1
    other = await world.load(token, world.process())
    other["old"] = 2
    await other.commit()
    loading = world.store.pause("load")
    refreshing = start(session.refresh())
    await loading.reached()
    session["mine"] = 1
    await session.commit()
    loading.release()
    await refreshing
    assert dict(session) == {"old": 2, "mine": 1}


async def test_refresh_while_a_commit_finds_the_session_gone() -> None:
    """A refresh that is overtaken by the news that the session is gone says so."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    loading = world.store.pause("load", when="after")
    refreshing = start(session.refresh())
    await loading.reached()
    await world.manager.revoke(token[:22])
    session["mine"] = 1
    with pytest.raises(SessionGone):
        await session.commit()
    loading.release()
    with pytest.raises(SessionGone):
        await refreshing
    assert len(world.named("dropped")) == 1


async def test_iterating_across_a_commit_that_merges() -> None:
    """Others' keys that come in with a commit do not break a loop over the session."""
    world = World()
    token = await world.new(a=1, b=2)
    session = await world.load(token)
    for number, _ in enumerate(session):
        other = await world.load(token)
        other[f"other{number}"] = 1
        await other.commit()
        session["mine"] = number
        await session.commit()
    assert "other0" in (await world.read(token) or {})
