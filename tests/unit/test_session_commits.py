"""Commits: what is found, what is written, what happens meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionGone, SessionTooLarge, StoreUnavailable
from tests.unit.world import World


@pytest.fixture
async def world() -> World:
    return World()


async def committing(session: Session, world: World) -> tuple[asyncio.Task[None], Any]:
    """Start a commit and stop it on its way to the store."""
    gate = world.store.pause(None, match=lambda call: call.verb in ("save", "create"))
    task = asyncio.create_task(session.commit())
    await gate.reached()
    return task, gate


async def test_one_list_under_two_keys(world: World) -> None:
    """Promise 3: a list under two keys is saved under both, and is two lists when loaded again."""
    session = await world.load()
    shared: list[int] = [1]
    session["a"] = session["b"] = shared
    await session.commit()
    cookie = world.cookie(session)
    shared.append(2)
    await session.commit()
    assert await world.stored(cookie) == {"a": [1, 2], "b": [1, 2]}
    later = await world.load(cookie)
    later["a"].append(3)
    await later.commit()
    assert await world.stored(cookie) == {"a": [1, 2, 3], "b": [1, 2]}


@pytest.mark.parametrize(
    "value",
    [
        [1, 2], {"a": 1}, {1, 2}, (1, [2]), ({1},), frozenset({1}), "x", 1.5, None, {"s": {3, 1, 2}},
        {"deep": [{"er": ({"a", "b", "c"}, [])}]},
    ],
)  # fmt: skip
async def test_reading_is_no_change(value: Any, world: World) -> None:
    """Promise 3: a value that was read, however mutable, is not written again."""
    cookie = await world.create(v=value)
    session = await world.load(cookie)
    assert session["v"] == value
    await session.commit()
    assert world.store.counts() == {"load": 1}


async def test_setting_the_same_again_is_no_change(world: World) -> None:
    """Promise 2: a key set to what it was is not written; one of another type is."""
    session = await world.load(await world.create(n=1, l=[1]))
    session["n"], session["l"] = 1, [1]
    assert not session.modified
    await session.commit()
    session["n"] = 2
    session["n"] = 1
    await session.commit()
    assert "save" not in world.store.counts()
    session["n"] = True
    assert session.modified
    await session.commit()
    assert type((await world.load(world.cookie(session)))["n"]) is bool


async def test_a_change_and_back_between_commits_is_two_changes(world: World) -> None:
    """Promise 3: what counts is what was last committed, not what was loaded."""
    cookie = await world.create(a=[1])
    session = await world.load(cookie)
    session["a"].append(2)
    await session.commit()
    session["a"].pop()
    await session.commit()
    assert world.store.counts()["save"] == 2
    assert await world.stored(cookie) == {"a": [1]}


@pytest.mark.parametrize("first", ["set", "delete", "nothing"])
@pytest.mark.parametrize("meanwhile", ["set", "delete", "nothing"])
@pytest.mark.parametrize("after", ["set", "delete", "nothing"])
@pytest.mark.parametrize("present", [True, False])
async def test_set_and_delete_around_a_commit(
    present: bool, first: str, meanwhile: str, after: str, world: World
) -> None:
    """Promise 3: before, during and after a commit: what the session shows is what gets stored."""
    cookie = await world.create(**({"k": 0} if present else {}), other=0)
    session = await world.load(cookie)
    session["other"] = 1  # so that there is a commit

    def act(what: str, value: int) -> None:
        if what == "set":
            session["k"] = value
        elif what == "delete":
            session.pop("k", None)

    act(first, 1)
    task, gate = await committing(session, world)
    act(meanwhile, 2)
    gate.release()
    await task
    act(after, 3)
    shown = dict(session)
    await session.commit()
    assert not session.modified
    assert dict(session) == shown == await world.stored(cookie)


async def test_what_is_changed_during_a_commit_goes_with_the_next(world: World) -> None:
    """Promise 3: a value that changes while its commit is on its way is saved by the next one."""
    cookie = await world.create(a=[1])
    session = await world.load(cookie)
    session["a"].append(2)
    task, gate = await committing(session, world)
    session["a"].append(3)
    session["b"] = 1
    gate.release()
    await task
    assert await world.stored(cookie) == {"a": [1, 2]}
    assert session.modified
    await session.commit()
    assert await world.stored(cookie) == {"a": [1, 2, 3], "b": 1}


async def test_what_is_set_while_the_session_is_created(world: World) -> None:
    """Promise 3: what is set while a create is on its way is saved by the next commit."""
    session = await world.load()
    session["a"], session["b"], session["c"] = 1, [1], 1
    task, gate = await committing(session, world)
    session["b"].append(2)
    del session["c"]
    session["d"] = 4
    gate.release()
    await task
    assert world.owed(session) == "cookie"
    await session.commit()
    assert await world.stored(world.cookie(session)) == {"a": 1, "b": [1, 2], "d": 4}


async def test_concurrent_commits_of_one_session_run_one_after_another(world: World) -> None:
    """Two tasks of one request may commit at the same time; each has its changes stored."""
    cookie = await world.create(a=0)
    session = await world.load(cookie)
    session["a"] = 1
    first, gate = await committing(session, world)
    session["b"] = 2
    second = asyncio.create_task(session.commit())
    await asyncio.sleep(0)
    assert world.store.counts()["save"] == 1
    gate.release()
    await asyncio.gather(first, second)
    assert await world.stored(cookie) == {"a": 1, "b": 2}


async def test_a_cancelled_commit_goes_on(world: World) -> None:
    """Who is cancelled while waiting loses the wait, not the save."""
    cookie = await world.create(a=0)
    session = await world.load(cookie)
    session["a"] = 1
    task, gate = await committing(session, world)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.release()
    await world.manager.drain()
    assert await world.stored(cookie) == {"a": 1}
    assert not session.modified


async def test_others_writes_are_merged(world: World) -> None:
    """Promise 4: another request's keys survive mine, and mine theirs; on the same key the later wins."""
    cookie = await world.create(mine=0, theirs=0, both=0, gone=0)
    session = await world.load(cookie)
    session["mine"] = session["both"] = 1
    await world.write(cookie, theirs=2, both=2, new=2, gone=None)
    await session.commit()
    assert await world.stored(cookie) == {"mine": 1, "theirs": 2, "both": 1, "new": 2}
    assert session == {"mine": 1, "theirs": 2, "both": 1, "new": 2}
    assert "merged" in world.names()


