"""What a review broke once: each case stays as it was found."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from msgspec.structs import replace

from asgi_session import (
    SessionCorrupt,
    SessionError,
    SessionGone,
    SessionManager,
    StoreUnavailable,
)
from asgi_session.stores.memory import MemoryStore
from tests.inside import (
    MAX_TIME,
    changed,
    credential,
    decoded,
    encoded,
    new_session,
    owed_by,
    replaced_values,
    rewrite,
    seal,
    state_of,
    status_of,
    tasks_of,
)
from tests.manager.kit import World, soon


async def test_a_cookie_of_another_namespace_is_simply_unknown() -> None:
    """Promise 8: staging's cookie is no error in production, and costs no connection."""
    world = World()
    staging = world.process(namespace="staging")
    session = await world.session(manager=staging).load()
    session["a"] = 1
    await session.commit()
    token = credential(session)  # type: ignore[arg-type]
    found = await world.load(token)
    assert (status_of(found), dict(found)) == ("new", {})
    assert world.store.distrusted == []


async def test_clear_then_refresh_brings_nothing_back() -> None:
    """Promise 8: what clear() has left behind does not return with a refresh."""
    world = World()
    token = await world.new(user="alice", cart=["secret"])
    session = await world.load(token)
    session.clear()
    await session.refresh()
    session["user"] = "bob"
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_clear_during_a_refresh_brings_nothing_back() -> None:
    """Promise 8: the same while the refresh is on its way."""
    world = World()
    token = await world.new(user="alice")
    session = await world.load(token)
    gate = world.store.pause("load")
    refreshing = asyncio.create_task(session.refresh())
    await gate.reached()
    session.clear()
    session["user"] = "bob"
    gate.release()
    await refreshing
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_destroy_then_refresh_is_gone() -> None:
    """Promise 5: a destroyed session cannot be refreshed back, before or after its commit."""
    world = World()
    token = await world.new(user="alice")
    session = await world.load(token)
    session.destroy()
    with pytest.raises(SessionGone):
        await session.refresh()
    await session.commit()
    with pytest.raises(SessionGone):
        await session.refresh()
    assert dict(session) == {}


async def test_refresh_of_a_session_cleared_before_it_was_loaded() -> None:
    """A session that begins anew is newest already."""
    world = World()
    token = await world.new(user="alice")
    session = world.session(token)
    session.clear()
    session["user"] = "bob"
    assert await session.refresh() == {"user": "bob"}


async def test_ending_what_one_created_deletes_nobodys_cookie() -> None:
    """Promise 14: a detached request that creates and destroys leaves the newer cookie alone."""
    world = World()
    token = await world.new(user="alice")
    login = await world.load(token)
    login.rotate()
    await login.commit()
    late = await world.load(token)
    assert status_of(late) == "detached"
    late.clear()
    late["tmp"] = 1
    await late.commit()
    assert owed_by(late) == "cookie"
    late.destroy()
    await late.commit()
    assert owed_by(late) == "nothing"


