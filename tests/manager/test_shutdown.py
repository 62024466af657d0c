"""Commits beside the end of the process, of a task or of an event loop: nobody hangs, nothing is kept."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from asgi_session import SessionManager
from asgi_session.stores.memory import MemoryStore
from tests.inside import credential, fail_no_more, new_session, state_of, tasks_of
from tests.manager.kit import World, settle, start


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


async def test_a_create_cancelled_in_its_pause_has_a_result() -> None:
    """A commit whose task is cancelled with the event loop does not leave its waiters hanging."""
    world = World(deadline=30)
    world.store.fail("create", "lost reply", times=1000)
    session = await world.session().load()
    session["a"] = 1
    saving = asyncio.create_task(session.commit())
    while world.store.counts().get("create", 0) < 3:
        await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    waiting = asyncio.create_task(session.commit())
    (left_behind,) = tasks_of(world.manager)  # goes on with it
    await asyncio.sleep(0)
    left_behind.cancel()
    fail_no_more(world.store)
    await asyncio.wait_for(waiting, 5)
    assert not tasks_of(world.manager)
    assert session.id is not None


async def test_a_closed_leader_leaves_no_lane() -> None:
    """The coroutine of a commit that is thrown away does not block the session's later ones."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session["a"] = 1
    gate = world.store.pause("save")
    leader = session.commit()
    assert leader.send(None) is not None
    await gate.reached()
    leader.close()
    gate.release()
    later = await world.load(token)
    later["b"] = 2
    await later.commit()
    assert (await world.read(token) or {})["b"] == 2


class TouchesForEver(MemoryStore):
    """A store whose touches are never done."""

    async def touch(self, key: str, expires_at: int, *, expect: bytes, deadline: float) -> bool:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def test_a_loop_closed_with_a_task_in_it_is_let_go() -> None:
    """A manager does not keep closed event loops alive."""
    manager = SessionManager(TouchesForEver())

    async def leave_a_touch_behind() -> None:
        session = await new_session(manager).load()
        session["a"] = 1
        await session.commit()
        await new_session(manager, credential(session)).load()

    async def meet_another_loop() -> None:
        await new_session(manager).load()
        state_of(manager)

    loops = []
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_a_touch_behind())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        loops.append(weakref.ref(loop))
        del loop, task
    asyncio.run(meet_another_loop())
    gc.collect()
    assert [loop for loop in loops if loop() is not None] == []
