"""`Session.lock`, through managers that stand for processes, on a store that fails on demand."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from asgi_session import Session, SessionManager
from asgi_session.errors import (
    LockLost,
    LockTimeout,
    SessionCorrupt,
    SessionError,
    SessionGone,
    SessionSerializationError,
    SessionTooLarge,
    StoreUnavailable,
)
from asgi_session.store import Saved
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore
from tests.inside import (
    MAX_SKEW,
    Lease,
    changed,
    end_turn,
    holds_lock,
    is_busy_with,
    is_granted,
    is_listening,
    lease_in,
    listen,
    locks_in_use,
    look_again,
    process_name,
    renew_early,
    rewrite,
    seal,
    tasks_of,
    waiters_for,
    with_lease,
    with_spoilt_lease,
)
from tests.manager.kit import World, credential, settle, soon, start, until

SOMEBODY = b"somebody"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew, and look again, after milliseconds."""
    renew_early(monkeypatch)


async def lease_of(world: World, token: str) -> Lease | None:
    record = await world.record(token)
    assert record is not None
    return lease_in(record)


async def put(world: World, token: str, lease: Lease | None) -> None:
    """Write a lock into the record, as another process would have."""
    await rewrite(world.memory, token[:22], lambda record: with_lease(record, lease), world.clock())


async def held_by_somebody(world: World, token: str, length: int = 60_000, **fields: Any) -> Lease:
    lease: Lease = changed(Lease(SOMEBODY, 99, world.clock() + length, length), **fields)
    await put(world, token, lease)
    return lease


class Line:
    """Clients that increment ``n`` under the lock, and note the order in which they got in."""

    def __init__(self, world: World, token: str) -> None:
        self.world = world
        self.token = token
        self.entered: list[str] = []
        self.inside = 0

    async def client(self, name: str, manager: SessionManager, gate: asyncio.Event | None = None) -> None:
        session = await self.world.load(self.token, manager)
        async with session.lock():
            self.entered.append(name)
            self.inside += 1
            assert self.inside == 1, "two are inside"
            value = session["n"]
            if gate is not None:
                await gate.wait()
            await asyncio.sleep(0)
            session["n"] = value + 1
            self.inside -= 1

    async def queue(self, name: str, manager: SessionManager) -> asyncio.Task[None]:
        """Start a client, and wait until it stands in line."""
        before = waiters_for(manager, self.token)
        task = start(self.client(name, manager))
        await until(
            lambda: waiters_for(manager, self.token) > before and not is_busy_with(manager, self.token)
        )
        return task


# ---------------------------------------------------------------- the ordinary way


async def test_a_locked_change_is_two_saves(world: World) -> None:
    """One takes the lock, one commits and releases; the record is then as large as before."""
    token = await world.new(n=1)
    session = await world.load(token)
    world.store.calls.clear()
    async with session.lock() as inside:
        assert inside is session
        lease = await lease_of(world, token)
        assert lease is not None
        assert lease.process == process_name(world.manager)
        session["n"] += 1
    assert world.store.counts() == {"save": 2}
    assert await lease_of(world, token) is None
    assert await world.read(token) == {"n": 2}
    assert [name for name, _, _ in world.events] == ["locked", "saved", "released"]
    assert world.named("locked")[0]["fence"] == world.named("released")[0]["fence"] == lease.fence


async def test_nothing_is_left_behind(world: World) -> None:
    """No room, no task, no timer, once nobody is inside and nobody waits."""
    token = await world.new(n=1)
    for _ in range(3):
        async with (await world.load(token)).lock():
            pass
        await world.manager.drain()
    assert locks_in_use(world.manager) == 0
    assert not tasks_of(world.manager)


async def test_on_entry_what_is_pending_is_committed_and_the_session_is_the_newest(world: World) -> None:
    """What others have saved is there, and what was changed before the block is not part of it."""
    token = await world.new(n=1, mine=1)
    session = await world.load(token)
    kept = session["n"]
    other = await world.load(token, world.process())
    other["n"] = 2
    await other.commit()
    session["mine"] = 2
    async with session.lock():
        assert kept == 1
        assert session["n"] == 2
        assert await world.read(token) == {"n": 2, "mine": 2}


async def test_readers_and_merging_writers_are_not_held_up(world: World) -> None:
    """The lock is among those who ask for it; other requests read, and merge by key."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
        assert await world.read(token) == {"n": 1}
        other = await world.load(token, world.process())
        other["other"] = 1
        await other.commit()
        assert await lease_of(world, token) is not None
    assert await world.read(token) == {"n": 2, "other": 1}


async def test_a_commit_inside_is_saved_under_the_lock_which_stays(world: World) -> None:
    """`commit` in the block writes now; the lock goes with the block."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
        await session.commit()
        assert await world.read(token) == {"n": 2}
        assert await lease_of(world, token) is not None
        assert await session.transact(lambda draft: draft["n"]) == 2
        session["n"] = 3
    assert await world.read(token) == {"n": 3}
    assert await lease_of(world, token) is None


