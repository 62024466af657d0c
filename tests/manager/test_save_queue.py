"""One save in flight per session: how many leave, and each commit with a result of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionGone, StoreUnavailable
from asgi_session.errors import SessionSerializationError, SessionTooLarge
from tests.inside import around_verbs, use_up
from tests.manager.kit import World, settle, soon, start


async def many(world: World, token: str, count: int, processes: int = 1) -> list[Session]:
    """Return sessions of as many requests, spread over as many processes."""
    managers = [world.manager, *(world.process() for _ in range(processes - 1))]
    return [await world.load(token, managers[number % processes]) for number in range(count)]


async def results(sessions: list[Session]) -> list[Any]:
    """Commit them all at once; return what each gave or raised."""
    return await asyncio.gather(*(session.commit() for session in sessions), return_exceptions=True)


async def test_sixty_four_commits_leave_in_two_saves() -> None:
    """Promise 4: the first commit leaves alone, the sixty-three that came meanwhile in one save."""
    world = World()
    token = await world.new()
    sessions = await many(world, token, 64)
    for number, session in enumerate(sessions):
        session[f"k{number}"] = number
    gate = world.store.pause("save")
    tasks = [start(session.commit()) for session in sessions]
    await gate.reached()
    await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert world.store.counts()["save"] == 2
    assert await world.read(token) == {"old": 1, **{f"k{number}": number for number in range(64)}}


async def test_one_key_ends_as_the_last_in_order_of_arrival_wrote_it() -> None:
    """What waits is merged in order of arrival."""
    world = World()
    token = await world.new()
    sessions = await many(world, token, 10)
    for number, session in enumerate(sessions):
        session["same"] = number
    assert await results(sessions) == [None] * 10
    assert (await world.read(token) or {})["same"] == 9


async def test_each_member_has_its_own_result() -> None:
    """Who cannot be saved is left out and told so; the others of its save are saved."""
    world = World(max_size=2000)
    token = await world.new()
    first, fits, large, strange, late, last = sessions = await many(world, token, 6)
    mover = await world.load(token, world.process())
    mover.rotate(grace=60)
    await mover.commit()
    first["first"] = 1
    fits["fits"] = 1
    large["large"] = "x" * 3000
    strange["strange"] = object()
    late["late"] = 1
    last["last"] = 1
    gate = world.store.pause("save")
    tasks = [start(first.commit())]
    await gate.reached()
    tasks += [start(session.commit()) for session in sessions[1:]]
    await settle()
    gate.release()
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcome] == [
        type(None), type(None), SessionTooLarge, SessionSerializationError, type(None), type(None),
    ]  # fmt: skip
    assert await world.read(token) == {"old": 1, "first": 1, "fits": 1, "late": 1, "last": 1}
    large["large"] = "small"
    del strange["strange"]
    assert await results([large, strange]) == [None, None]
    assert (await world.read(token) or {})["large"] == "small"


async def test_members_of_an_older_epoch_are_left_out() -> None:
    """Promise 8: in one save, those who come after a login in it are dropped, those before it are not."""
    world = World()
    token = await world.new()
    first, before, login, after = await many(world, token, 4)
    first["first"] = 1
    before["before"] = 1
    login.rotate()
    after["after"] = 1
    gate = world.store.pause("save")
    tasks = [start(first.commit())]
    await gate.reached()
    tasks += [start(session.commit()) for session in (before, login, after)]
    await settle()
    gate.release()
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcome] == [type(None), type(None), type(None), SessionGone]
    record = await world.record(token)
    assert record is not None
    assert set(record.entries) == {"old", "first", "before"}


async def test_what_is_too_large_only_with_others_is_refused_alone() -> None:
    """`max_size` holds after merging: who comes first fits, who makes it too large is refused."""
    world = World(max_size=1500)
    token = await world.new()
    sessions = await many(world, token, 5)
    for number, session in enumerate(sessions):
        session[f"k{number}"] = "x" * 400
    outcome = await results(sessions)
    refused = [number for number, one in enumerate(outcome) if isinstance(one, SessionTooLarge)]
    assert len(refused) == 2
    found = await world.read(token)
    assert found is not None
    assert {key for key in found if key != "old"} == {f"k{n}" for n in range(5) if n not in refused}


async def test_a_queued_commit_whose_time_is_over_is_not_saved_later() -> None:
    """What was reported as surely not executed does not leave with the next save."""
    world = World(deadline=5.0)
    token = await world.new()
    first, hasty, patient = await many(world, token, 3)
    first["first"], hasty["hasty"], patient["patient"] = 1, 1, 1
    gate = world.store.pause("save")
    leading = start(first.commit())
    await gate.reached()
    use_up(hasty, 4.9)
    waiting, staying = start(hasty.commit()), start(patient.commit())
    with pytest.raises(StoreUnavailable) as caught:
        await waiting
    assert caught.value.executed is False
    gate.release()
    await asyncio.gather(leading, staying)
    assert await world.read(token) == {"old": 1, "first": 1, "patient": 1}
    use_up(hasty, 0)  # as one that waits for no response any more
    await hasty.commit()
    assert (await world.read(token) or {})["hasty"] == 1, "it can commit again"


async def test_two_processes_with_thirty_two_writers_each() -> None:
    """Promise 4: every write survives, and nobody needs more than a handful of tries."""
    world = World()

    async def slow(call: Any, verb: Any, real: Any) -> Any:
        await asyncio.sleep(0)
        try:
            return await real(call, verb)
        finally:
            await asyncio.sleep(0)

    around_verbs(world.store, slow)
    token = await world.new()
    sessions = await many(world, token, 64, processes=2)
    for turn in range(5):
        for number, session in enumerate(sessions):
            session[f"k{number}.{turn}"] = number
        assert await results(sessions) == [None] * 64
    found = await world.read(token)
    assert found is not None
    assert len(found) == 1 + 64 * 5
    assert max(info["tries"] for info in world.named("saved")) <= 8
    assert world.store.counts()["save"] <= 5 * 12


async def test_commits_of_one_session_run_one_after_another() -> None:
    """Concurrent commits of the same Session: each change is saved once, a mark is consumed once."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session["a"] = 1
    session.rotate()
    gate = world.store.pause("save")
    tasks = [start(session.commit()) for _ in range(5)]
    await gate.reached()
    session["b"] = 2
    await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert world.store.counts()["save"] == 2
    assert len(world.named("rotated")) == 1
    record = await world.record(token)
    assert record is not None
    assert set(record.entries) == {"old", "a", "b"}