async def test_values_handed_out_stay_after_a_merge(world: World) -> None:
    """Keys that were read keep their value after a commit; only unread ones become the newer ones."""
    cookie = await world.create(read=[0], unread=[0], scalar=0, gone=0, mine=0)
    session = await world.load(cookie)
    held, scalar, gone = session["read"], session["scalar"], session["gone"]
    session["mine"] = 1
    await world.write(cookie, read=[9], unread=[9], scalar=9, gone=None)
    await session.commit()
    assert session["read"] is held
    assert (held, session["scalar"], session["gone"]) == ([0], scalar, gone)
    assert session["unread"] == [9]
    assert not session.modified
    await session.commit()
    assert await world.stored(cookie) == {"read": [9], "unread": [9], "scalar": 9, "mine": 1}


async def test_a_late_change_after_a_merge_counts_from_its_own_origin(world: World) -> None:
    """Promise 3: a value that was held through a merge and then changed is a change, and wins."""
    cookie = await world.create(read=[0], gone=[0], mine=0)
    session = await world.load(cookie)
    held, gone = session["read"], session["gone"]
    session["mine"] = 1
    await world.write(cookie, read=[9], gone=None)
    await session.commit()
    held.append(1)
    gone.append(1)
    await session.commit()
    assert await world.stored(cookie) == {"read": [0, 1], "gone": [0, 1], "mine": 1}


