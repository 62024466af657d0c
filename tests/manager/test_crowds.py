"""Promise 15: many requests of one session cost as much as many requests of many, and the loop breathes."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_session import SessionManager, StoreUnavailable, merging
from asgi_session.errors import LockTimeout
from asgi_session.stores.memory import MemoryStore
from tests.inside import locks_in_use, looks_under_way, note_folds, wake_up
from tests.manager.kit import World, settle, start, until


async def steps(work: Callable[[], Awaitable[object]]) -> int:
    """Return how many functions were called while `work` ran, those in C included."""
    count = 0

    def count_call(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(count_call)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return count


async def writers(number: int) -> int:
    """Have so many requests of one session commit at once; the number of calls."""
    world = World()
    token = await world.new(n=0)
    sessions = [await world.load(token) for _ in range(number)]
    for index, session in enumerate(sessions):
        session[f"k{index % 50}"] = index

    gate = world.store.pause("save")

    async def commit() -> None:
        commits = [start(session.commit()) for session in sessions]
        await gate.reached()
        gate.release()
        await asyncio.gather(*commits)

    count = await steps(commit)
    assert world.store.counts()["save"] <= number // 100 + 2, "they met"
    return count


async def test_writers() -> None:
    """Twice as many are twice the work."""
    few, many = await writers(400), await writers(1600)
    assert many < 4 * few * 1.2


async def test_a_batch_is_bounded_and_the_loop_breathes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many commits wait, no more than a hundred are folded without a pause; each has its result."""
    folded = note_folds(monkeypatch)
    turns = 0
    world = World()
    token = await world.new(n=0)
    sessions = [await world.load(token) for _ in range(1000)]
    for index, session in enumerate(sessions):
        session[f"k{index}"] = index

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    gate = world.store.pause("save")
    commits = [start(session.commit()) for session in sessions]
    await gate.reached()
    await settle()
    task = start(others())
    gate.release()
    await asyncio.gather(*commits)
    task.cancel()
    assert max(folded) == 100
    assert len(folded) == 11, "one by itself, then the crowd"
    assert turns >= 11
    assert await world.read(token) == {"n": 0, **{f"k{index}": index for index in range(1000)}}


async def test_the_batch_stays_bounded_after_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What joins a batch after a conflict counts as well, and order of arrival is kept."""
    world = World()
    token = await world.new(n=0)
    sessions = [await world.load(token) for _ in range(350)]
    for index, session in enumerate(sessions):
        session["last"] = index
    other = await world.load(token, world.process())
    other["other"] = 1
    folded = note_folds(monkeypatch)
    gate = world.store.pause("save")
    commits = [start(session.commit()) for session in sessions]
    await gate.reached()
    await settle()
    await other.commit()
    gate.release()
    await asyncio.gather(*commits)
    assert max(folded) == 100
    assert await world.read(token) == {"n": 0, "last": 349, "other": 1}


async def test_a_crowd_that_expires_in_the_queue() -> None:
    """Each is failed by its own timer, without a look at the others."""

    async def expire(number: int) -> int:
        world = World(deadline=0.05)
        token = await world.new(n=0)
        sessions = [await world.load(token) for _ in range(number)]
        for index, session in enumerate(sessions):
            session[f"k{index}"] = index
        gate = world.store.pause("save")
        results: list[Any] = []

        async def run() -> None:
            results.extend(
                await asyncio.gather(*(each.commit() for each in sessions[1:]), return_exceptions=True)
            )

        first = start(sessions[0].commit())
        await gate.reached()
        count = await steps(run)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert all(result.executed is False for result in results)
        gate.release()
        await asyncio.gather(first, return_exceptions=True)
        await world.manager.drain()
        assert world.store.counts()["save"] == 1
        return count

    few, many = await expire(200), await expire(800)
    assert many < 4 * few * 1.3


async def test_a_crowd_that_waits_for_a_lock() -> None:
    """So too the ones that give up waiting for it."""

    async def give_up(number: int) -> int:
        world = World()
        token = await world.new(n=0)
        sessions = [await world.load(token) for _ in range(number)]
        holder = await world.load(token, world.process())
        results: list[Any] = []

        async def enter(session: Any) -> None:
            async with session.lock(wait=0.05):
                raise AssertionError("two hold the lock")

        async def run() -> None:
            results.extend(await asyncio.gather(*map(enter, sessions), return_exceptions=True))

        async with holder.lock():
            count = await steps(run)
        assert all(isinstance(result, LockTimeout) for result in results)
        await until(lambda: locks_in_use(world.manager) == 0)
        return count

    few, many = await give_up(200), await give_up(800)
    assert many < 4 * few * 1.3


async def test_a_long_list_is_merged() -> None:
    """Two requests that have changed a list of many items: the rule looks each up, and searches for none."""

    async def merge(number: int) -> int:
        base = list(range(number))
        mine, theirs = [*base[1:], "mine"], [*base[: number // 2], *base[number // 2 + 1 :], "theirs"]
        merged: list[Any] = []

        async def run() -> None:
            merged.extend(merging.append(base, mine, theirs) or [])

        count = await steps(run)
        assert merged[-2:] == ["theirs", "mine"]
        assert len(merged) == number
        return count

    few, many = await merge(2000), await merge(8000)
    assert many < 4 * few * 1.2


async def test_a_flood_of_wake_ups_does_not_keep_a_manager_open() -> None:
    """Promise 16: loads that messages have caused are nobody's to wait for when the app shuts down."""

    class Slow(MemoryStore):
        async def load(self, key: str, *, deadline: float) -> Any:
            await asyncio.sleep(0.03)
            return await super().load(key, deadline=deadline)

    manager = SessionManager(Slow(), deadline=1)

    async def flood() -> None:
        while True:
            wake_up(manager, secrets.token_urlsafe(16))
            await asyncio.sleep(0.001)

    flooding = start(flood())
    await until(lambda: looks_under_way(manager) > 0)
    async with asyncio.timeout(1):
        await manager.close()
    flooding.cancel()


async def test_leaving_a_lock_does_not_wait_long_for_a_load() -> None:
    """Promise 11: a load that a message has caused costs the exit a tenth of a second at most."""
    world = World(deadline=0.5)
    session = await world.load(await world.new(n=1))
    async with asyncio.timeout(2):
        async with session.lock():
            session["n"] = 2
            gate = world.store.hang("load")
            wake_up(world.manager, session.id or "")
            await gate.reached()
    assert world.named("released")[-1]["committed"]
    gate.release()
