"""`clear()` ends the session, and what is set afterwards begins another, under another id.

Ending comes first: whatever fails in between leaves the user signed out, and nothing half done. More of it:
`test_session_marks` (what it keeps, and how it goes with other marks), `test_beginning_anew` and
`test_identities_in_one_save` (no value of the old identity), the `test_interleavings_*` (beside all other
requests), `test_anonymous`, `test_full` and `test_cancellation`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionManager
from asgi_session.errors import (
    LockLost,
    SessionError,
    SessionGone,
    SessionSerializationError,
    SessionTooLarge,
    StoreUnavailable,
)
from tests.inside import (
    commit,
    credential,
    fail_no_more,
    has_token,
    key_of,
    keys_in,
    new_session,
    owed_by,
    seal,
    status_of,
    tasks_of,
)
from tests.manager.kit import World, settle, start
from tests.manager.lock_kit import Line, held_by_somebody, lease_of, put
from tests.manager.test_cancellation import SlowWorld, cancel_after, walk
from tests.servers import start_valkey


def log_in(session: Session, user: str = "ada") -> None:
    """Do what a login does that was written for Starlette."""
    session.clear()
    session["user"] = user


def told(world: World) -> list[tuple[str, str | None]]:
    """Return the names and ids of the events, in order."""
    return [(name, session_id) for name, session_id, _ in world.events]


def verbs(world: World) -> list[str]:
    """Return what the store was asked, in order."""
    return [call.verb for call in world.store.calls]


# ---------------------------------------------------------------- as it should go


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
async def test_the_old_ends_before_the_new_is_created(world: World, loaded: bool, explicit: bool) -> None:
    """Promise 8: whoever comes next in that browser has another id, and each id has its own events."""
    token = await world.new(cart=[1])
    session = world.session(token)
    if loaded:
        await session.load()
    log_in(session)
    await commit(world.manager, session, explicit=explicit)
    assert verbs(world) == ["load", "save", "create"]
    assert session.id not in (None, token[:22])
    assert told(world) == [("ended", token[:22]), ("created", session.id)]
    assert owed_by(session) == "cookie"
    assert await world.read(token) is None
    assert await world.read(credential(session)) == {"user": "ada"}


async def test_signing_out_by_the_old_id_does_not_sign_out_who_came_next(world: World) -> None:
    """Promise 8: "my other devices" are revoked by id, and the id of before is nobody's any more."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    await session.commit()
    await world.manager.revoke(token[:22])
    assert await world.read(credential(session)) == {"user": "ada"}


async def test_the_old_cookie_is_detached_for_a_minute(world: World) -> None:
    """Promises 8 and 14: with it a request reads and writes nothing, sets no cookie; then it is unknown."""
    token = await world.new(cart=[1])
    login = await world.load(token)
    log_in(login)
    await login.commit()
    for advance, status in ((0, "detached"), (59.9, "detached"), (0.2, "new")):
        world.clock.advance(advance)
        late = await world.load(token)
        assert (status_of(late), dict(late)) == (status, {})
        if status == "detached":
            late["cart"] = [2]
            await commit(world.manager, late)
            assert owed_by(late) == "nothing"
            assert world.named("dropped")[-1]["reason"] == "detached"
    assert await world.read(credential(login)) == {"user": "ada"}


async def test_clear_of_a_session_that_is_new(world: World) -> None:
    """Promise 1: there is nothing to end, so what is set is created, and that is all."""
    session = await world.session().load()
    session["before"] = 1
    log_in(session)
    await session.commit()
    assert verbs(world) == ["create"]
    assert told(world) == [("created", session.id)]
    assert await world.read(credential(session)) == {"user": "ada"}


async def test_each_clear_has_an_id_of_its_own(world: World) -> None:
    """Promise 8: with a commit between two, the one in the middle is ended as any other is."""
    token = await world.new()
    session = await world.load(token)
    log_in(session, "ada")
    await session.commit()
    middle = credential(session)
    log_in(session, "bob")
    await session.commit()
    assert len({token[:22], middle[:22], session.id}) == 3
    assert told(world) == [
        ("ended", token[:22]), ("created", middle[:22]), ("ended", middle[:22]), ("created", session.id),
    ]  # fmt: skip
    assert await world.read(token) is None
    assert await world.read(middle) is None
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_two_clears_in_one_commit_end_it_once(world: World) -> None:
    """Promise 2: an ending is one save, however often it was asked for."""
    token = await world.new()
    session = await world.load(token)
    log_in(session, "ada")
    log_in(session, "bob")
    await session.commit()
    assert verbs(world) == ["load", "save", "create"]
    assert await world.read(credential(session)) == {"user": "bob"}