async def test_two_commits_confirm_nothing() -> None:
    """A crawler whose first request commits twice must not fill the store for two weeks."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()
    session["b"] = 2
    await session.commit()
    await session.commit()
    await session.refresh()
    await world.manager.drain()
    assert await world.expiry(credential(session)) == world.clock() + 3_600_000


async def test_refreshing_for_ever_keeps_nothing() -> None:
    """A WebSocket that only refreshes does not pile up the values that were replaced."""
    world = World()
    token = await world.new(log=[0])
    socket = await world.load(token)
    for number in range(20):
        other = await world.load(token)
        other["log"] = [number + 1]
        await other.commit()
        await socket.refresh()
        assert socket["log"] == [number + 1]
    assert replaced_values(socket) <= 1


async def test_a_create_cancelled_in_its_pause_has_a_result() -> None:
    """A commit whose task is cancelled with the event loop does not leave its waiters hanging."""
    world = World(deadline=30)
    world.store.fail("create", "lost reply", times=1000)
    session = await world.session().load()
    session["a"] = 1
    saving = asyncio.create_task(session.commit())
    while world.store.counts().get("create", 0) < 3:
        await asyncio.sleep(0)
    for task in tasks_of(world.manager):
        task.cancel()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(saving, 5)


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


async def test_an_event_hook_may_raise_what_it_likes() -> None:
    """Even a CancelledError, from a future that the hook looks at."""

    def on_event(name: str, session_id: str | None, **info: Any) -> None:
        raise asyncio.CancelledError

    world = World(on_event=on_event)
    session = await world.session().load()
    for number in range(3):
        session["n"] = number
        await session.commit()
    assert await world.read(credential(session)) == {"n": 2}


async def test_an_anonymous_session_recovers() -> None:
    """Promise 11: refresh() loads it once the store is back, under what was set; else it says so."""
    world = World(on_unavailable="anonymous", deadline=0.2)
    token = await world.new(user="alice")
    world.store.fail("load", times=2)
    session = await world.load(token)
    assert (status_of(session), dict(session)) == ("anonymous", {})
    with pytest.raises(StoreUnavailable):
        await session.refresh()
    session["mine"] = 1
    await session.refresh()
    await session.commit()
    assert await world.read(token) == {"user": "alice", "mine": 1}


async def test_a_corrupt_cookie_beside_a_good_one() -> None:
    """Of duplicate cookies the first that verifies counts, whatever the one before it led to."""
    world = World()
    bad, good = await world.new(a=1), await world.new(b=2)
    selector = bad[:22]
    stored = await world.memory.load(selector, deadline=soon())
    assert stored is not None
    await rewrite(world.memory, selector, stored.data[:16] + b"\xff" + stored.data[17:])
    assert await new_session(world.manager, bad, good).load() == {"b": 2}
    with pytest.raises(SessionCorrupt):
        await world.load(bad)


async def test_malformed_cookies_do_not_hide_the_good_one() -> None:
    """Three planted cookies that are none cost nothing, so the fourth is still looked at."""
    world = World()
    token = await world.new(a=1)
    assert await new_session(world.manager, "junk", "junk", "junk", token).load() == {"a": 1}


async def test_each_request_gets_an_error_of_its_own() -> None:
    """A failed batch raises no exception object twice: tracebacks belong to one request."""
    world = World()
    token = await world.new()
    sessions = [await world.load(token) for _ in range(5)]
    world.store.fail("save", "refused", times=5)
    for number, session in enumerate(sessions):
        session[f"k{number}"] = 1
    results = await asyncio.gather(*(one.commit() for one in sessions), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert len({id(result) for result in results}) == len(results)


async def test_revoke_after_a_lost_reply() -> None:
    """Promise 7: a delete whose reply was lost is reported as one."""
    world = World()
    token = await world.new()
    world.store.fail("delete", "lost reply")
    assert await world.manager.revoke(token[:22]) is True
    assert "revoked" in [name for name, _, _ in world.events]


async def test_commit_of_a_new_session_after_the_headers() -> None:
    """The error says what to do, not that a session had ended which never was."""
    world = World()
    session = await world.session().load()
    seal(session)
    session["a"] = 1
    with pytest.raises(SessionError, match="needs a new cookie") as caught:
        await session.commit()
    assert not isinstance(caught.value, SessionGone)


async def test_destroying_twice_is_destroying_once() -> None:
    """A second destroy() after the commit asks for nothing."""
    world = World()
    session = await world.load(await world.new())
    session.destroy()
    await session.commit()
    session.destroy()
    assert session.modified is False


@pytest.mark.parametrize(
    "change",
    [{"version": 2**64 - 1}, {"created": MAX_TIME + 1}, {"deadline": MAX_TIME + 1}],
)
async def test_numbers_out_of_range_are_corrupt(change: dict[str, int]) -> None:
    """Promise 10: a record whose numbers nothing can work with is corrupt, not a crash later on."""
    world = World()
    token = await world.new()
    record = await world.record(token)
    assert record is not None
    with pytest.raises(SessionCorrupt, match="out of range"):
        decoded(encoded(changed(record, **change)))


async def test_iterating_across_a_commit_that_merges() -> None:
    """Others' keys that come in with a commit do not break a loop over the session."""
    world = World()
    token = await world.new(a=1, b=2)
    session = await world.load(token)
    for number, _ in enumerate(session):
        other = await world.load(token)
        other[f"other{number}"] = 1
        await other.commit()
        session["mine"] = number
        await session.commit()
    assert "other0" in (await world.read(token) or {})


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