async def test_entering_again_is_counted(world: World) -> None:
    """The outermost block commits and releases."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        async with session.lock(wait=0):
            session["n"] = 2
        assert await lease_of(world, token) is not None
        assert await world.read(token) == {"n": 1}
        with pytest.raises(ZeroDivisionError):
            async with session.lock(wait=0):
                session["n"] = 3
                raise ZeroDivisionError
        assert session["n"] == 3, "the outer block goes on, and decides"
    assert await world.read(token) == {"n": 3}
    assert await lease_of(world, token) is None


async def test_one_process_lets_its_waiters_in_in_order(world: World) -> None:
    """First come, first served; each hand-over is the one save that commits."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("0", world.manager, gate))
    await until(lambda: line.inside == 1)
    tasks = [first, *[await line.queue(str(number), world.manager) for number in range(1, 10)]]
    world.store.calls.clear()
    gate.set()
    await asyncio.gather(*tasks)
    assert line.entered == [str(number) for number in range(10)]
    assert world.store.counts() == {"save": 10}
    assert await world.read(token) == {"n": 10}


async def test_processes_take_turns_of_four(world: World) -> None:
    """While another process waits, at most four of one are let in in a row; a hand-over takes one load."""
    token = await world.new(n=0)
    a, b = world.process(), world.process()
    line, gate = Line(world, token), asyncio.Event()
    tasks = [start(line.client("a", a, gate))]
    await until(lambda: line.inside == 1)
    tasks += [await line.queue("a", a) for _ in range(5)]
    tasks += [await line.queue("b", b) for _ in range(6)]
    await until(lambda: is_listening(b))
    await settle()
    world.store.calls.clear()
    gate.set()
    await asyncio.gather(*tasks)
    assert "".join(line.entered) == "aaaabbbbaabb"
    assert await world.read(token) == {"n": 12}
    # Three hand-overs, and one load when a begins to listen: it had not before its first exit.
    assert world.store.counts() == {"save": 13, "load": 3 + 1}


async def test_the_lock_of_another_process_is_waited_for_without_asking(world: World) -> None:
    """Waiting is told, not polled: one save to stand in line, and nothing until the wake-up."""
    token = await world.new(n=0)
    other = world.process()
    holder = await world.load(token)
    line = Line(world, token)
    async with holder.lock():
        waiter = await line.queue("b", other)
        await until(lambda: is_listening(other))
        await settle()
        world.store.calls.clear()
        await settle(300)
        assert world.store.calls == []
        holder["n"] = 1
    await waiter
    assert world.store.counts()["save"] == 3, "the holder's met the version of the one who had queued"
    assert await world.read(token) == {"n": 2}
    await settle()

    # By now both listen. Whoever is told loads: the holder of who queues, so that its exit is one save,
    # and the next in line of the grant.
    holder = await world.load(token)
    async with holder.lock():
        world.store.calls.clear()
        waiter = await line.queue("b", other)
        holder["n"] = 3
    await waiter
    assert world.store.counts() == {"load": 1 + 2, "save": 3}
    assert await world.read(token) == {"n": 4}


async def test_a_session_that_was_locked_before_does_not_believe_that_it_still_is(world: World) -> None:
    """What a session has read or saved is no evidence of who holds the lock by now."""
    token = await world.new(n=0)
    first, second = await world.load(token), await world.load(token)
    line = Line(world, token)
    async with first.lock():
        waiter = await line.queue("x", world.manager)
        first["n"] = 1
    await waiter  # its grant is part of the version that `first` knows
    async with second.lock():
        line = Line(world, token)
        late = start(line.client("y", world.process()))
        again = start(self_increment(first))
        await settle()
        assert line.entered == []
        assert not again.done()
        second["n"] += 1
    await asyncio.gather(again, late)
    assert await world.read(token) == {"n": 5}


async def self_increment(session: Session) -> None:
    async with session.lock():
        session["n"] += 1


async def test_a_lock_believed_long_ago_is_taken_anew(world: World) -> None:
    """As above, when nobody holds it any more."""
    token = await world.new(n=0)
    first = await world.load(token)
    async with first.lock():
        waiter = await Line(world, token).queue("x", world.manager)
    await waiter
    await world.manager.drain()
    assert await lease_of(world, token) is None
    await self_increment(first)
    assert await world.read(token) == {"n": 2}


async def test_what_a_merging_writer_saved_just_before_is_not_undone(world: World) -> None:
    """A wake-up brings the record of the grant; a session that knows a newer one keeps that."""
    token = await world.new(n=0)
    other = world.process()
    holder = await world.load(token)
    async with holder.lock():
        line = Line(world, token)
        waiter = await line.queue("b", other)
        third = await world.load(token, other)
        third["third"] = 1
        await third.commit()
    await waiter
    assert await world.read(token) == {"n": 1, "third": 1}


# ---------------------------------------------------------------- new, ended and strange sessions


async def test_a_session_that_does_not_exist_yet_is_not_created_by_its_lock(world: World) -> None:
    """Nothing goes to the store until there is something to keep."""
    session = world.session()
    async with session.lock():
        assert session.is_new
    assert world.store.calls == []
    async with session.lock():
        session["n"] = 1
    assert world.store.counts() == {"create": 1}
    token = credential(session)
    assert await world.read(token) == {"n": 1}
    assert await lease_of(world, token) is None


async def test_a_session_created_in_the_block_is_locked_from_the_start(world: World) -> None:
    """An explicit commit in the block creates it with the lock taken."""
    session = world.session()
    async with session.lock():
        session["n"] = 0
        await session.commit()
        token = credential(session)
        assert await lease_of(world, token) is not None
        waiter = await Line(world, token).queue("b", world.process())
        session["n"] = 1
    await waiter
    assert await world.read(token) == {"n": 2}


