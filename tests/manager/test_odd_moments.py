"""Loads, refreshes and commits of one session that overlap, and answers that make no sense."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asgi_session.errors import SessionCorrupt, SessionGone, StoreUnavailable
from tests.inside import commit, is_committing, owed_by, seal, status_of
from tests.manager.kit import World, credential, settle, soon, start


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


async def test_clear_and_commit_while_a_load_is_on_its_way() -> None:
    """What is set after clear() stays, though a load that began before ends after it."""
    world = World()
    token = await world.new()
    session = world.session(token)
    slow = world.store.pause("load")
    loading = start(session.load())
    await slow.reached()
    session.clear()
    session["user"] = "bob"
    committing = start(session.commit())
    await settle()
    slow.release()
    await asyncio.gather(loading, committing)
    assert dict(session) == {"user": "bob"}
    assert await world.read(credential(session)) == {"user": "bob"}
    assert not session.modified


async def test_a_login_while_a_commit_finds_the_session_gone() -> None:
    """clear() and what follows are not lost with a commit on its way that turns out to be too late."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.manager.revoke(token[:22])
    saving = world.store.pause("save")
    session["late"] = 1
    committing = start(session.commit())
    await saving.reached()
    session.clear()
    session["user"] = "bob"
    saving.release()
    with pytest.raises(SessionGone):
        await committing
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


@pytest.mark.parametrize("how", ["conflict", "refresh"])
async def test_another_sessions_record(how: str) -> None:
    """An answer that is another session's record is SessionCorrupt, and its connection is dropped."""
    world = World()
    token, other = await world.new(), await world.new(secret="theirs")
    session = await world.load(token)
    wrong = await world.memory.load(other[:22], deadline=soon())
    assert wrong is not None
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], wrong.data, wrong.expires_at, deadline=soon())
    session["mine"] = 1
    with pytest.raises(SessionCorrupt):
        await (session.commit() if how == "conflict" else session.refresh())
    assert world.store.distrusted == [token[:22]]
    assert "secret" not in session
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    assert stored.data == wrong.data, "it stays as it is"


async def test_unreadable_bytes_in_a_conflict() -> None:
    """Promise 10: a conflict with bytes that cannot be read fails the commit, and they stay."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], b"x" * 40, world.clock() + 1000, deadline=soon())
    session["mine"] = 1
    with pytest.raises(SessionCorrupt, match=token[:22]):
        await session.commit()
    assert not is_committing(session)
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    assert stored.data == b"x" * 40


async def test_a_touch_that_a_foreign_store_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a touch raises is an event: no request fails, no task ends with an error nobody saw."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()

    async def broken(*args: object, **options: object) -> bool:
        raise ConnectionResetError("foreign")

    world.memory.touch = broken  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.ERROR):
        await world.load(credential(session))
        await world.manager.drain()
    assert isinstance(world.named("touch_failed")[0]["error"], ConnectionResetError)
    assert not caplog.records


@pytest.mark.parametrize("verb", ["save", "create"])
async def test_what_a_foreign_store_raises_reaches_the_commit(verb: str) -> None:
    """An exception that is none of ours fails the commit; the next one works."""
    world = World()
    token = await world.new()
    session = await (world.load(token) if verb == "save" else world.session().load())

    async def broken(*args: object, **options: object) -> None:
        raise ConnectionResetError("foreign")

    right = getattr(world.memory, verb)
    setattr(world.memory, verb, broken)
    session["mine"] = 1
    with pytest.raises(ConnectionResetError):
        await session.commit()
    await world.manager.drain()
    setattr(world.memory, verb, right)
    await session.commit()
    assert (await world.read(credential(session)) or {})["mine"] == 1


async def test_a_rotation_whose_response_will_never_leave() -> None:
    """Promise 14: a rotation is not carried out when its cookie can no longer reach the client."""
    world = World(save_on_error=True)
    token = await world.new()
    session = await world.load(token)
    session.rotate()
    session["user"] = "bob"
    seal(session)  # as when the request was cancelled before its response started
    await commit(world.manager, session, explicit=False)
    assert await world.read(token) == {"old": 1}
    assert world.named("dropped")[-1]["reason"] == "late"
    await commit(world.manager, session, explicit=False)
    assert await world.read(token) == {"old": 1}


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


async def test_shutdown_waits_for_commits_of_living_requests() -> None:
    """drain() ends when the commits that requests wait for have ended, those that begin anew, too."""
    world = World()
    token, other = await world.new(), await world.new()
    plain, login = await world.load(token), await world.load(other)
    await world.manager.revoke(other[:22])
    saving = world.store.pause("save", times=None)
    creating = world.store.pause("create")
    plain["a"] = 1
    login.clear()
    login["user"] = "bob"
    commits = [start(plain.commit()), start(login.commit())]
    await saving.reached(2)
    draining = start(world.manager.drain())
    await settle()
    assert not draining.done()
    saving.release()
    await creating.reached()
    await settle()
    assert not draining.done()
    creating.release()
    await draining
    await asyncio.gather(*commits)
    assert await world.read(credential(login)) == {"user": "bob"}


async def test_a_login_that_fails_to_begin_anew_can_be_tried_again() -> None:
    """Promise 5: a login whose session ended, and whose new one could not be stored, is not half done."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.manager.revoke(token[:22])
    session.rotate()
    session["user"] = "bob"
    world.store.fail("create")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert owed_by(session) == "nothing"
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}
    assert dict(session) == {"user": "bob"}, "nothing of the identity that has ended"
