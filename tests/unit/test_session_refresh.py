"""refresh(): the newest data under my uncommitted changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import SessionGone, StoreUnavailable
from tests.unit.world import World


@pytest.fixture
async def world() -> World:
    return World()


async def test_what_others_saved_is_taken_over(world: World) -> None:
    """Changed values are replaced, read or not; deleted keys go, new ones come; equal ones stay."""
    cookie = await world.create(read=[0], unread=[0], gone=[0], same=[0])
    session = await world.load(cookie)
    read, same, _ = session["read"], session["same"], session["gone"]
    await world.write(cookie, read=[1], unread=[1], gone=None, new=[1])
    assert await session.refresh() is session
    assert session == {"read": [1], "unread": [1], "same": [0], "new": [1]}
    assert session["read"] is not read
    assert session["same"] is same
    assert not session.modified


async def test_my_changes_stay_on_top(world: World) -> None:
    """Promise 4: what I have not committed yet survives, and is committed over the newest data."""
    cookie = await world.create(mine=0, deleted=0, both_deleted=0, nested=[0], theirs=0, against=0)
    session = await world.load(cookie)
    session["mine"], session["new"], session["against"] = 1, 1, 1
    del session["deleted"], session["both_deleted"]
    session["nested"].append(1)
    await world.write(cookie, mine=2, new=2, deleted=2, both_deleted=None, nested=[2], theirs=2, against=None)
    await session.refresh()
    expected = {"mine": 1, "nested": [0, 1], "theirs": 2, "against": 1, "new": 1}
    assert session == expected
    assert session.modified
    await session.commit()
    assert not session.modified
    assert await world.stored(cookie) == expected


async def test_a_replaced_value_that_changes_is_reported(world: World) -> None:
    """Who changes an object from before a refresh is told; the change is not saved."""
    cookie = await world.create(a=[0], b=[0])
    session = await world.load(cookie)
    old, unused = session["a"], session["b"]
    await world.write(cookie, a=[1], b=[1])
    await session.refresh()
    old.append("lost")
    world.events.clear()
    await session.commit()
    assert [info for name, info in world.events if name == "stale_value"] == [{"key": "a"}]
    assert unused == [0]
    assert await world.stored(cookie) == {"a": [1], "b": [1]}
    world.events.clear()
    old.append("again")
    await session.commit()
    assert "stale_value" not in world.names()  # told once


async def test_a_kept_value_can_still_be_changed(world: World) -> None:
    """Promise 3: a list that nobody else changed is the same list after a refresh, and is watched."""
    cookie = await world.create(a=[0], b=0)
    session = await world.load(cookie)
    held = session["a"]
    await world.write(cookie, b=1)
    await session.refresh()
    held.append(1)
    await session.commit()
    assert await world.stored(cookie) == {"a": [0, 1], "b": 1}


async def test_setting_the_replaced_value_again_is_a_change(world: World) -> None:
    """A value put back deliberately is a change against what the store now has."""
    cookie = await world.create(a=[0])
    session = await world.load(cookie)
    old = session["a"]
    await world.write(cookie, a=[1])
    await session.refresh()
    session["a"] = old
    await session.commit()
    assert await world.stored(cookie) == {"a": [0]}


async def test_refresh_loads_the_unloaded_and_leaves_the_new(world: World) -> None:
    """On an unloaded session it is load(); on a new one there is nothing to ask for."""
    cookie = await world.create(a=1)
    assert await world.request(cookie).refresh() == {"a": 1}
    assert world.store.counts() == {"load": 1}
    session = await world.load()
    session["b"] = 1
    assert await session.refresh() == {"b": 1}
    assert world.store.counts() == {"load": 1}


@pytest.mark.parametrize("how", ["revoke", "destroy", "clear", "rotate", "expire"])
async def test_refresh_of_what_is_gone(how: str, world: World) -> None:
    """Promise 8: when the session has ended or moved on, refresh says so and shows nothing of it."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session["b"] = 2
    other = await world.load(cookie)
    if how == "revoke":
        assert other.id is not None
        await world.manager.revoke(other.id)
    elif how == "expire":
        world.clock.advance(100 * 86400)
    else:
        getattr(other, how)()
        if how == "clear":
            other["secret"] = 1
        await other.commit()
    with pytest.raises(SessionGone):
        await session.refresh()
    assert (session, session.modified, session.id) == ({}, False, None)
    assert "dropped" in world.names()


