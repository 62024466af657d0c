"""Rotation with a grace: what is saved, and how often; lost replies, crashes, two processes."""

from __future__ import annotations

import pytest

from asgi_session import Session
from tests.inside import commit, credential, status_of
from tests.manager.kit import World, settle, start


async def rotated(world: World, grace: float = 15) -> tuple[str, str]:
    """Return the old and the new token of a session that was rotated; no client has seen the new one."""
    token = await world.new(a=1)
    session = await world.load(token)
    session.rotate(grace=grace)
    await session.commit()
    world.store.calls.clear()
    world.events.clear()
    return token, credential(session)


async def come_back(world: World, token: str) -> Session:
    session = await world.load(token)
    await world.manager.drain()
    return session


async def test_being_seen_is_one_save_more() -> None:
    """Promise 2: it is saved once that a new credential has come back, in the place of a touch."""
    world = World()
    _, new = await rotated(world)
    world.clock.advance(86400)  # a touch is due
    await come_back(world, new)
    assert world.store.counts() == {"load": 1, "save": 1}
    expiry = await world.expiry(new)
    assert expiry == world.clock() + 14 * 86_400_000
    assert world.events == [("touched", new[:22], {"expires_at": expiry})]
    await come_back(world, new)
    assert world.store.counts() == {"load": 2, "save": 1}


async def test_nobody_waits_for_it() -> None:
    """A request that brings a new credential is served while the save that notes it is on its way."""
    world = World()
    _, new = await rotated(world)
    gate = world.store.pause("save")
    first = await world.load(new)
    second = await world.load(new)
    await gate.reached()
    assert dict(first) == dict(second) == {"a": 1}
    gate.release()
    await world.manager.drain()
    assert world.store.counts() == {"load": 2, "save": 1}, "one in flight per session"


async def test_a_write_with_a_new_credential() -> None:
    """Promise 2: load, note, write: no save meets a conflict with the other."""
    world = World()
    _, new = await rotated(world)
    session = await world.load(new)
    session["b"] = 2
    await commit(world.manager, session, explicit=False)
    await world.manager.drain()
    assert world.store.counts() == {"load": 1, "save": 2}
    assert [info["tries"] for info in world.named("saved")] == [1]
    later = await come_back(world, new)
    later["c"] = 3
    await later.commit()
    assert world.store.counts() == {"load": 2, "save": 3}
    assert await world.read(new) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("how", ["lost reply", "never sent"])
async def test_a_note_that_fails(how: str) -> None:
    """Promise 7: applied without a reply it counts once; not applied, the next request notes it."""
    world = World()
    old, new = await rotated(world)
    if how == "lost reply":
        world.store.fail("save", "lost reply")
        await come_back(world, new)
    else:
        gate = world.store.pause("save")
        lost = start(world.manager.drain())
        await world.load(new, world.process())  # a process that dies now
        await settle()
        await lost
        del gate
        world.store.calls.clear()
        world.clock.advance(3600)
        assert await world.read(old) == {"a": 1}, "the old one is good until then"
    await come_back(world, new)
    world.clock.advance(15)
    assert await world.read(old) is None
    assert await world.read(new) == {"a": 1}


async def test_two_processes_note_it() -> None:
    """Of two processes that a new credential comes back to, one notes it; the other finds that done."""
    world = World()
    old, new = await rotated(world)
    one, other = world.process(), world.process()
    await world.load(new, one)
    await world.load(new, other)
    await one.drain()
    await other.drain()
    record = await world.record(new)
    assert record is not None
    assert record.version == 3, "created, rotated, noted"
    world.clock.advance(14.999)
    assert await world.read(old) == {"a": 1}


async def test_what_comes_too_late_is_replayed() -> None:
    """Promise 8: a cookie that was replaced for good reads nothing, is reported, and sets no cookie."""
    world = World()
    old, new = await rotated(world)
    await come_back(world, new)
    world.clock.advance(15)
    world.events.clear()
    session = await world.load(old)
    assert (dict(session), status_of(session)) == ({}, "detached")
    session["b"] = 2
    await commit(world.manager, session, explicit=False)
    world.clock.advance(60)
    assert status_of(await world.load(old)) == "new", "later it can begin another session, under another id"
    assert [(name, id) for name, id, _ in world.events if name != "dropped"] == [("replayed", old[:22])] * 2
    assert await world.read(new) == {"a": 1}


async def test_a_replay_may_end_the_session() -> None:
    """With on_replay="end" nobody goes on with a session whose replaced cookie was presented."""
    world = World(on_replay="end")
    old, new = await rotated(world)
    await come_back(world, new)
    world.clock.advance(15)
    world.events.clear()
    await come_back(world, old)
    assert [name for name, *_ in world.events] == ["replayed", "ended"]
    assert await world.read(new) is None
    assert await world.read(old) is None


async def test_a_replay_whose_ending_fails() -> None:
    """The event tells that the session goes on; the next replay ends it."""
    world = World(on_replay="end", deadline=0.05)
    old, new = await rotated(world)
    await come_back(world, new)
    world.clock.advance(15)
    world.events.clear()
    world.store.fail("save", times=None)
    await come_back(world, old)
    assert [name for name, *_ in world.events] == ["replayed", "failed"]
    world.store.heal()
    await come_back(world, old)
    assert await world.read(new) is None


async def test_the_guesses_of_a_stranger_end_nothing() -> None:
    """Only a credential that was good once is replayed: a made-up one with the right id is unknown."""
    world = World(on_replay="end")
    _, new = await rotated(world)
    await come_back(world, new)
    world.clock.advance(75)
    world.events.clear()
    await come_back(world, new[:22] + "A" * 22)
    assert [name for name, *_ in world.events] == ["unknown"]
    assert await world.read(new) == {"a": 1}