async def test_a_session_that_is_gone_at_entry(world: World) -> None:
    """Ended, revoked, or overtaken by a login: never a lock on something else."""
    token = await world.new(n=1)
    sessions = [await world.load(token) for _ in range(3)]
    ending = await world.load(token)
    ending.destroy()
    await ending.commit()
    for session in sessions[:2]:
        with pytest.raises(SessionGone):
            async with session.lock():
                pytest.fail("entered")
        assert dict(session) == {}
    await world.manager.revoke(token[:22])
    with pytest.raises(SessionGone):
        async with sessions[2].lock():
            pytest.fail("entered")


async def test_the_holder_ends_the_session(world: World) -> None:
    """Who waits is told at once."""
    token = await world.new(n=1)
    holder = await world.load(token)
    line = Line(world, token)
    async with holder.lock():
        waiters = [await line.queue("a", world.manager), await line.queue("b", world.process())]
        holder.destroy()
    for waiter in waiters:
        with pytest.raises(SessionGone):
            await waiter
    assert line.entered == []


async def test_another_request_ends_the_session(world: World) -> None:
    """The holder's changes go nowhere, and it is told; so is who waits."""
    token = await world.new(n=1)
    holder = await world.load(token)
    line = Line(world, token)
    with pytest.raises(SessionGone):
        async with holder.lock():
            waiter = await line.queue("b", world.process())
            ending = await world.load(token, world.process())
            ending.destroy()
            await ending.commit()
            holder["n"] = 2
    with pytest.raises(SessionGone):
        await waiter
    assert await world.read(token) is None


async def test_a_login_overtakes_the_holder(world: World) -> None:
    """Promise 8: nothing written under the old identity reaches the new one; the lock is released."""
    token = await world.new(n=1)
    holder = await world.load(token)
    with pytest.raises(SessionGone):
        async with holder.lock():
            login = await world.load(token, world.process())
            login.rotate()
            await login.commit()
            assert await lease_of(world, token) is not None
            holder["n"] = 2
    await world.manager.drain()
    assert await lease_of(world, token) is None
    assert await world.read(credential(login)) == {"n": 1}


async def test_a_login_under_the_lock(world: World) -> None:
    """A rotation is carried out, and the lock released, in the one save."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        world.store.calls.clear()
        session.rotate()
        session["n"] = 2
    assert world.store.counts() == {"save": 1}
    assert await lease_of(world, token) is None
    assert await world.read(credential(session)) == {"n": 2}
    assert await world.read(token) is None


async def test_the_store_was_away_at_the_load() -> None:
    """An anonymous session cannot be locked: that would be no lock."""
    world = World(on_unavailable="anonymous")
    token = await world.new(n=1)
    world.store.fail("load")
    session = world.session(token)
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            pytest.fail("entered")


@pytest.mark.parametrize(
    "terms",
    [{"wait": -1}, {"wait": float("nan")}, {"lease": 0}, {"lease": "30"}, {"max_hold": timedelta(days=2)}],
)
async def test_durations_that_make_no_sense(world: World, terms: dict[str, Any]) -> None:
    """They are refused when they are given, by name."""
    with pytest.raises(ValueError, match=next(iter(terms))):
        world.session().lock(**terms)


# ---------------------------------------------------------------- waiting in vain


async def test_the_wait_is_exceeded(world: World) -> None:
    """An error, no entrance; and the queue is left again, so that nobody hands over to nobody."""
    token = await world.new(n=1)
    other = world.process()
    async with (await world.load(token)).lock():
        waiting = await world.load(token, other)
        with pytest.raises(LockTimeout, match=r"could not acquire the lock within 0\.01 s\. Another request"):
            async with waiting.lock(wait=timedelta(milliseconds=10)):
                pytest.fail("entered")
        await other.drain()
        lease = await lease_of(world, token)
        assert lease is not None
        assert lease.queue == ()
        assert locks_in_use(other) == 0
    assert world.named("lock_timeout") == [{}]


async def test_a_wait_of_zero_is_one_attempt(world: World) -> None:
    """It takes a lock that is free, and does not wait for one that is not."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(wait=0):
        for manager in (world.manager, world.process()):
            with pytest.raises(LockTimeout):
                async with (await world.load(token, manager)).lock(wait=0):
                    pytest.fail("entered")


async def test_cancelled_while_it_waits(world: World) -> None:
    """The one behind it gets its place."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    leaving = await line.queue("b", other)
    staying = await line.queue("c", other)
    leaving.cancel()
    gate.set()
    await asyncio.gather(first, staying)
    assert line.entered == ["a", "c"]
    assert leaving.cancelled()


@pytest.mark.parametrize("others", [False, True])
async def test_cancelled_while_it_takes_the_lock(world: World, others: bool) -> None:
    """What its save brings is for who waits behind it, or is given back."""
    token = await world.new(n=0)
    line = Line(world, token)
    gate = world.store.pause("save")
    taking = start(line.client("a", world.manager))
    await gate.reached()
    waiting = [await start_waiting(line, "b", world.manager)] if others else []
    taking.cancel()
    await settle()
    gate.release()
    await asyncio.gather(*waiting)
    await world.manager.drain()
    assert taking.cancelled()
    assert line.entered == (["b"] if others else [])
    assert await lease_of(world, token) is None
    assert locks_in_use(world.manager) == 0


async def start_waiting(line: Line, name: str, manager: SessionManager) -> asyncio.Task[None]:
    task = start(line.client(name, manager))
    await settle()
    return task


async def test_cancelled_at_the_moment_it_is_let_in(world: World) -> None:
    """The lock is passed on, not forgotten."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", world.manager)
    third = await line.queue("c", world.manager)
    gate.set()
    while waiters_for(world.manager, token) > 1:
        await asyncio.sleep(0)
    assert line.entered == ["a"], "it has been let in, and does not know it yet"
    second.cancel()
    await asyncio.gather(first, third)
    assert line.entered == ["a", "c"]
    assert second.cancelled()