@pytest.mark.parametrize("committed", [False, True])
async def test_clear_then_destroy(world: World, committed: bool) -> None:
    """Promise 5: what was set in between, and created perhaps, ends too; the cookie is deleted."""
    token = await world.new()
    session = await world.load(token)
    log_in(session)
    if committed:
        await session.commit()
    session.destroy()
    await session.commit()
    assert status_of(session) == "ended"
    assert not has_token(session)
    assert await world.read(token) is None
    for key in keys_in(world.memory):
        record = await world.record(key)
        assert record is not None
        assert record.ended
    assert [name for name, _ in told(world)] == ["ended", *(["created", "ended"] if committed else [])]
    if not committed:
        assert owed_by(session) == "deletion"


async def test_what_is_set_after_a_committed_clear_and_set(world: World) -> None:
    """Promise 4: it goes into the new session, which ends no more."""
    token = await world.new()
    session = await world.load(token)
    log_in(session)
    await session.commit()
    now, world.events[:] = session.id, []
    session["more"] = 1
    await session.commit()
    assert session.id == now
    assert [name for name, _ in told(world)] == ["saved"]
    assert await world.read(credential(session)) == {"user": "ada", "more": 1}


async def test_deleting_every_key_is_no_clear(world: World) -> None:
    """A session that was emptied key by key is saved empty: the same id, the same cookie."""
    token = await world.new(a=1, b=2)
    session = await world.load(token)
    for key in list(session):
        del session[key]
    await commit(world.manager, session)
    assert (session.id, owed_by(session), status_of(session)) == (token[:22], "nothing", "live")
    assert [name for name, _ in told(world)] == ["saved"]
    assert await world.read(token) == {}


# ---------------------------------------------------------------- what fails


async def test_an_ending_that_is_refused_creates_nothing(world: World) -> None:
    """Promise 11: the old session lives, its cookie stays, and the next commit does all of it."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    world.store.fail("save", "refused")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert "create" not in verbs(world)
    assert owed_by(session) == "nothing"
    assert [name for name, _ in told(world)] == ["failed"]
    assert await world.read(token) == {"user": "bob"}
    await session.commit()
    assert await world.read(token) is None
    assert await world.read(credential(session)) == {"user": "ada"}


@pytest.mark.parametrize("fault", ["lost request", "lost reply"])
async def test_an_ending_of_unknown_outcome_creates_nothing(fault: Any) -> None:
    """Promise 7: until it is known that the old one has ended there is no new one; then there is."""
    world = World(deadline=0.1)
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    world.store.fail("save", fault, times=None)
    with pytest.raises(StoreUnavailable) as caught:
        await session.commit()
    assert caught.value.executed is None
    assert "create" not in verbs(world)
    assert owed_by(session) == "nothing"
    world.store.heal()
    again = await world.load(token)  # the client tries again, with the cookie that it still has
    log_in(again)
    await again.commit()
    assert await world.read(token) is None
    assert await world.read(credential(again)) == {"user": "ada"}


@pytest.mark.parametrize("fault", ["refused", "full"])
async def test_a_creation_that_fails_leaves_the_user_signed_out(world: World, fault: Any) -> None:
    """Promise 5: the answer deletes the cookie; the next commit of the same request creates it after all."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    world.store.fail("create", fault)
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert [name for name, _ in told(world)] == ["ended", "failed"]
    assert owed_by(session) == "deletion"
    assert await world.read(token) is None
    assert session == {"user": "ada"}
    assert session.modified
    await session.commit()
    assert [name for name, _ in told(world)] == ["ended", "failed", "created"]
    assert owed_by(session) == "cookie"
    assert await world.read(credential(session)) == {"user": "ada"}


async def test_a_creation_whose_reply_is_lost_is_made_once_more_elsewhere(world: World) -> None:
    """Promise 7: nobody knows the id of the first, and it is gone when nobody has come with its cookie."""
    token = await world.new()
    session = await world.load(token)
    log_in(session)
    world.store.fail("create", "lost reply")
    await session.commit()
    assert verbs(world) == ["load", "save", "create", "create"]
    assert [name for name, _ in told(world)] == ["ended", "created"]
    assert await world.read(credential(session)) == {"user": "ada"}
    world.clock.advance(3600)
    assert await world.memory.load(world.store.calls[2].key, deadline=float("inf")) is None


