"""`Session.transact`: a check followed by an act, exactly once, on the newest data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asgi_session import Session
from asgi_session.errors import SessionConflict, SessionGone, StoreUnavailable
from tests.inside import is_committing
from tests.manager.kit import World, credential, settle, start, take_one, take_one_slowly, until

both = pytest.mark.parametrize("function", [take_one, take_one_slowly])


@both
async def test_it_saves_and_returns_the_result(world: World, function: Callable[[Session], Any]) -> None:
    """A plain function costs one save, an async one a load more; the session then has the newest data."""
    token = await world.new(stock=2)
    session = await world.load(token)
    world.store.calls.clear()
    assert await session.transact(function) is True
    assert world.store.counts() == ({"save": 1} if function is take_one else {"load": 1, "save": 1})
    assert session["stock"] == 1
    assert not session.modified
    assert await world.read(token) == {"stock": 1}


@both
async def test_never_below_zero(world: World, function: Callable[[Session], Any]) -> None:
    """Of many in several processes as many succeed as there are, and the others are told the truth."""
    token = await world.new(stock=10)
    managers = [world.process(deadline=30) for _ in range(3)]
    sessions = [await world.load(token, manager) for manager in managers for _ in range(8)]
    results = await asyncio.gather(*(session.transact(function) for session in sessions))
    assert sum(results) == 10
    assert await world.read(token) == {"stock": 0}


async def test_a_plain_function_that_changes_nothing_runs_once(world: World) -> None:
    """Promise 2: nothing is written, and nothing is done twice to find that out."""
    token = await world.new(stock=1)
    session = await world.load(token)
    runs: list[int] = []

    def look(draft: Session) -> int:
        runs.append(draft["stock"])
        return draft["stock"]  # type: ignore[no-any-return]

    assert await session.transact(look) == 1
    assert runs == [1]
    assert world.store.counts().get("save", 0) == 0


@both
async def test_a_decision_not_to_write_is_made_on_the_newest_data_too(
    world: World, function: Callable[[Session], Any]
) -> None:
    """A session that was loaded when there was none left must not answer from that."""
    token = await world.new(stock=0)
    session = await world.load(token)
    other = await world.load(token, world.process())
    other["stock"] = 1
    await other.commit()
    assert await session.transact(function) is True
    assert await world.read(token) == {"stock": 0}


async def test_so_is_an_error(world: World) -> None:
    """What the function raises is raised, when it still would be, and nothing is written."""

    def pop(draft: Session) -> Any:
        draft["tried"] = True
        return draft.pop("token")

    token = await world.new(old=1)
    session = await world.load(token)
    other = await world.load(token, world.process())
    other["token"] = "t"
    await other.commit()
    assert await session.transact(pop) == "t"
    world.store.calls.clear()
    with pytest.raises(KeyError, match="token"):
        await session.transact(pop)
    assert world.store.counts() == {"load": 1}, "looked at the newest data, wrote nothing"
    assert await world.read(token) == {"old": 1, "tried": True}
    assert not session.modified


async def test_an_error_of_an_async_function(world: World) -> None:
    """As above."""

    async def fail(draft: Session) -> None:
        draft["n"] = 1
        raise ZeroDivisionError

    token = await world.new(old=1)
    session = await world.load(token)
    with pytest.raises(ZeroDivisionError):
        await session.transact(fail)
    assert await world.read(token) == {"old": 1}
    assert not session.modified


async def test_a_function_that_only_reads_writes_nothing(world: World) -> None:
    """Promise 2: unchanged data is never written; one load makes sure that it is the newest."""
    token = await world.new(stock=3)
    session = await world.load(token)
    world.store.calls.clear()
    assert await session.transact(lambda draft: draft["stock"]) == 3
    assert world.store.counts() == {"load": 1}


async def test_one_process_saves_many_at_once(world: World) -> None:
    """What comes while a save is on the wire is computed one after the other, and leaves in one save."""
    token = await world.new(stock=100)
    sessions = [await world.load(token) for _ in range(50)]
    gate = world.store.pause("save")
    tasks = [start(session.transact(take_one)) for session in sessions]
    await gate.reached()
    await settle(100)
    world.store.calls.clear()
    gate.release()
    assert all(await asyncio.gather(*tasks))
    assert world.store.counts() == {"save": 1}
    assert await world.read(token) == {"stock": 50}


async def test_what_is_pending_is_committed_before(world: World) -> None:
    """The function sees it, and it stays even if the function fails."""
    token = await world.new(stock=1)
    session = await world.load(token)
    session["mine"] = 1
    assert await session.transact(lambda draft: draft["mine"]) == 1
    assert await world.read(token) == {"stock": 1, "mine": 1}


async def test_what_is_changed_meanwhile_stays_and_stays_apart(world: World) -> None:
    """Another task of the request that sets a key is neither undone nor saved by the transaction."""
    token = await world.new(stock=1)
    session = await world.load(token)
    gate = world.store.pause("save")
    task = start(session.transact(take_one))
    await gate.reached()
    session["meanwhile"] = 1
    gate.release()
    await task
    assert await world.read(token) == {"stock": 0}
    assert dict(session) == {"stock": 0, "meanwhile": 1}
    await session.commit()
    assert await world.read(token) == {"stock": 0, "meanwhile": 1}


async def test_nested_values(world: World) -> None:
    """A change inside a value of the draft is one, and the session's old objects are not the draft's."""
    token = await world.new(cart=[1])
    session = await world.load(token)
    cart = session["cart"]
    await session.transact(lambda draft: draft["cart"].append(2))
    assert cart == [1]
    assert session["cart"] == [1, 2]
    assert await world.read(token) == {"cart": [1, 2]}


@both
@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
async def test_lost_messages(world: World, function: Callable[[Session], Any], fault: Any) -> None:
    """Promise 7: applied once, whichever way the message was lost."""
    token = await world.new(stock=5)
    session = await world.load(token)
    world.store.fail("save", fault)
    assert await session.transact(function) is True
    assert await world.read(token) == {"stock": 4}


@both
async def test_nobody_can_tell_any_more(world: World, function: Callable[[Session], Any]) -> None:
    """The reply is lost, and so many others save that the record has forgotten: an error that says so."""
    token = await world.new(stock=50)
    session = await world.load(token)
    gate = world.store.pause("save", when="after")
    world.store.fail("save", "lost reply")
    task = start(session.transact(function))
    await gate.reached()
    other = await world.load(token, world.process())
    for number in range(9):
        other["other"] = number
        await other.commit()
    gate.release()
    with pytest.raises(SessionConflict) as caught:
        await task
    assert caught.value.outcome_unknown
    assert await world.read(token) == {"stock": 49, "other": 8}


async def test_cancelled_on_the_way(world: World) -> None:
    """The request is gone, its save is not: applied once."""
    token = await world.new(stock=5)
    session = await world.load(token)
    gate = world.store.pause("save")
    task = start(session.transact(take_one))
    await gate.reached()
    task.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    assert task.cancelled()
    assert await world.read(token) == {"stock": 4}


async def test_an_async_function_runs_again_if_anything_has_changed(world: World) -> None:
    """Also another key than those it has looked at; and not for ever."""
    token = await world.new(stock=5, other=0)
    session = await world.load(token)
    runs = 0

    async def disturbed(draft: Session) -> int:
        nonlocal runs
        runs += 1
        if runs <= disturbances:
            other = await world.load(token, world.process())
            other["other"] = runs
            await other.commit()
        draft["stock"] -= 1
        return runs

    disturbances = 3
    assert await session.transact(disturbed) == 4
    assert await world.read(token) == {"stock": 4, "other": 3}

    impatient = await world.load(token, world.process(deadline=0.05))
    runs, disturbances = 0, 10**9
    with pytest.raises(SessionConflict, match="every run") as caught:
        await impatient.transact(disturbed)
    assert not caught.value.outcome_unknown
    assert (await world.read(token) or {})["stock"] == 4


async def test_a_lock_taken_meanwhile_is_no_change(world: World) -> None:
    """Who queues for the lock does not make others run again."""
    token = await world.new(stock=5)
    session = await world.load(token)
    runs = 0

    async def locked_meanwhile(draft: Session) -> None:
        nonlocal runs
        runs += 1
        async with (await world.load(token, world.process())).lock():
            draft["stock"] -= 1

    await session.transact(locked_meanwhile)
    assert runs == 1
    assert await world.read(token) == {"stock": 4}


@both
async def test_a_new_session(world: World, function: Callable[[Session], Any]) -> None:
    """Nobody else has it: it is created with what the function sets, or not at all."""
    session = world.session()
    with pytest.raises(KeyError):
        await session.transact(function)
    assert world.store.calls == []
    await session.transact(lambda draft: draft.update(stock=2))
    assert await session.transact(function) is True
    assert await world.read(credential(session)) == {"stock": 1}


@both
async def test_a_session_that_is_gone(world: World, function: Callable[[Session], Any]) -> None:
    """Promise 5: nothing is written, and it is told."""
    token = await world.new(stock=1)
    ended, revoked, overtaken = [await world.load(token) for _ in range(3)]
    login = await world.load(token)
    login.rotate()
    await login.commit()
    with pytest.raises(SessionGone):
        await overtaken.transact(function)
    login.destroy()
    await login.commit()
    with pytest.raises(SessionGone):
        await ended.transact(function)
    await world.manager.revoke(token[:22])
    with pytest.raises(SessionGone):
        await revoked.transact(function)
    assert dict(revoked) == {}


async def test_it_is_rotated_while_the_save_is_on_its_way(world: World) -> None:
    """Promise 8: the function's changes do not reach the next identity."""
    token = await world.new(stock=1)
    session = await world.load(token)
    gate = world.store.pause("save")
    task = start(session.transact(take_one))
    await gate.reached()
    login = await world.load(token, world.process())
    login.rotate()
    await login.commit()
    gate.release()
    with pytest.raises(SessionGone):
        await task
    assert await world.read(credential(login)) == {"stock": 1}