async def test_a_grant_to_a_process_where_nobody_waits_any_more_is_passed_on(world: World) -> None:
    """Even when leaving the queue has failed: the wake-up finds nobody, and the next gets the lock."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    b, c = world.process(), world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    leaving = await line.queue("b", b)
    await until(lambda: is_listening(b))
    staying = await line.queue("c", c)
    await settle()
    world.store.fail("save")
    leaving.cancel()
    await settle()
    lease = await lease_of(world, token)
    assert lease is not None
    assert len(lease.queue) == 2, "it could not leave"
    gate.set()
    await asyncio.gather(first, staying)
    assert await world.read(token) == {"n": 2}


# ---------------------------------------------------------------- leaving in other ways


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, OSError])
async def test_an_error_in_the_block_discards_what_was_changed_in_it(
    world: World, error: type[BaseException]
) -> None:
    """It must not be merged later, without the lock."""
    token = await world.new(n=1, cart=[1])
    session = await world.load(token)
    with pytest.raises(error):
        async with session.lock():
            session["n"] = 2
            session["cart"].append(2)
            session["more"] = 3
            session.rotate()
            raise error
    assert dict(session) == {"n": 1, "cart": [1]}
    assert not session.modified
    session["after"] = 1
    await session.commit()
    await world.manager.drain()
    assert await world.read(token) == {"n": 1, "cart": [1], "after": 1}
    assert await lease_of(world, token) is None


async def test_a_destroy_in_the_block_is_not_discarded(world: World) -> None:
    """An explicit destroy() is carried out whatever happens."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(ZeroDivisionError):
        async with session.lock():
            session.destroy()
            raise ZeroDivisionError
    await session.commit()
    assert await world.read(token) is None


async def test_cancelled_while_it_commits_and_releases(world: World) -> None:
    """The save goes on without the request: applied once, and released."""
    token = await world.new(n=1)
    session = await world.load(token)
    gate = world.store.pause("save", nth=2)

    async def work() -> None:
        async with session.lock():
            session["n"] += 1

    task = start(work())
    await gate.reached()
    task.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    assert task.cancelled()
    assert await world.read(token) == {"n": 2}
    assert await lease_of(world, token) is None


async def test_cancelled_while_it_commits_in_vain() -> None:
    """What could not be saved under the lock is not merged later without it."""
    world = World(deadline=0.2)
    token = await world.new(n=1)
    session = await world.load(token)
    gate = world.store.pause("save", nth=2)
    world.store.fail("save", nth=3, times=None)

    async def work() -> None:
        async with session.lock():
            session["n"] += 1

    task = start(work())
    await gate.reached()
    task.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    world.store.heal()
    assert not session.modified
    await session.commit()
    assert await world.read(token) == {"n": 1}


async def test_the_reply_to_the_last_save_is_lost(world: World) -> None:
    """Promise 7: it was applied, which is found out; and released."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] += 1
        world.store.fail("save", "lost reply")
    assert await world.read(token) == {"n": 2}
    assert await lease_of(world, token) is None


async def test_the_last_save_is_refused(world: World) -> None:
    """The error comes out, the changes are forgotten, the lock is released as soon as possible."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            session["n"] += 1
            world.store.fail("save")
    assert not session.modified
    assert session["n"] == 1
    await world.manager.drain()
    assert await lease_of(world, token) is None


@pytest.mark.parametrize(
    ("value", "error"), [("x" * 90_000, SessionTooLarge), (object(), SessionSerializationError)]
)
async def test_what_cannot_be_stored(world: World, value: Any, error: type[SessionError]) -> None:
    """As above: an error, nothing written, released."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(error):
        async with session.lock():
            session["n"] = value
    assert session["n"] == 1
    await world.manager.drain()
    assert await lease_of(world, token) is None


async def test_the_lock_cannot_be_taken(world: World) -> None:
    """The store's error for all who wait; and the next one starts afresh."""
    token = await world.new(n=1)
    sessions = [await world.load(token) for _ in range(2)]
    gate = world.store.pause("save")
    world.store.fail("save")

    async def work(session: Session) -> None:
        async with session.lock():
            pytest.fail("entered")

    tasks = [start(work(session)) for session in sessions]
    await gate.reached()
    await settle()
    gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert results[0] is not results[1], "a traceback belongs to one request"
    async with sessions[0].lock(wait=0):
        pass


# ---------------------------------------------------------------- losing it


