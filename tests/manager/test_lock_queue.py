"""Waiting for a lock: who gets in when, who has waited in vain, and whose lease is over."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from asgi_session.errors import LockTimeout
from tests.inside import MAX_SKEW, changed, is_listening, locks_in_use, look_again
from tests.manager.kit import World, settle, start, until
from tests.manager.lock_kit import Gate, Line, held_by_somebody, lease_of, put, self_increment


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


async def test_a_wait_that_is_over_while_the_lock_is_being_taken(world: World) -> None:
    """What is on its way may still let it in: even a wait of 0 is one attempt."""
    token = await world.new(n=1)
    gate = world.store.pause("save")

    async def work() -> None:
        async with (await world.load(token)).lock(wait=0) as session:
            session["n"] += 1

    task = start(work())
    await gate.reached()
    await settle()
    gate.release()
    await task
    assert await world.read(token) == {"n": 2}


async def test_a_wait_that_is_over_before_the_lock_was_taken_by_another(world: World) -> None:
    """Its attempt is made, found to be in vain, and then it is out of time."""
    token = await world.new(n=1)
    gate = world.store.pause("save")
    waiting = start((await world.load(token)).lock(wait=0).__aenter__())
    await gate.reached()
    await settle()
    await held_by_somebody(world, token)
    gate.release()
    with pytest.raises(LockTimeout):
        await waiting
    assert world.named("lock_timeout") == [{}]


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_wait_that_is_over_while_another_takes_the_lock(world: World, leaves: bool) -> None:
    """It is one attempt all the same: the lock is its own if the other has left by then."""
    token = await world.new(n=0)
    line = Line(world, token)
    gate = world.store.pause("save")
    taking = start(line.client("a", world.manager))
    await gate.reached()

    async def work() -> None:
        async with (await world.load(token)).lock(wait=0) as session:
            session["n"] += 10

    waiting = start(work())
    await settle()
    if leaves:
        taking.cancel()
        await settle()
    gate.release()
    if leaves:
        await waiting
    else:
        with pytest.raises(LockTimeout):
            await waiting
        await taking
    assert await world.read(token) == {"n": 10 if leaves else 1}