async def test_the_store_is_away(world: World) -> None:
    """Nothing is written, and it is told."""
    token = await world.new(stock=1)
    session = await world.load(token)
    world.store.fail("save")
    with pytest.raises(StoreUnavailable):
        await session.transact(take_one)
    assert await world.read(token) == {"stock": 1}
    world.store.fail("load")
    with pytest.raises(StoreUnavailable):
        await session.transact(lambda draft: draft["stock"])
    assert session["stock"] == 1


async def test_the_look_at_the_newest_data_is_lost(world: World) -> None:
    """An error, and the next one looks again."""
    token = await world.new(stock=1)
    session = await world.load(token)
    world.store.fail("load", "lost reply")
    with pytest.raises(StoreUnavailable):
        await session.transact(lambda draft: draft["stock"])
    assert await session.transact(lambda draft: draft["stock"]) == 1


async def test_it_waits_for_a_commit_on_its_way(world: World) -> None:
    """Commits of one session run one after another."""
    token = await world.new(stock=5)
    session = await world.load(token)
    gate = world.store.pause("save")
    session["a"] = 1
    committing = start(session.commit())
    await gate.reached()
    task = start(session.transact(take_one))
    await settle()
    gate.release()
    await asyncio.gather(committing, task)
    assert await world.read(token) == {"stock": 4, "a": 1}
    await until(lambda: not is_committing(session))


async def test_a_new_session_that_cannot_be_created(world: World) -> None:
    """What the function has set is not saved with the next commit."""

    def stock(draft: Session) -> None:
        draft["stock"] = 1

    session = await world.session().load()
    world.store.fail("create")
    with pytest.raises(StoreUnavailable):
        await session.transact(stock)
    assert dict(session) == {}
    await session.commit()
    assert session.is_new