@pytest.mark.parametrize("new_holder", ["somebody", "this process again", "nobody"])
async def test_a_save_under_a_lock_that_has_passed_on_is_refused(world: World, new_holder: str) -> None:
    """Promise 12: nothing written, no merge; also when the process holds the lock again."""
    token = await world.new(n=1)
    session = await world.load(token)
    name = process_name(world.manager)
    with pytest.raises(LockLost):
        async with session.lock():
            lease = await lease_of(world, token)
            assert lease is not None
            by = {
                "somebody": changed(lease, process=SOMEBODY, fence=99),
                "this process again": changed(lease, process=name, fence=lease.fence + 1),
                "nobody": None,
            }
            await put(world, token, by[new_holder])
            session["n"] = 2
    assert session["n"] == 1
    assert not session.modified
    session["after"] = 1
    await session.commit()
    assert await world.read(token) == {"n": 1, "after": 1}
    await world.manager.drain()
    if new_holder == "somebody":
        assert await lease_of(world, token) == by["somebody"], "it was not released by the wrong one"


async def test_a_commit_inside_finds_the_lock_lost(world: World) -> None:
    """So does `transact`; what comes after the error in the block is not saved either."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock():
            await held_by_somebody(world, token)
            session["n"] = 2
            with pytest.raises(LockLost):
                await session.commit()
            with pytest.raises(LockLost):
                await session.transact(lambda draft: draft.update(n=3))
            session["n"] = 4
    assert await world.read(token) == {"n": 1}


@pytest.mark.usefixtures("eager")
async def test_the_lock_is_renewed_while_the_block_runs(world: World) -> None:
    """And each renewal lasts for `lease`."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=1.5):
        first = await lease_of(world, token)
        assert first is not None
        world.clock.ms += 1
        async with asyncio.timeout(5):
            while (later := await lease_of(world, token)) == first:
                await asyncio.sleep(0.001)
        assert later is not None
        assert later.length == 1500
        assert later.fence == first.fence
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


@pytest.mark.usefixtures("eager")
async def test_a_renewal_that_finds_the_lock_lost(world: World) -> None:
    """It does not cancel the block; its next commit raises. Who waits here goes on waiting."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(lease=30):
            await held_by_somebody(world, token, length=60_000)
            await until(lambda: world.named("lock_lost") != [])
            line = Line(world, token)
            waiter = await line.queue("a", world.manager)
            session["n"] = 2
    await put(world, token, None)
    await waiter
    assert await world.read(token) == {"n": 2}


@pytest.mark.usefixtures("eager")
async def test_a_renewal_that_the_store_refuses_is_tried_again(world: World) -> None:
    """A store that is away for a moment costs nobody the lock."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=0.1):
        world.store.fail("save", times=2)
        renewed = await lease_of(world, token)
        world.clock.ms += 1
        async with asyncio.timeout(5):
            while await lease_of(world, token) == renewed:
                await asyncio.sleep(0.001)
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


async def test_no_longer_than_max_hold(world: World) -> None:
    """The lock ends, whatever the block does, and goes to the next one."""
    token = await world.new(n=1)
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(max_hold=0.1):
            await Line(world, token).client("b", world.process())
            assert world.named("lock_lost") != []
            session["n"] = 9
    assert await world.read(token) == {"n": 2}


async def test_a_wake_up_that_overtakes_the_reply_to_the_exit(world: World) -> None:
    """It tells of a newer version than that reply; both come on connections of their own."""
    token = await world.new(n=0)
    a, b = world.process(), world.process()
    line, gate = Line(world, token), asyncio.Event()
    tasks = [start(line.client("a", a, gate))]
    await until(lambda: line.inside == 1)
    tasks += [await line.queue("b", b)]
    await until(lambda: is_listening(b))
    # a waits in line again behind b, so that it listens and is told of b's exit.
    listen(a)
    await until(lambda: is_listening(a))
    tasks += [await line.queue("a", a)]
    end_turn(a, token)
    reply = world.store.pause("save", when="after")
    gate.set()
    await reply.reached()
    await until(lambda: line.entered == ["a", "b"] and line.inside == 0)
    await until(lambda: is_granted(a, token))  # again, and it has heard of it
    reply.release()
    async with asyncio.timeout(1):
        await asyncio.gather(*tasks)
    assert line.entered == ["a", "b", "a"]


@pytest.mark.usefixtures("eager")
async def test_renewal_stops_with_the_task(world: World) -> None:
    """A task that has ended without leaving the block does not hold the lock for ever."""
    token = await world.new(n=1)
    session = await world.load(token)
    block = session.lock()
    await start(block.__aenter__())
    line = Line(world, token)
    await line.client("b", world.process())
    with pytest.raises(LockLost):
        session["n"] = 9
        await block.__aexit__(None, None, None)
    assert await world.read(token) == {"n": 2}


@pytest.mark.parametrize("again", [1, 3])
async def test_a_failover_that_lost_what_was_saved_under_the_lock(world: World, again: int) -> None:
    """What the store has is the newest data, although a session knows a higher version of it."""
    token = await world.new(n=1)
    before = await world.memory.load(token[:22], deadline=soon())
    assert before is not None
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    lost = await world.memory.save(
        token[:22], before.data, before.expires_at, expect=stored.tag, deadline=soon()
    )
    assert isinstance(lost, Saved)
    for count in range(1, again + 1):
        async with session.lock():
            assert session["n"] == count
            session["n"] += 1
    assert await world.read(token) == {"n": 1 + again}


# ---------------------------------------------------------------- the dead and the deaf