async def test_a_process_that_is_gone_in_between_leaves_the_user_signed_out(world: World) -> None:
    """Promise 5: of a login that came that far nothing is there but the end of what was before."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    gate = world.store.pause("create")
    committing = start(session.commit())
    await gate.reached()
    assert await world.read(token) is None
    for task in tasks_of(world.manager):
        task.cancel()
    with pytest.raises(StoreUnavailable, match="event loop was closed"):
        await committing
    assert owed_by(session) == "deletion"
    record = await world.record(token)
    assert record is not None
    assert record.ended
    assert keys_in(world.memory) == [key_of(world.manager, token[:22])]


@pytest.mark.parametrize("value", ["x" * 380, "x" * 5000, object()], ids=["whole", "value", "type"])
async def test_what_cannot_be_stored_is_refused_before_anything_is_ended(value: object) -> None:
    """Its size as a whole, its size, its type: a login that cannot be kept signs nobody out."""
    world = World(max_size=400)
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    session["profile"] = value
    with pytest.raises((SessionTooLarge, SessionSerializationError)):
        await session.commit()
    assert verbs(world) == ["load"]
    assert [name for name, _ in told(world)] == ["failed"]
    assert owed_by(session) == "nothing"
    assert await world.read(token) == {"user": "bob"}
    session["profile"] = "small"
    await session.commit()
    assert await world.read(token) is None
    assert await world.read(credential(session)) == {"user": "ada", "profile": "small"}


async def test_the_old_session_does_not_count_for_the_size_of_the_new(world: World) -> None:
    """Promise 8: nothing of it is in there, so a full session can be left for one as full."""
    world = World(max_size=1000)
    token = await world.new(data="x" * 800)
    session = await world.load(token)
    session.clear()
    session["data"] = "y" * 850
    await session.commit()
    assert await world.read(credential(session)) == {"data": "y" * 850}


async def test_a_store_that_is_full_of_all_but_what_is_new(world: World) -> None:
    """The ending deletes the record instead; what there is room for is created as ever."""
    token = await world.new()
    session = await world.load(token)
    log_in(session)
    world.store.fail("save", "full", times=None)
    await session.commit()
    assert verbs(world) == ["load", "save", "delete", "create"]
    assert [name for name, _ in told(world)] == ["ended", "created"]
    assert await world.record(token) is None
    assert await world.read(credential(session)) == {"user": "ada"}


async def test_a_store_that_is_full(world: World) -> None:
    """Promise 5: the old session is deleted, the new one refused: signed out, and told so."""
    token = await world.new()
    session = await world.load(token)
    log_in(session)
    world.store.fail(None, "full", times=None)
    with pytest.raises(StoreUnavailable) as caught:
        await session.commit()
    assert caught.value.full
    assert [name for name, _ in told(world)] == ["ended", "failed"]
    assert owed_by(session) == "deletion"
    assert keys_in(world.memory) == []
    fail_no_more(world.store)
    await session.commit()
    assert await world.read(credential(session)) == {"user": "ada"}


@pytest.mark.parametrize("loaded", [True, False])
async def test_a_store_that_is_away_and_comes_back(loaded: bool) -> None:
    """Promise 11: with on_unavailable="anonymous", too, a login is refused while the old cannot be ended."""
    world = World(on_unavailable="anonymous", deadline=0.1)
    token = await world.new(user="bob")
    session = world.session(token)
    if loaded:
        await session.load()
    log_in(session)
    world.store.fail(None, "refused", times=None)
    for explicit in (True, False):
        with pytest.raises(StoreUnavailable):
            await commit(world.manager, session, explicit=explicit)
    assert owed_by(session) == "nothing"
    assert await world.read(token) == {"user": "bob"}
    world.store.heal()
    again = world.session(token)
    log_in(again)
    await again.commit()
    assert await world.read(token) is None
    assert await world.read(credential(again)) == {"user": "ada"}


# ---------------------------------------------------------------- after the headers


@pytest.mark.parametrize("explicit", [True, False])
async def test_after_the_headers_it_ends_and_the_data_is_dropped(world: World, explicit: bool) -> None:
    """Promise 14: a cookie for it can no longer be sent; the error or the event says that it is too late."""
    token = await world.new(user="bob")
    session = await world.load(token)
    seal(session)
    log_in(session)
    if explicit:
        with pytest.raises(SessionError, match="needs a new cookie") as caught:
            await session.commit()
        assert not isinstance(caught.value, SessionGone)
    else:
        await commit(world.manager, session)
    assert "create" not in verbs(world)
    assert sorted(name for name, _ in told(world)) == ["dropped", "ended"]
    assert world.named("dropped") == [{"reason": "late", "keys": ["user"]}]
    assert await world.read(token) is None


@pytest.mark.parametrize("moment", ["save", "create"])
async def test_the_headers_leave_while_it_is_on_its_way(world: World, moment: Any) -> None:
    """Promise 14: before the old one has ended the data is late; once it is being created it is there."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    gate = world.store.pause(moment)
    committing = start(session.commit())
    await gate.reached()
    seal(session)
    gate.release()
    if moment == "save":
        with pytest.raises(SessionError, match="needs a new cookie"):
            await committing
        assert "create" not in verbs(world)
    else:
        await committing
        assert await world.read(credential(session)) == {"user": "ada"}
    assert await world.read(token) is None


