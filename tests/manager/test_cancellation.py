"""Cancel loads, commits and refreshes at each of their awaits, one run for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_session import Session
from asgi_session.testing import FaultStore
from tests.inside import (
    around_verbs,
    is_committing,
    manager_of,
    saves_under_way,
    shortest_pauses,
    status_of,
    tasks_of,
)
from tests.manager.kit import World, credential, start

LIMIT = 400
"""More turns of the event loop than any of these takes."""


@pytest.fixture(autouse=True)
def _pauses_take_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause before a retry is measured in turns here, not in milliseconds."""
    shortest_pauses(monkeypatch)


class SlowWorld(World):
    """Each verb takes a few turns of the event loop before and after it executes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

        async def slow(call: Any, verb: Callable[[], Awaitable[Any]], run: Callable[..., Any]) -> Any:
            async def turns() -> Any:
                await asyncio.sleep(0)
                result = await verb()
                await asyncio.sleep(0)
                return result

            return await run(call, turns)

        around_verbs(self.store, slow)


async def cancel_after(turns: int, work: Awaitable[Any]) -> bool:
    """Run `work` and cancel it after so many turns of the loop; whether it was still running."""
    task = start(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    running = task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return running and task.cancelled()


async def check_unharmed(world: World, token: str, session: Session) -> None:
    """Everything goes on: this session, others of the same record, and the end of the process."""
    async with asyncio.timeout(5):
        other = await world.load(token)
        other["other"] = 1
        await other.commit()
        await world.manager.drain()
        assert not is_committing(session)
        assert not saves_under_way(manager_of(session))
        if status_of(session) != "ended":
            await session.load()
            session["again"] = 1
            await session.commit()
            found = await world.read(credential(session))
            assert found is not None
            assert found["again"] == 1
        await world.manager.drain()
        assert not tasks_of(manager_of(session))


async def walk(one: Callable[[int], Awaitable[bool]]) -> None:
    """Do `one` with the cancellation after 0, 1, 2, ... turns, until it comes too late."""
    for turns in range(LIMIT):
        if not await one(turns):
            assert turns >= 2, "there was hardly anything to cancel"
            return
    raise AssertionError("it did not end")


async def test_load() -> None:
    """A load that is cancelled can be repeated."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session = world.session(token)
        running = await cancel_after(turns, session.load())
        await check_unharmed(world, token, session)
        return running

    await walk(one)


async def test_the_first_of_several_loads() -> None:
    """When the load that others wait for is cancelled, one of those loads."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session = world.session(token)
        first = start(session.load())
        await asyncio.sleep(0)
        others = [start(session.load()) for _ in range(3)]
        cancelled = start(session.load())
        for _ in range(turns):
            await asyncio.sleep(0)
        running = first.cancel()
        cancelled.cancel()
        async with asyncio.timeout(5):
            for other in others:
                assert await other is session
            await asyncio.gather(first, cancelled, return_exceptions=True)
        assert world.store.counts()["load"] <= 2
        await check_unharmed(world, token, session)
        return running

    await walk(one)


def fail_first_save(store: FaultStore) -> None:
    store.fail("save", "lost reply")


def fail_first_request(store: FaultStore) -> None:
    store.fail("save", "lost request", times=2)


@pytest.mark.parametrize("faults", [None, fail_first_save, fail_first_request])
@pytest.mark.parametrize("conflicts", [0, 1, 3])
async def test_commit(conflicts: int, faults: Callable[[FaultStore], None] | None) -> None:
    """Promise 4: a commit that is cancelled goes on; those that wait behind it, too."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session, follower = await world.load(token), await world.load(token)
        for number in range(conflicts):
            other = await world.load(token, world.process())
            other[f"conflict{number}"] = 1
            await other.commit()
        if faults is not None:
            faults(world.store)
        session["mine"] = 1
        follower["follower"] = 1
        begun = asyncio.Event()

        async def commit() -> None:
            begun.set()
            await session.commit()

        async def follow() -> None:
            await begun.wait()
            await follower.commit()

        following = start(follow())
        running = await cancel_after(turns, commit())
        if not begun.is_set():
            begun.set()
        async with asyncio.timeout(5):
            await following
            await world.manager.drain()
        found = await world.read(token)
        assert found is not None
        assert found["follower"] == 1
        assert turns == 0 or found["mine"] == 1
        await check_unharmed(world, token, session)
        return running

    await walk(one)