async def test_a_holder_that_died_long_ago(world: World) -> None:
    """Its lease is over by any clock: nobody waits for it."""
    token = await world.new(n=1)
    dead = await held_by_somebody(world, token)
    world.clock.ms = dead.until + MAX_SKEW + 1
    async with (await world.load(token)).lock(wait=1) as session:
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


async def test_clocks_that_differ_end_nobody_s_lease(world: World) -> None:
    """A clock that is ahead does not make a lease shorter: it is watched for its length."""
    token = await world.new(n=1)
    lease = await held_by_somebody(world, token, until=world.clock() - MAX_SKEW + 100)
    world.clock.ms += 50
    with pytest.raises(LockTimeout):
        async with (await world.load(token)).lock(wait=0.05):
            pytest.fail("entered")
    await world.manager.drain()
    assert await lease_of(world, token) == lease


async def test_a_lease_that_is_watched_until_it_is_over(world: World) -> None:
    """A holder that is not heard of for the length of its lease, whatever the clocks say, is dead."""
    token = await world.new(n=1)
    await held_by_somebody(world, token, length=30, until=world.clock() + 10**9)
    async with (await world.load(token)).lock() as session:
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


async def test_a_waiter_that_died(world: World) -> None:
    """Whoever watches passes its grant on to the next in line, and wakes that one up."""
    token = await world.new(n=0)
    line = Line(world, token)
    b, c = world.process(), world.process()
    await held_by_somebody(world, token)
    tasks = [await line.queue("b", b), await line.queue("c", c)]
    lease = await lease_of(world, token)
    assert lease is not None
    dead = changed(lease, fence=100, length=20, queue=lease.queue)
    await put(world, token, dead)
    for manager in (b, c):
        look_again(manager, token)
    await asyncio.gather(*tasks)
    assert line.entered == ["b", "c"]
    assert await world.read(token) == {"n": 2}


@pytest.mark.usefixtures("eager")
async def test_a_wake_up_that_was_lost(world: World) -> None:
    """A timed look finds the grant."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", other)
    await until(lambda: is_listening(other))
    world.store.lose_wakeups()
    gate.set()
    await asyncio.gather(first, second)
    assert world.store.wakeups_lost >= 1
    assert await world.read(token) == {"n": 2}


async def test_wake_ups_may_have_been_lost(world: World) -> None:
    """A store that says so has everybody look at once."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", other)
    await until(lambda: is_listening(other))
    await settle()
    world.store.lose_wakeups()
    gate.set()
    await first
    await settle()
    assert line.entered == ["a"]
    world.store.interrupt_wakeups()
    await second


class Silent:
    """A store without wake-ups."""

    def __init__(self, memory: MemoryStore) -> None:
        self.open, self.close = memory.open, memory.close
        self.load, self.create, self.save = memory.load, memory.create, memory.save
        self.touch, self.delete = memory.touch, memory.delete


async def test_a_store_without_wake_ups_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    """With jitter, and it says so; the order is kept all the same."""
    caplog.set_level(logging.INFO, "asgi_session")
    world = World(Silent)
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    tasks = [first, *[start(line.client(name, world.process())) for name in "bc"]]
    await until(lambda: world.store.counts().get("save", 0) >= 3)
    gate.set()
    await asyncio.gather(*tasks)
    assert await world.read(token) == {"n": 3}
    assert "has no wake-ups" in caplog.text


async def test_a_store_that_refuses_to_wake_up(caplog: pytest.LogCaptureFixture) -> None:
    """As one without, with a warning that says why."""

    class Refusing(FaultStore):
        async def _listen(self, *args: Any, **options: Any) -> Any:
            raise StoreUnavailable("NOPERM, say")

    world = World()
    world.store = Refusing(world.memory)
    world.manager = world.process()
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = start(line.client("b", world.process()))
    await until(lambda: "NOPERM" in caplog.text)
    gate.set()
    await asyncio.gather(first, second)
    assert await world.read(token) == {"n": 2}


# ---------------------------------------------------------------- outside a request


async def test_outside_a_request(world: World) -> None:
    """By the public id; the same lock, and no use by the client."""
    token = await world.new(n=1)
    expiry = await world.expiry(token)
    world.clock.ms += 3_600_000
    async with world.manager.lock(token[:22], wait=1, lease=5) as session:
        assert session["n"] == 1
        assert session.id == token[:22]
        with pytest.raises(SessionError, match="rotate"):
            session.rotate()
        session["n"] = 2
        await session.commit()
    assert await world.expiry(token) == expiry
    async with (await world.load(token, world.process())).lock():
        with pytest.raises(LockTimeout):
            async with world.manager.lock(token[:22], wait=0):
                pytest.fail("entered")
    assert await world.read(token) == {"n": 2}
    async with world.manager.lock(token[:22]) as session:
        session.destroy()
    assert await world.read(token) is None


async def test_outside_a_request_there_is_no_such_session(world: World) -> None:
    """Nothing is created by asking for it."""
    token = await world.new(n=1)
    with pytest.raises(ValueError, match="not a session id"):
        world.manager.lock(token)
    ending = await world.load(token)
    ending.destroy()
    await ending.commit()
    for selector in (token[:22], "A" * 22):
        with pytest.raises(SessionGone):
            async with world.manager.lock(selector):
                pytest.fail("entered")