# ---------------------------------------------------------------- in a lock


async def test_in_a_lock_the_new_record_is_created_locked(world: World) -> None:
    """And released at the block's end: whoever comes with the new cookie waits until then."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session.clear()
        session["n"] = 10
        await session.commit()
        new = credential(session)
        assert await lease_of(world, new) is not None
        waiting = await Line(world, new).queue("next", world.process())
        session["n"] = 20
    await asyncio.wait_for(waiting, 5)
    assert await world.read(new) == {"n": 21}
    await world.manager.drain()
    assert await lease_of(world, new) is None
    assert await world.read(token) is None


async def test_at_the_end_of_a_block_the_new_record_is_free(world: World) -> None:
    """The old one's waiters are told that it is gone, and nobody has to wait for the new one."""
    token = await world.new(n=1)
    session = await world.load(token)
    line = Line(world, token)
    async with session.lock():
        waiters = [await line.queue("here", world.manager), await line.queue("there", world.process())]
        log_in(session)
    for waiter in waiters:
        with pytest.raises(SessionGone):
            await asyncio.wait_for(waiter, 5)
    assert line.entered == []
    assert await lease_of(world, credential(session)) is None
    assert await world.read(credential(session)) == {"user": "ada"}
    async with asyncio.timeout(1), session.lock(wait=0):
        session["more"] = 1
    assert await world.read(credential(session)) == {"user": "ada", "more": 1}


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("lost_to", ["somebody", "nobody"])
async def test_under_a_lost_lock_nothing_is_ended_and_nothing_created(
    world: World, lost_to: str, explicit: bool
) -> None:
    """Promise 12: the holder of a lock that has lost it can do neither half of it."""
    token = await world.new(n=1)
    session = await world.load(token)
    world.store.calls.clear()
    with pytest.raises(LockLost):
        async with session.lock():
            if lost_to == "somebody":
                await held_by_somebody(world, token)
            else:
                await put(world, token, None)
            log_in(session)
            if explicit:
                await session.commit()
    assert "create" not in verbs(world)
    assert "ended" not in [name for name, _ in told(world)]
    assert owed_by(session) == "nothing"
    assert await world.read(token) == {"n": 1}


# ---------------------------------------------------------------- beside others


@pytest.mark.parametrize("one_process", [True, False])
@pytest.mark.parametrize("together", [True, False])
async def test_two_logins_of_one_session(world: World, one_process: bool, together: bool) -> None:
    """Promise 8: two new ids, with the data of each; the old one is ended once."""
    token = await world.new(cart=[1])
    sessions = [await world.load(token), await world.load(token, None if one_process else world.process())]
    for session, user in zip(sessions, ("ada", "bob"), strict=True):
        log_in(session, user)
    if together:
        await asyncio.gather(*(session.commit() for session in sessions))
    else:
        for session in sessions:
            await session.commit()
    ids = {session.id for session in sessions}
    assert len(ids - {None, token[:22]}) == 2
    assert told(world).count(("ended", token[:22])) == 1
    assert sorted(name for name, _ in told(world)) == ["created", "created", "ended"]
    assert [owed_by(session) for session in sessions] == ["cookie", "cookie"]
    for session, user in zip(sessions, ("ada", "bob"), strict=True):
        assert await world.read(credential(session)) == {"user": user}