async def test_who_waits_behind_a_conflict_leaves_with_its_repetition() -> None:
    """Promise 4: after a conflict those that came meanwhile leave in the same save."""
    world = World()
    token = await world.new()
    first, second = await many(world, token, 2)
    other = await world.load(token, world.process())
    other["other"] = 1
    await other.commit()
    gate = world.store.pause("save")
    first["first"] = second["second"] = 1
    tasks = [start(first.commit())]
    await gate.reached()
    tasks.append(start(second.commit()))
    await settle()
    gate.release()
    await asyncio.gather(*tasks)
    assert world.store.counts()["save"] == 1 + 2
    assert await world.read(token) == {"old": 1, "other": 1, "first": 1, "second": 1}


async def test_a_session_that_fell_behind_by_a_failover_is_saved_on_what_the_store_has() -> None:
    """After a failover that lost a version, changes made on the lost one apply to what is left."""
    world = World()
    token = await world.new()
    kept = (await world.memory.load(token[:22], deadline=soon())) or None
    assert kept is not None
    session, other = await many(world, token, 2)
    session["lost"] = 1
    await session.commit()
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], kept.data, kept.expires_at, deadline=soon())
    session["mine"], other["other"] = 1, 1
    assert await results([session, other]) == [None, None]
    assert await world.read(token) == {"old": 1, "mine": 1, "other": 1}


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