async def test_outside_a_request_no_cookie_can_go_out(world: World) -> None:
    """`rotate` and `clear` say so, and what to do instead."""
    token = await world.new(n=1)
    async with world.manager.lock(token[:22]) as session:
        for change in (session.rotate, session.clear):
            with pytest.raises(SessionError, match="outside a request"):
                change()
        session["n"] = 2
    assert await world.read(token) == {"n": 2}


# ---------------------------------------------------------------- being told


@pytest.mark.parametrize("end", ["destroy", "revoke", "rotate"])
async def test_who_waits_is_told_that_the_session_has_ended(world: World, end: str) -> None:
    """At once, also in the process in which it was ended, by a request without the lock."""
    token = await world.new(n=1)
    await held_by_somebody(world, token)
    line = Line(world, token)
    waiter = await line.queue("a", world.manager)
    if end == "revoke":
        await world.manager.revoke(token[:22])
    else:
        session = await world.load(token)
        getattr(session, end)()
        await session.commit()
        if end == "rotate":  # the lock is still somebody's; its end is what the waiter waits for
            await put(world, credential(session), None)
            look_again(world.manager, token)
    async with asyncio.timeout(1):
        with pytest.raises(SessionGone):
            await waiter


async def test_each_hold_has_its_end_in_the_events(world: World) -> None:
    """Released with a commit or without one, or lost."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        session["n"] = 2
    with pytest.raises(ZeroDivisionError):
        async with session.lock():
            raise ZeroDivisionError
    with pytest.raises(LockLost):
        async with session.lock():
            await put(world, token, None)
            session["n"] = 3
    async with session.lock():
        session.destroy()
    told = [
        (name, info.get("committed"))
        for name, _, info in world.events
        if "lock" in name or name == "released"
    ]
    assert told == [
        ("locked", None),
        ("released", True),
        ("locked", None),
        ("released", False),
        ("locked", None),
        ("lock_lost", None),
        ("locked", None),
        ("released", True),
    ]


@pytest.mark.usefixtures("eager")
async def test_a_long_hold_of_one_merges_with_nobody(world: World) -> None:
    """Its own renewals, and others that queue, are no changes of the data; and each way is one save."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock(lease=30):
        first = await lease_of(world, token)
        async with asyncio.timeout(5):
            while await lease_of(world, token) == first:
                await asyncio.sleep(0.001)
        await settle()
        world.store.calls.clear()
        session["n"] = 2
    assert world.store.counts() == {"save": 1}
    assert world.named("merged") == []


async def test_discard(world: World) -> None:
    """What was changed since the last commit is as it was; a destroy() is not taken back."""
    token = await world.new(n=1, cart=[1])
    session = await world.load(token)
    session["n"] = 2
    session["cart"].append(2)
    session["more"] = 3
    session.rotate()
    session.discard()
    assert not session.modified
    assert dict(session) == {"n": 1, "cart": [1]}
    session.clear()
    session["new"] = 1
    session.discard()
    assert dict(session) == {"n": 1, "cart": [1]}
    session["n"] = 5
    await session.commit()
    session.discard()
    assert session["n"] == 5
    session.destroy()
    session.discard()
    await session.commit()
    assert await world.read(token) is None
    new = world.session()
    await new.load()
    new["n"] = 1
    new.discard()
    assert dict(new) == {}
    await new.commit()
    assert new.is_new


class Gate:
    """A store's saves wait here, from when it is made until it is opened."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        for name in ("save", "save_and_wake"):
            monkeypatch.setattr(world.store, name, self._waiting(getattr(world.store, name)))

    def _waiting(self, verb: Any) -> Any:
        async def wait(*arguments: Any, **options: Any) -> Any:
            await self.opened.wait()
            return await verb(*arguments, **options)

        return wait


async def test_who_comes_while_the_process_leaves_the_queue(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the queue, and is woken up; it does not wait in none."""
    token = await world.new(n=0)
    other = world.process()
    holder, first, second = (
        await world.load(token),
        await world.load(token, other),
        await world.load(token, other),
    )
    async with holder.lock():
        waiting = start(first.lock().__aenter__())
        await settle()
        gate = Gate(world, monkeypatch)
        waiting.cancel()
        await settle()
        entering = start(second.lock().__aenter__())
        await settle()
        gate.opened.set()
        await settle()
        lease = await lease_of(world, token)
        assert lease is not None
        assert len(lease.queue) == 1
    await asyncio.wait_for(entering, 1)