@pytest.mark.parametrize("first", ["write", "login"])
@pytest.mark.parametrize("one_process", [True, False])
async def test_a_write_behind_or_before_a_login_in_one_queue(
    world: World, first: str, one_process: bool
) -> None:
    """Promise 8: both wait behind a save on its way; nothing of the write reaches the login's record."""
    token = await world.new(cart=[1])
    manager = world.manager if one_process else world.process()
    slow, writer, login = await world.load(token), await world.load(token, manager), await world.load(token)
    slow["slow"] = 1
    writer["secret"] = "of the old one"
    log_in(login)
    gate = world.store.pause("save")
    tasks = [start(slow.commit())]
    await gate.reached()
    for session in [writer, login] if first == "write" else [login, writer]:
        tasks.append(start(commit(world.manager if session is login else manager, session)))
        await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert await world.read(token) is None
    assert await world.read(credential(login)) == {"user": "ada"}
    assert owed_by(writer) == "nothing"


@pytest.mark.parametrize("by", ["revoke", "destroy", "rotate"])
async def test_what_has_ended_otherwise_meanwhile_is_not_ended_again(world: World, by: str) -> None:
    """Promise 5: the login goes on under a new id; who rotated meanwhile keeps his session."""
    token = await world.new(cart=[1])
    session, other = await world.load(token), await world.load(token)
    if by == "revoke":
        await world.manager.revoke(token[:22])
    else:
        getattr(other, by)()
        await other.commit()
    world.events.clear()
    log_in(session)
    await session.commit()
    assert told(world) == [("created", session.id)]
    assert session.id != token[:22]
    assert await world.read(credential(session)) == {"user": "ada"}
    if by == "rotate":
        assert await world.read(credential(other)) == {"cart": [1]}


# ---------------------------------------------------------------- cancelled


async def test_a_login_that_is_cancelled_at_any_moment_is_done_whole() -> None:
    """Promise 5: once begun it ends the old session and creates the new one, whoever still waits for it."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new(user="bob")
        session = await world.load(token)
        log_in(session)
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await world.manager.drain()
        if turns:
            assert await world.read(token) is None
            assert [name for name, _ in told(world)] == ["ended", "created"]
            assert await world.read(credential(session)) == {"user": "ada"}
            session["more"] = 1
            await session.commit()
            assert await world.read(credential(session)) == {"user": "ada", "more": 1}
        else:
            assert await world.read(token) == {"user": "bob"}
        return running

    await walk(one)


@pytest.mark.parametrize("moment", ["save", "create"])
async def test_a_login_that_is_cancelled_on_a_call_that_fails(world: World, moment: Any) -> None:
    """Promise 5: though the request is gone, what it has begun to end is ended; a creation fails as ever."""
    token = await world.new(user="bob")
    session = await world.load(token)
    log_in(session)
    world.store.fail(moment, "refused")
    gate = world.store.pause(moment)
    committing = start(session.commit())
    await gate.reached()
    committing.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    if moment == "save":  # a task has sent it again, in the request's place
        assert [name for name, _ in told(world)] == ["ended", "created"]
        assert await world.read(credential(session)) == {"user": "ada"}
    else:
        assert [name for name, _ in told(world)] == ["ended", "failed"]
        assert owed_by(session) == "deletion"
    assert await world.read(token) is None


# ---------------------------------------------------------------- over a server


async def test_over_a_server() -> None:
    """Promise 8: the old record is empty and goes within a minute; the new one has another key."""
    server = start_valkey()
    try:
        async with SessionManager(server.url) as manager:
            session = await new_session(manager).load()
            session["user"] = "bob"
            await session.commit()
            token = credential(session)
            login = await new_session(manager, token).load()
            log_in(login)
            await login.commit()
            old, new = (f"asgi_session:{{{key_of(manager, one or '')}}}" for one in (token[:22], login.id))
            assert 0 < server.command("PTTL", old) <= 60_000
            assert server.command("PTTL", new) > 60_000
            assert server.command("DBSIZE") == 2
            assert status_of(await new_session(manager, token).load()) == "detached"
            assert await new_session(manager, credential(login)).load() == {"user": "ada"}
    finally:
        server.stop()
