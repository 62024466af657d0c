"""A task of a request clears or destroys the session while another one's work on it is on its way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionGone, StoreUnavailable
from tests.inside import commit, credential, fail_no_more, status_of, use_up
from tests.manager.kit import World, settle, start


def buy(draft: Session) -> None:
    draft["stock"] -= 1
    draft["note"] = "of alice"


async def test_a_transaction_in_flight_brings_nothing_into_the_new_session(world: World) -> None:
    """Promise 8: what it has saved is the old identity's, and so is what it has read."""
    token = await world.new(secret="alice", stock=5)
    session = await world.load(token)
    gate = world.store.pause("save")
    transacting = start(session.transact(buy))
    await gate.reached()
    session.clear()
    session["user"] = "bob"
    gate.release()
    await transacting
    assert dict(session) == {"user": "bob"}
    await session.commit()
    assert credential(session)[:22] != token[:22]
    assert await world.read(credential(session)) == {"user": "bob"}


@pytest.mark.parametrize("end", ["destroy", "clear"])
async def test_a_transaction_in_flight_fills_no_session_that_is_to_end(end: str, world: World) -> None:
    """Promise 5: it reads empty from then on, and the commit ends it."""
    token = await world.new(secret="alice", stock=5)
    session = await world.load(token)
    gate = world.store.pause("save")
    transacting = start(session.transact(buy))
    await gate.reached()
    getattr(session, end)()
    gate.release()
    await transacting
    assert dict(session) == {}
    await session.commit()
    assert await world.read(token) is None


async def test_a_lock_that_is_granted_brings_nothing_into_the_new_session(world: World) -> None:
    """Promise 8: what the record holds by then is not what the block works on."""
    token = await world.new(cart=["alice's"])
    holder, session = await world.load(token), await world.load(token)
    leave = asyncio.Event()

    async def hold() -> None:
        async with holder.lock():
            holder["more"] = 1
            await leave.wait()

    seen: list[dict[str, Any]] = []

    async def wait() -> None:
        async with session.lock():
            seen.append(dict(session))
            session["in_the_block"] = True

    holding = start(hold())
    await settle()
    waiting = start(wait())
    await settle()
    session.clear()
    session["user"] = "bob"
    leave.set()
    await asyncio.gather(holding, waiting)
    assert seen == [{"user": "bob"}]
    assert await world.read(credential(session)) == {"user": "bob", "in_the_block": True}
    assert await world.read(token) is None


@pytest.mark.parametrize("move", ["clear", "rotate"])
async def test_a_login_is_not_lost_because_the_record_went_under_a_transaction(
    move: str, world: World
) -> None:
    """Promise 8: it goes on as a new session, of what was set."""
    token = await world.new(secret="alice", stock=5)
    session = await world.load(token)
    gate = world.store.pause("save")
    transacting = start(session.transact(buy))
    await gate.reached()
    getattr(session, move)()
    session["user"] = "bob"
    await world.manager.revoke(token[:22])
    gate.release()
    with pytest.raises(SessionGone):
        await transacting
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}
    assert status_of(session) == "live"


async def test_a_login_is_not_lost_because_the_record_went_under_a_commit(world: World) -> None:
    """Promise 8: nor because of what was set before it, and was on its way."""
    token = await world.new(n=1)
    session = await world.load(token)
    session["n"] = 2
    gate = world.store.pause("save")
    saving = start(session.commit())
    await gate.reached()
    session.rotate()
    session["user"] = "bob"
    await world.manager.revoke(token[:22])
    gate.release()
    with pytest.raises(SessionGone):
        await saving
    await session.commit()
    assert (await world.read(credential(session)) or {})["user"] == "bob"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_function_that_was_begun_before_ends_in_no_other_session(
    committed: bool, world: World
) -> None:
    """Promise 8: not even if the new one happens to hold the very same values."""
    token = await world.new(n=1)
    session = await world.load(token)
    go = asyncio.Event()

    async def slow(draft: Session) -> None:
        await go.wait()
        draft["note"] = "of alice"

    transacting = start(session.transact(slow))
    await settle()
    session.clear()
    session["n"] = 1
    if committed:
        await session.commit()
    go.set()
    with pytest.raises(SessionGone):
        await transacting
    await session.commit()
    assert await world.read(credential(session)) == {"n": 1}


async def test_a_function_on_a_session_without_record_ends_in_no_other_session(world: World) -> None:
    """Promise 8: what it has set belongs to the one that was cleared."""
    session = await world.session().load()
    go = asyncio.Event()

    async def slow(draft: Session) -> None:
        await go.wait()
        draft["cart"] = "anonymous"

    transacting = start(session.transact(slow))
    await settle()
    session.clear()
    session["user"] = "bob"
    go.set()
    with pytest.raises(SessionGone):
        await transacting
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


@pytest.mark.parametrize("end", ["rotate", "destroy"])
async def test_what_is_left_of_a_batch_stays_what_it_was(end: str) -> None:
    """Promises 5 and 8: a login or logout that left with it ran out of time, and was saved all the same."""
    world = World(deadline=1.5)
    token = await world.new(secret="alice")
    first, plain, ending = [await world.load(token) for _ in range(3)]
    use_up(ending, 1.0)
    first["first"] = 1
    plain["plain"] = 1
    getattr(ending, end)()
    if end == "rotate":
        ending["user"] = "bob"
    gate = world.store.pause("save")
    started = [start(commit(world.manager, session)) for session in (first, plain, ending)]
    await gate.reached()
    world.store.fail("save", "lost request", times=None)
    gate.release()
    with pytest.raises(StoreUnavailable):
        await started[2]
    fail_no_more(world.store)
    await asyncio.gather(*started[:2])
    assert dict(plain) == {"secret": "alice", "plain": 1}
    plain["late"] = "under alice"
    with pytest.raises(SessionGone):
        await plain.commit()
    record = await world.record(token)
    assert record is None or "late" not in record.entries


async def test_what_is_left_of_a_batch_learns_what_the_others_have_saved() -> None:
    """Promise 4: their changes are part of what the session was committed to."""
    world = World(deadline=1.5)
    token = await world.new(n=1)
    first, plain, late = [await world.load(token) for _ in range(3)]
    use_up(late, 1.0)
    first["first"] = 1
    plain["plain"] = 1
    late["late"] = 1
    gate = world.store.pause("save")
    started = [start(commit(world.manager, session)) for session in (first, plain, late)]
    await gate.reached()
    world.store.fail("save", "lost request", times=None)
    gate.release()
    with pytest.raises(StoreUnavailable):
        await started[2]
    fail_no_more(world.store)
    await asyncio.gather(*started[:2])
    assert dict(plain) == {"n": 1, "first": 1, "plain": 1, "late": 1}