async def test_another_task_enters_while_the_block_is_being_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a hold of its own: the one that ends cannot be entered again."""
    token = await world.new(n=0)
    session, other = await world.load(token), await world.load(token, world.process())
    left, inside, leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with session.lock():
            await left.wait()

    async def second() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()

    one = start(first())
    await settle()
    gate = Gate(world, monkeypatch)
    session["c"] = 1
    commit = start(session.commit())
    await settle()
    left.set()
    await settle()
    two = start(second())
    await settle()
    gate.opened.set()
    await asyncio.wait_for(inside.wait(), 5)
    with pytest.raises(LockTimeout):
        await other.lock(wait=0).__aenter__()
    leave.set()
    await asyncio.gather(one, commit, two)
    assert await lease_of(world, token) is None


async def test_a_lost_block_does_not_release_that_of_another_task(world: World) -> None:
    """Promise 12: it is told, and the other task of its request keeps the lock and its changes."""
    token = await world.new(n=0)
    session, holder = await world.load(token), await world.load(token, world.process())
    inside, leave = asyncio.Event(), asyncio.Event()

    async def lost() -> None:
        async with session.lock(max_hold=0.1):
            await inside.wait()

    async def keeps() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()
            session["n"] += 1

    async with holder.lock():
        one, two = start(lost()), start(keeps())
        await settle()
    with pytest.raises(LockLost):
        await one
    assert await lease_of(world, token) is not None
    leave.set()
    await two
    assert await world.read(token) == {"n": 1}


async def test_what_failed_in_a_block_of_a_new_session_is_not_saved_later(world: World) -> None:
    """As for one that is stored."""
    session = world.session()
    await session.load()
    world.store.fail("create")
    with pytest.raises(StoreUnavailable):
        async with session.lock():
            session["paid"] = 1
    assert dict(session) == {}


async def test_a_function_that_is_cancelled_cancels_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the task of whoever saves."""
    token = await world.new(n=0)
    one, two = await world.load(token), await world.load(token)
    newer = await world.load(token, world.process())
    newer["newer"] = 1
    await newer.commit()
    gate = Gate(world, monkeypatch)
    one["one"] = 1
    leader = start(one.commit())
    await settle()
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    follower = start(two.transact(lambda draft: cancelled.result()))
    await settle()
    gate.opened.set()
    await leader
    with pytest.raises(RuntimeError, match="CancelledError"):
        await follower
    assert await world.read(token) == {"n": 0, "newer": 1, "one": 1}


async def test_a_wake_up_that_overtakes_the_reply_to_another_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was granted the lock since that conflict is not refused on what it brings."""
    token = await world.new(n=0)
    process = world.process()
    holder = await world.load(token)
    waiter, writer = await world.load(token, process), await world.load(token, process)
    answered, delivered = asyncio.Event(), asyncio.Event()
    save = world.store.save

    async def save_with_a_slow_reply(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(world.store, "save", save)
        answer = await save(*arguments, **options)
        answered.set()
        await delivered.wait()
        return answer

    async def locked() -> None:
        async with waiter.lock():
            waiter["n"] += 1

    async with holder.lock():
        waiting = start(locked())
        await settle()
        holder["newer"] = 1
        await holder.commit()
        monkeypatch.setattr(world.store, "save", save_with_a_slow_reply)
        writer["note"] = 1
        writing = start(writer.commit())
        await answered.wait()
    await settle()
    assert not holds_lock(waiter), "it has left, and its commit queues behind the other one"
    delivered.set()
    await asyncio.gather(waiting, writing)
    assert await world.read(token) == {"n": 1, "newer": 1, "note": 1}


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_session_that_begins_anew_in_the_block(world: World, revoked: bool) -> None:
    """The lock goes on with the new one; who waited for the old one is told that it is gone."""
    token = await world.new(n=0)
    session, waiter = await world.load(token), await world.load(token, world.process())
    async with session.lock():
        waiting = start(waiter.lock().__aenter__())
        await settle()
        if revoked:
            await world.manager.revoke(token[:22])
        session.clear()
        if revoked:
            session["w"] = 1
        await session.commit()
        session["x"] = 1
        await session.commit()
        session["y"] = 2
        assert await lease_of(world, credential(session)) is not None
    stored = await world.read(credential(session))
    assert stored is not None
    assert stored.items() >= {"x": 1, "y": 2}.items()
    assert await lease_of(world, credential(session)) is None
    if not revoked:
        with pytest.raises(SessionGone):
            await asyncio.wait_for(waiting, 5)
    waiting.cancel()


async def test_a_block_that_outlives_the_task_that_entered_first(world: World, eager: None) -> None:
    """The lock is the request's: it is renewed for the task that entered again."""
    token = await world.new(n=0)
    session = await world.load(token)
    inside, leave = asyncio.Event(), asyncio.Event()

    async def again() -> None:
        async with session.lock():
            inside.set()
            await leave.wait()
            session["n"] += 1

    async def first() -> asyncio.Task[None]:
        async with session.lock(lease=0.1):
            task = start(again())
            await inside.wait()
        return task

    task = await first()
    before = await lease_of(world, token)
    assert before is not None

    async def renewed() -> None:
        while await lease_of(world, token) == before:
            await asyncio.sleep(0.001)

    await asyncio.wait_for(renewed(), 5)
    leave.set()
    await task
    assert await world.read(token) == {"n": 1}


async def test_data_that_comes_too_late_for_its_cookie(world: World) -> None:
    """At the end of a block it is called that, as by `commit`."""
    session = world.session()
    await session.load()
    seal(session)
    with pytest.raises(SessionError, match="after the response had started"):
        async with session.lock():
            session["x"] = 1


async def test_an_awaitable_from_a_plain_function_of_a_new_session(world: World) -> None:
    """As for one that is stored."""
    session = world.session()

    async def late() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        await session.transact(lambda draft: late())


async def test_a_malformed_lock_fails_who_waits(world: World) -> None:
    """Whoever can write to the store can spoil the field: that is SessionCorrupt, and nobody hangs."""
    token = await world.new(n=1)
    await held_by_somebody(world, token)
    waiting = start(self_increment(await world.load(token)))
    await until(lambda: is_listening(world.manager))
    await settle()
    await rewrite(world.memory, token[:22], with_spoilt_lease, world.clock())
    world.store.interrupt_wakeups()
    with pytest.raises(SessionCorrupt, match="lock"):
        async with asyncio.timeout(5):
            await waiting
