"""Promise 7: a save whose reply was lost is applied once, or is an error that says so."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from asgi_session import Session, SessionGone, StoreUnavailable
from asgi_session.errors import SessionConflict
from tests.inside import (
    around_verbs,
    commit,
    credential,
    forget_change,
    is_committing,
    owed_by,
    status_of,
    use_up,
)
from tests.manager.kit import World, settle, soon, start

BETWEEN = pytest.mark.parametrize("between", [0, 1, 6, 7, 8, 20])


async def others_save(world: World, token: str, count: int) -> None:
    other = await world.load(token, world.process())
    for number in range(count):
        other["other"] = number
        await other.commit()


@BETWEEN
@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
async def test_save(between: int, fault: str) -> None:
    """Promise 7: with up to seven saves before the retry it is applied once; with more it is told."""
    world = World()
    token = await world.new(count=0)
    session = await world.load(token)
    session["count"] = 1
    session["mine"] = "x"
    world.store.fail("save", fault)  # type: ignore[arg-type]
    retry = world.store.pause("save", nth=2)
    commit = start(session.commit())
    await retry.reached()
    lost = world.store.calls[-2:]
    assert lost[0].data == lost[1].data, "the identical bytes"
    await others_save(world, token, between)
    if between:  # somebody undoes it: applied twice, it would be back
        other = await world.load(token, world.process())
        other["count"] = 100
        await other.commit()
    retry.release()
    others = between + bool(between)
    known = others <= (7 if fault == "lost reply" else 8)  # a request that was lost left no version behind
    # Not applied, and a ring that no longer reaches back: nobody can tell.
    if known:
        await commit
        found = await world.read(token)
        assert found is not None
        assert found["mine"] == "x"
        assert found["count"] == (100 if between and fault == "lost reply" else 1)
        assert len(world.named("saved")) == 1 + others
    else:
        with pytest.raises(SessionConflict) as caught:
            await commit
        assert caught.value.outcome_unknown
        assert not is_committing(session)
        found = await world.read(token)
        assert found is not None
        assert ("mine" in found) == (fault == "lost reply")
        assert found["count"] == 100


@pytest.mark.parametrize("fault", ["lost reply", "lost request", "refused"])
async def test_create(fault: str) -> None:
    """Promise 7: a create is repeated under a new selector; what it may have left expires unconfirmed."""
    world = World(unconfirmed_timeout=600)
    session = await world.session().load()
    session["a"] = 1
    world.store.fail("create", fault)  # type: ignore[arg-type]
    if fault == "refused":
        with pytest.raises(StoreUnavailable) as caught:
            await session.commit()
        assert caught.value.executed is False
        assert len(world.memory) == 0
        await session.commit()
        assert len(world.memory) == 1
        return
    await session.commit()
    first, second = (call.key for call in world.store.calls if call.verb == "create")
    assert first != second
    assert session.id == second
    assert len(world.memory) == (2 if fault == "lost reply" else 1)
    await world.load(credential(session))
    await world.manager.drain()
    world.clock.advance(600)
    assert await world.memory.load(first, deadline=soon()) is None
    assert await world.read(credential(session)) == {"a": 1}


def destroy(session: Session) -> None:
    session.destroy()


def rotate(session: Session) -> None:
    session.rotate()
    session["user"] = "bob"


def clear(session: Session) -> None:
    session.clear()
    session["user"] = "bob"


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
@pytest.mark.parametrize("move", [destroy, rotate, clear])
async def test_moves(move: Callable[[Session], None], fault: str, times: int) -> None:
    """Promise 7: an ending or a rotation whose reply was lost is carried out once, with its one cookie."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    before = await world.record(token)
    assert before is not None
    move(session)
    world.store.fail("save", fault, times=times)  # type: ignore[arg-type]
    await session.commit()
    record = await world.record(token)
    assert record is not None
    assert int.from_bytes(record.epoch[:4], "big") == int.from_bytes(before.epoch[:4], "big") + 1
    assert record.version == before.version + 1
    assert await world.read(token) is None
    if move is destroy:
        assert owed_by(session) == "deletion"
        assert status_of(session) == "ended"
    else:
        assert owed_by(session) == "cookie"
        expected = {"user": "bob"} if move is clear else {"old": 1, "user": "bob"}
        assert await world.read(credential(session)) == expected


async def test_a_lost_destroy_and_a_write_before_the_retry() -> None:
    """Promise 5: a destroy whose reply was lost has ended the session for those who come before the retry."""
    world = World()
    token = await world.new()
    session, late = await world.load(token), await world.load(token, world.process())
    session.destroy()
    world.store.fail("save", "lost reply")
    retry = world.store.pause("save", nth=2)
    commit = start(session.commit())
    await retry.reached()
    late["late"] = 1
    with pytest.raises(SessionGone):
        await late.commit()
    retry.release()
    await commit
    record = await world.record(token)
    assert record is not None
    assert record.entries == {}


