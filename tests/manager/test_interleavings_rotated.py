"""Rotations, with grace and without, and tokens that they have retired, in every order of their steps."""

from __future__ import annotations

import pytest

from asgi_session import Session
from tests.inside import credential
from tests.manager.explorer import Explorer
from tests.manager.kit import World
from tests.manager.races import (
    GRACE,
    LOGIN_BY_ROTATION,
    LOGOUTS,
    PLAIN,
    PROCESSES,
    check_answers,
    explore,
    prepare,
    write,
)

pytestmark = pytest.mark.usefixtures("no_jitter")


@PROCESSES
async def test_parallel_plain_rotations(one_process: bool) -> None:
    """Promises 8 and 14: of two rotations one takes place; the other sets no cookie."""
    async for run in explore({"a": PLAIN, "b": PLAIN}, one_process):
        with run:
            await check_answers(run)
            assert len(run.arrived) == 1
            assert await run.found() == {"old": 1}
            assert await run.world.read(run.first) is None


@PROCESSES
async def test_parallel_rotations_with_grace(one_process: bool) -> None:
    """Promise 14: both responses arrive, one with a cookie; the old token is good until the grace ends."""
    async for run in explore({"a": GRACE, "b": GRACE}, one_process):
        with run:
            assert set(run.status.values()) == {200}
            assert len(run.arrived) == 1
            assert await run.found() == {"old": 1, "seen": 1}
            assert await run.world.read(run.first) == {"old": 1, "seen": 1}
            run.world.clock.advance(15)
            assert await run.world.read(run.first) is None
            assert await run.found() == {"old": 1, "seen": 1}


@PROCESSES
async def test_rotations_with_grace_once_the_grace_is_over(one_process: bool) -> None:
    """Promise 8: with a token whose grace is over nobody reads, writes or rotates."""

    async def prepare_rotated(world: World) -> str:
        token = await prepare(world)
        session = await world.load(token)
        session.rotate(grace=15)
        await session.commit()
        await world.load(credential(session))
        await world.manager.drain()
        world.clock.advance(15)
        return token

    explorer = Explorer(prepare_rotated, {"a": GRACE, "b": write("slow")}, one_process=one_process)
    async for run in explorer.runs():
        with run:
            assert set(run.status.values()) == {200}
            assert run.arrived == []
            assert run.dropped() == {"seen", "slow"}
            assert [set(entries) for entries in await run.records()] == [{"old"}]


@PROCESSES
async def test_a_grace_rotation_beside_a_login(one_process: bool) -> None:
    """Promise 14: beyond reach is only a grace rotation saved before the login that arrives after it."""
    beyond = orders = 0
    async for run in explore({"grace": GRACE, "in": LOGIN_BY_ROTATION}, one_process):
        orders += 1
        with run:
            assert set(run.status.values()) == {200}
            (living,) = await run.living()
            assert (await run.world.read(living) or {})["user"] == "bob"
            if run.jar != living:
                beyond += 1
                assert run.before("grace save", "in save")
                assert run.before("in respond", "grace respond")
                assert len(run.arrived) == 2
    assert 0 < beyond < orders / 2


@PROCESSES
async def test_a_request_that_loads_with_the_retired_token(one_process: bool) -> None:
    """Promises 8 and 14: what comes after a login with the old token reads nothing and sets no cookie."""
    seen: list[dict[str, object]] = []

    async def look(session: Session) -> None:
        await session.load()
        seen.append(dict(session))
        session["late"] = 1

    async for run in explore({"in": LOGIN_BY_ROTATION, "late": look}, one_process):
        with run:
            await check_answers(run)
            assert [name for name, _ in run.arrived] == ["in"]
            if run.before("in save", "late load"):
                assert seen[-1] in ({}, {"old": 1})
                assert "late" in run.dropped()
    assert {} in seen
    assert {"old": 1} in seen
    assert not any("user" in values for values in seen)


async def test_a_retired_token_once_nobody_knows_it_any_more() -> None:
    """Promise 8: a minute after a login its old token is simply unknown, and adopts nothing."""
    world = World()
    token = await prepare(world)
    login = await world.load(token)
    login.rotate()
    login["user"] = "bob"
    await login.commit()
    world.clock.advance(61)
    session = await world.load(token)
    assert dict(session) == {}
    session["a"] = 1
    await session.commit()
    assert session.id != token[:22]
    assert await world.read(token) is None
    stored = await world.record(token)
    assert stored is not None
    assert stored.entries.keys() == {"old", "user"}


async def prepare_unseen(world: World) -> str:
    """Return a token that a rotation has just handed out."""
    token = await prepare(world)
    session = await world.load(token)
    session.rotate(grace=15)
    await session.commit()
    return credential(session)


@PROCESSES
async def test_two_requests_that_bring_a_new_token(one_process: bool) -> None:
    """Promises 4 and 14: noting that it came back takes part in no race: all is kept, no cookie is set."""
    explorer = Explorer(prepare_unseen, {"a": write("a"), "b": write("b")}, one_process=one_process)
    async for run in explorer.runs():
        with run:
            assert set(run.status.values()) == {200}
            assert run.arrived == []
            assert await run.found() == {"old": 1, "a": "a", "b": "b"}
            assert run.dropped() == set()


@PROCESSES
@pytest.mark.parametrize("out", sorted(LOGOUTS))
async def test_a_logout_with_a_new_token(out: str, one_process: bool) -> None:
    """Promise 5: noting that a token came back does not bring back the session that it opened."""
    requests = {"out": LOGOUTS[out], "b": write("b")}
    async for run in Explorer(prepare_unseen, requests, one_process=one_process).runs():
        with run:
            assert set(run.status.values()) == {200}
            assert await run.living() == []
            assert await run.world.read(run.first) is None