async def test_a_grace_rotation_is_no_obstacle(world: World) -> None:
    """The data's identity is the same, so a refresh goes on."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    other = await world.load(cookie)
    other.rotate(grace=15)
    other["b"] = 2
    await other.commit()
    assert await session.refresh() == {"a": 1, "b": 2}


async def test_a_failed_refresh_changes_nothing(world: World) -> None:
    """With the store away the session stays as it was, changes included."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session["b"] = 2
    world.store.fail("load")
    with pytest.raises(StoreUnavailable):
        await session.refresh()
    assert session == {"a": 1, "b": 2}
    await session.commit()
    assert await world.stored(cookie) == {"a": 1, "b": 2}


@pytest.mark.parametrize("change", ["set", "delete", "nested", "new"])
async def test_a_change_during_the_refresh_stays(change: str, world: World) -> None:
    """Promise 3: what is changed while the refresh is on its way is a change of mine like any other."""
    cookie = await world.create(a=[0], b=0)
    session = await world.load(cookie)
    held: list[Any] = session["a"]
    await world.write(cookie, b=1)
    gate = world.store.pause("load")
    refreshing = asyncio.create_task(session.refresh())
    await gate.reached()
    expected: dict[str, Any] = {"a": [0], "b": 1}
    if change == "set":
        session["a"] = expected["a"] = 5
    elif change == "delete":
        del session["a"], expected["a"]
    elif change == "nested":
        held.append(1)
        expected["a"] = [0, 1]
    else:
        session["n"] = expected["n"] = 1
    gate.release()
    await refreshing
    assert session == expected
    await session.commit()
    assert await world.stored(cookie) == expected


async def test_a_commit_that_overtakes_a_refresh(world: World) -> None:
    """Promise 4: a refresh whose answer is older than a commit since takes nothing back."""
    cookie = await world.create(a=0, b=0)
    session = await world.load(cookie)
    gate = world.store.pause("load", when="after")
    refreshing = asyncio.create_task(session.refresh())
    await gate.reached()
    session["a"] = 1
    await session.commit()
    gate.release()
    await refreshing
    assert (session["a"], session.modified) == (1, False)
    assert await world.stored(cookie) == {"a": 1, "b": 0}


async def test_what_both_have_deleted_is_no_change(world: World) -> None:
    """Promise 2: a deletion that another request has saved already is not saved again."""
    cookie = await world.create(a=0, b=0)
    session = await world.load(cookie)
    del session["a"]
    await world.write(cookie, a=None)
    await session.refresh()
    assert not session.modified


async def test_a_refresh_that_overtakes_a_commit(world: World) -> None:
    """Promise 4: a commit on its way during a refresh is not written a second time over a later value."""
    cookie = await world.create(a=0, b=0)
    session = await world.load(cookie)
    gate = world.store.pause("load", when="after")
    refreshing = asyncio.create_task(session.refresh())
    await gate.reached()
    session["a"] = 1
    saving_gate = world.store.pause("save")
    saving = asyncio.create_task(session.commit())
    await saving_gate.reached()
    gate.release()
    await asyncio.sleep(0)
    saving_gate.release()
    await asyncio.gather(refreshing, saving)
    await world.write(cookie, a=2)
    session["b"] = 1
    await session.commit()
    assert await world.stored(cookie) == {"a": 2, "b": 1}