async def test_a_follower() -> None:
    """A commit that is cancelled while it waits behind another is saved all the same."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        leader, session = await world.load(token), await world.load(token)
        leader["leader"] = 1
        leading = start(leader.commit())
        await asyncio.sleep(0)
        session["mine"] = 1
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await leading
            await world.manager.drain()
        found = await world.read(token)
        assert found is not None
        assert found["leader"] == 1
        assert turns == 0 or found["mine"] == 1
        await check_unharmed(world, token, session)
        return running

    await walk(one)


async def test_create() -> None:
    """A create that is cancelled goes on; the session can be used and its cookie handed out after it."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session = await world.session().load()
        session["mine"] = 1
        world.store.fail("create", "lost reply")
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await world.manager.drain()
        assert turns == 0 or await world.read(credential(session)) == {"mine": 1}
        await check_unharmed(world, token, session)
        return running

    await walk(one)


async def test_a_login_on_a_session_that_has_ended() -> None:
    """A login that finds its session gone and begins anew does so when cancelled, too."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token, other = await world.new(), await world.new()
        session = await world.load(token)
        await world.manager.revoke(token[:22])
        session.clear()
        session["user"] = "bob"
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await world.manager.drain()
        if turns:
            assert await world.read(credential(session)) == {"user": "bob"}
        await check_unharmed(world, other, session)
        return running

    await walk(one)


@pytest.mark.parametrize("also_set", [False, True])
async def test_an_end_without_a_load(also_set: bool) -> None:
    """Promise 5: destroy() or clear() of an unloaded session is carried out though it is cancelled."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token, other = await world.new(), await world.new()
        session = world.session(token)
        if also_set:
            session.clear()
            session["user"] = "bob"
        else:
            session.destroy()
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await world.manager.drain()
        if turns:
            assert await world.read(token) is None
        if also_set:
            await check_unharmed(world, other, session)
        return running

    await walk(one)


async def test_refresh() -> None:
    """A refresh that is cancelled leaves the session and its changes as they were."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session = await world.load(token)
        session["mine"] = 1
        running = await cancel_after(turns, session.refresh())
        assert dict(session) == {"old": 1, "mine": 1}
        assert session.modified
        await check_unharmed(world, token, session)
        found = await world.read(token)
        assert found is not None
        assert found["mine"] == 1
        return running

    await walk(one)


async def test_shutdown_waits_for_commits_of_cancelled_requests() -> None:
    """close() ends when the saves on their way have, at every moment of a cancelled commit."""

    async def one(turns: int) -> bool:
        world = SlowWorld()
        token = await world.new()
        session = await world.load(token)
        session["mine"] = 1
        running = await cancel_after(turns, session.commit())
        async with asyncio.timeout(5):
            await world.manager.close()
        assert not is_committing(session)
        found = await world.read(token)
        assert found is not None
        assert turns == 0 or found["mine"] == 1
        return running

    await walk(one)


async def test_cancelled_again_and_again() -> None:
    """Sixteen commits of one session, each cancelled at another moment, are all saved."""
    world = SlowWorld()
    token = await world.new()
    sessions = [await world.load(token) for _ in range(16)]
    tasks = []
    for number, session in enumerate(sessions):
        session[f"k{number}"] = number
        tasks.append(start(cancel_after(1 + number // 2, session.commit())))
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)
        await world.manager.drain()
    found = await world.read(token)
    assert found == {"old": 1, **{f"k{number}": number for number in range(16)}}
