"""Commits that share a save, or whose reply was lost, when the identity changes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from asgi_session import Session
from tests.inside import commit, owed_by
from tests.manager.kit import World, credential, settle, start


def login_by_rotation(session: Session) -> None:
    session.rotate()
    session["user"] = "bob"


def login_by_clear(session: Session) -> None:
    session.clear()
    session["user"] = "bob"


def logout(session: Session) -> None:
    session.destroy()


MOVES = pytest.mark.parametrize("move", [login_by_rotation, login_by_clear, logout])


@MOVES
async def test_a_write_in_the_same_save_as_a_move(move: Callable[[Session], None]) -> None:
    """Promise 8: who was saved together with a login or logout does not come into the new identity."""
    world = World()
    token = await world.new(old=1)
    first, writer, mover = [await world.load(token) for _ in range(3)]
    first["first"] = 1
    gate = world.store.pause("save")
    tasks = [start(first.commit())]
    await gate.reached()
    writer["writer"] = 1
    move(mover)
    tasks += [start(writer.commit()), start(mover.commit())]
    await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert world.store.counts()["save"] == 2

    assert "user" not in writer, "the other identity's data"
    writer["late"] = 1
    await commit(world.manager, writer, explicit=False)
    stored = await world.record(token)
    assert stored is not None
    assert "late" not in stored.entries
    assert owed_by(writer) == "nothing"
    assert world.named("dropped")[-1]["keys"] == ["late"]


@MOVES
async def test_a_move_between_a_lost_reply_and_its_retry(move: Callable[[Session], None]) -> None:
    """Promise 8: a save that was applied and then overtaken is reported as done, and that is all."""
    world = World()
    token = await world.new(old=1)
    writer = await world.load(token)
    mover = await world.load(token, world.process())
    world.store.fail("save", "lost reply")
    retry = world.store.pause("save", nth=2)
    writer["writer"] = 1
    writing = start(writer.commit())
    await retry.reached()
    move(mover)
    await mover.commit()
    moved = await world.record(token)
    retry.release()
    await writing
    assert "user" not in writer
    assert writer["writer"] == 1
    writer["late"] = 1
    await commit(world.manager, writer, explicit=False)
    assert await world.record(token) == moved


@pytest.mark.parametrize("together", [True, False])
async def test_a_grace_rotation_that_a_login_has_undone_gets_no_cookie(together: bool) -> None:
    """Promise 14: no cookie for a token that was dead before its response left."""
    world = World()
    token = await world.new(old=1)
    rotating = await world.load(token)
    login = await world.load(token, world.manager if together else world.process())
    rotating.rotate(grace=15)
    login.rotate()
    if together:
        first = await world.load(token)
        first["first"] = 1
        gate = world.store.pause("save")
        tasks = [start(first.commit())]
        await gate.reached()
        tasks += [start(rotating.commit()), start(login.commit())]
        await settle()
        gate.release()
        await asyncio.gather(*tasks)
    else:
        world.store.fail("save", "lost reply")
        retry = world.store.pause("save", nth=2)
        commit = start(rotating.commit())
        await retry.reached()
        await login.commit()
        retry.release()
        await commit
    assert owed_by(login) == "cookie"
    assert owed_by(rotating) == "nothing"
    assert await world.read(credential(login)) is not None
    assert await world.read(token) is None


@pytest.mark.parametrize("ending", ["revoke", "destroy", "rotate"])
@pytest.mark.parametrize("order", ["mark first", "mark last"])
async def test_a_login_that_goes_on_in_a_new_record_takes_all_that_was_set(ending: str, order: str) -> None:
    """Promise 8: also a key that was set to the value it had; nothing that this request did not set."""
    world = World()
    token = await world.new(user_id=7, cart=["pear"], seen=1)
    session = await world.load(token)
    assert session["seen"] == 1
    other = await world.load(token, world.process())
    if ending == "revoke":
        assert await world.manager.revoke(session.id or "")
    else:
        getattr(other, ending)()
        await other.commit()
    if order == "mark first":
        session.rotate()
    session["user_id"] = 7
    session["fresh"] = True
    session["gone"] = 1
    del session["gone"]
    if order == "mark last":
        session.rotate()
    await session.commit()
    assert await world.read(credential(session)) == {"user_id": 7, "fresh": True}
    assert dict(session) == {"user_id": 7, "fresh": True}


async def test_a_login_of_nothing_but_what_was_there() -> None:
    """Promise 8: all that was set has the value it had, and the session is no more: it is not lost."""
    world = World()
    session = await world.load(await world.new(user_id=7, cart=["pear"]))
    await world.manager.revoke(session.id or "")
    session.rotate()
    session["user_id"] = 7
    await session.commit()
    assert await world.read(credential(session)) == {"user_id": 7}


async def test_what_was_set_and_saved_before_goes_along_and_what_was_discarded_does_not() -> None:
    """Promise 8: of one request, over several commits; others' values that a refresh brought stay behind."""
    world = World()
    token = await world.new(user_id=7, theirs=1, dropped="old")
    session = await world.load(token)
    session["saved"] = 1
    session["theirs"] = 2
    await session.commit()
    other = await world.load(token, world.process())
    other["theirs"] = 3
    await other.commit()
    await session.refresh()
    assert session["theirs"] == 3
    session["dropped"] = "new"
    session.discard()
    await world.manager.revoke(session.id or "")
    session.rotate()
    session["user_id"] = 7
    await session.commit()
    assert await world.read(credential(session)) == {"saved": 1, "user_id": 7}


async def test_a_living_record_gets_only_what_differs() -> None:
    """Promise 4: a key that is set to the value it had is no change, so another request's stays."""
    world = World(on_conflict="raise")
    token = await world.new(user_id=7, n=1)
    session = await world.load(token)
    other = await world.load(token, world.process())
    other["user_id"] = 8
    await other.commit()
    session.rotate()
    session["user_id"] = 7
    session["n"] = 2
    await session.commit()
    assert await world.read(credential(session)) == {"user_id": 8, "n": 2}