async def test_a_lost_destroy_that_expires_before_the_retry() -> None:
    """Promise 5: when the retry finds the record gone the session is gone, and no error to the client."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    world.store.fail("save", "lost reply")
    retry = world.store.pause("save", nth=2)
    committing = start(commit(world.manager, session, explicit=False))
    await retry.reached()
    world.clock.advance(61)
    retry.release()
    await committing
    assert await world.record(token) is None


async def test_members_with_different_deadlines() -> None:
    """Promise 7: of a batch whose replies are lost each member ends with its own deadline, and truly."""
    world = World(deadline=3.0)
    token = await world.new()
    first, hasty, patient = [await world.load(token) for _ in range(3)]
    gate = world.store.pause("save")
    first["first"] = 1
    tasks = [start(first.commit())]
    await gate.reached()
    hasty["hasty"], patient["patient"] = 1, 1
    use_up(hasty, 2.7)
    tasks += [start(hasty.commit()), start(patient.commit())]
    await settle()
    world.store.fail("save", "lost reply")  # the batch: executed, and nobody knows
    hung = world.store.hang("save", nth=2)  # its retry
    gate.release()
    await tasks[0]
    with pytest.raises(StoreUnavailable) as caught:
        await tasks[1]
    assert caught.value.executed is None
    hung.release()
    await tasks[2]
    assert await world.read(token) == {"old": 1, "first": 1, "hasty": 1, "patient": 1}


async def test_a_lost_touch_is_an_event_at_most() -> None:
    """A touch is never repeated: its failure is an event, and the next request is due again."""
    world = World()
    token = await world.new()
    world.clock.advance(5 * 86400)
    for fault in ("lost request", "refused"):
        world.store.fail("touch", fault)  # type: ignore[arg-type]
        await world.load(token)
        await world.manager.drain()
    assert len(world.named("touch_failed")) == 2
    await world.load(token)
    await world.manager.drain()
    assert await world.expiry(token) == world.clock() + 14 * 86400_000


async def test_revoke_is_repeated() -> None:
    """Promise 5: a revoke whose request or reply was lost is repeated until it is certain."""
    for fault in ("lost request", "lost reply"):
        world = World()
        token = await world.new()
        world.store.fail("delete", fault)  # type: ignore[arg-type]
        await world.manager.revoke(token[:22])
        assert await world.record(token) is None
        assert world.store.counts()["delete"] == 2


async def test_random_faults() -> None:
    """Promises 4 and 7: whatever fails, acknowledged is stored once, and surely failed is not stored."""
    said = Counter[str]()
    for seed in range(40):
        said.update(await random_faults(seed))
    assert min(said["saved"], said["not"]) > 40, said


async def random_faults(seed: int) -> list[str]:
    """Have twelve requests in two processes commit four times each; return what their commits said."""
    rng = random.Random(seed)
    world = World(deadline=1.0)
    token = await world.new()
    managers = [world.manager, world.process()]
    state: dict[str, str] = {}  # key: what its commit said

    async def faulty(call: Any, verb: Any, real: Any) -> Any:
        if call.verb == "save":
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            fault = rng.choice([None, None, None, "refused", "lost request", "lost reply"])
            if fault is not None:
                world.store.fail("save", fault, match=lambda one: one is call)
        return await real(call, verb)

    around_verbs(world.store, faulty)

    async def work(number: int) -> None:
        session = await world.load(token, rng.choice(managers))
        for turn in range(4):
            key = f"{number}.{turn}"
            session[key] = turn
            try:
                await session.commit()
            except StoreUnavailable as error:
                state[key] = "not" if error.executed is False else "unknown"
                del session[key]
                forget_change(session, key)
            except SessionConflict:
                state[key] = "unknown"
                forget_change(session, key)
            else:
                state[key] = "saved"

    await asyncio.gather(*(work(number) for number in range(12)))
    world.store.heal()
    for manager in managers:
        await manager.drain()
    found = await world.read(token)
    assert found is not None
    for key, said in state.items():
        if said != "unknown":
            assert (key in found) == (said == "saved"), f"seed {seed}: {key} was reported as {said}"
    return list(state.values())


async def test_revoke_after_a_lost_reply() -> None:
    """Promise 7: a delete whose reply was lost is reported as one."""
    world = World()
    token = await world.new()
    world.store.fail("delete", "lost reply")
    assert await world.manager.revoke(token[:22]) is True
    assert "revoked" in [name for name, _, _ in world.events]


async def test_revoke_while_the_store_is_away() -> None:
    """What was surely not executed is an error, and the session is there as before."""
    world = World()
    token = await world.new()
    world.store.fail("delete")
    with pytest.raises(StoreUnavailable):
        await world.manager.revoke(token[:22])
    assert world.named("revoked") == []
    assert await world.read(token) == {"old": 1}