async def test_a_key_deleted_during_a_merging_commit_stays_deleted(world: World) -> None:
    """A deletion made while a commit is on its way outlasts what that commit brings back."""
    cookie = await world.create(a=0, b=0)
    session = await world.load(cookie)
    session["a"] = 1
    await world.write(cookie, b=9)
    task, gate = await committing(session, world)
    del session["b"]
    gate.release()
    await task
    assert "b" not in session
    await session.commit()
    assert await world.stored(cookie) == {"a": 1}


async def test_a_session_emptied_key_by_key_stays(world: World) -> None:
    """Deleting every key leaves an empty session, not an ended one."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    del session["a"]
    await session.commit()
    later = await world.load(cookie)
    assert (later, later.is_new) == ({}, False)
    assert world.owed(session) == "nothing"


async def test_a_new_session_with_nothing_in_it_is_not_created(world: World) -> None:
    """Promise 2: what was set and deleted again before the first commit costs nothing."""
    session = await world.load()
    session["a"] = 1
    del session["a"]
    assert not session.modified
    await world.respond(session)
    assert world.store.calls == []
    assert (session.is_new, session.id, world.owed(session)) == (True, None, "nothing")


async def test_a_failed_commit_keeps_the_changes(world: World) -> None:
    """A commit that failed can be tried again, with everything that it had."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session["a"] = 2
    world.store.fail("save")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert session.modified
    await session.commit()
    assert await world.stored(cookie) == {"a": 2}


async def test_too_large(world: World) -> None:
    """What exceeds max_size is refused with both sizes, and nothing of it is written."""
    world = World(max_size=500)
    cookie = await world.create(a=1)
    for session in (await world.load(cookie), await world.load()):
        session["big"] = "x" * 600
        with pytest.raises(SessionTooLarge) as caught:
            await session.commit()
        assert caught.value.max_size == 500
        assert 600 < caught.value.size < 750
    assert await world.stored(cookie) == {"a": 1}


async def test_a_revoked_session_does_not_come_back(world: World) -> None:
    """Promise 5: a late commit of a revoked session writes nothing; who asks gets SessionGone."""
    cookie = await world.create(a=1)
    explicit, silent = await world.load(cookie), await world.load(cookie)
    assert explicit.id is not None
    assert await world.manager.revoke(explicit.id)
    explicit["a"] = silent["a"] = 2
    with pytest.raises(SessionGone):
        await explicit.commit()
    await world.respond(silent)
    assert world.names().count("dropped") == 2
    for session in (explicit, silent):
        assert (dict(session), session.modified, world.owed(session)) == ({}, False, "nothing")
    assert len(world.memory) == 0


async def test_nothing_of_an_older_identity_is_written_after_a_rotation(world: World) -> None:
    """Promise 8: a request that came with the rotated-away token neither writes nor reads any more."""
    cookie = await world.create(user=None)
    slow = await world.load(cookie)
    login = await world.load(cookie)
    login["user"] = "ada"
    login.rotate()
    await login.commit()
    slow["cart"] = ["x"]
    await world.respond(slow)
    assert (dict(slow), world.owed(slow)) == ({}, "nothing")
    assert await world.stored(world.cookie(login)) == {"user": "ada"}


@pytest.mark.parametrize("value", [[1], ([1],), (0, ([1],)), {"k": [1]}, {"k": ([1],)}])
async def test_a_change_inside_a_loaded_value_is_saved(value: Any, world: World) -> None:
    """Promise 3: however deep the list is, in whatever it lies, a change in it is saved."""
    cookie = await world.create(v=value)
    session = await world.load(cookie)

    def innermost(held: Any) -> list[int]:
        while type(held) is not list:
            held = held["k"] if isinstance(held, dict) else held[-1]
        return held

    innermost(session["v"]).append(2)
    await session.commit()
    assert innermost((await world.load(cookie))["v"]) == [1, 2]
