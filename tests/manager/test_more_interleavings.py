"""Rotations, planted tokens, flash messages and revocations, each in every order of their steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from asgi_session import Session, SessionManager
from tests.inside import commit, manager_of, no_pauses, record_of
from tests.manager.explorer import Explorer, Handler
from tests.manager.kit import World
from tests.manager.test_interleavings import (
    LOGIN_BY_CLEAR,
    LOGIN_BY_ROTATION,
    PROCESSES,
    check_answers,
    explore,
    handler,
    prepare,
    write,
)


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    no_pauses(monkeypatch)


def _rotate(session: Session) -> None:
    session.rotate()


def _rotate_with_grace(session: Session) -> None:
    session.rotate(grace=15)
    session["seen"] = 1


PLAIN = handler(_rotate)
GRACE = handler(_rotate_with_grace)


@PROCESSES
async def test_parallel_plain_rotations(one_process: bool) -> None:
    """Promises 8 and 14: of two rotations one takes place; the other sets no cookie."""
    for run in await explore({"a": PLAIN, "b": PLAIN}, one_process):
        with run:
            await check_answers(run)
            assert len(run.arrived) == 1
            assert await run.found() == {"old": 1}
            assert await run.world.read(run.first) is None


@PROCESSES
async def test_parallel_rotations_with_grace(one_process: bool) -> None:
    """Promise 14: both responses arrive, one with a cookie; the old token is good until the grace ends."""
    for run in await explore({"a": GRACE, "b": GRACE}, one_process):
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
        world.clock.advance(15)
        return token

    explorer = Explorer(prepare_rotated, {"a": GRACE, "b": write("slow")}, one_process=one_process)
    for run in await explorer.runs():
        with run:
            assert set(run.status.values()) == {200}
            assert run.arrived == []
            assert run.dropped() == {"seen", "slow"}
            assert [set(entries) for entries in await run.records()] == [{"old"}]


@PROCESSES
async def test_a_grace_rotation_beside_a_login(one_process: bool) -> None:
    """Promise 14: beyond reach is only a grace rotation saved before the login that arrives after it."""
    beyond = 0
    runs = await explore({"grace": GRACE, "in": LOGIN_BY_ROTATION}, one_process)
    for run in runs:
        with run:
            assert set(run.status.values()) == {200}
            (living,) = await run.living()
            assert (await run.world.read(living) or {})["user"] == "bob"
            if run.jar != living:
                beyond += 1
                assert run.before("grace save", "in save")
                assert run.before("in respond", "grace respond")
                assert len(run.arrived) == 2
    assert 0 < beyond < len(runs) / 2


@PROCESSES
async def test_a_request_that_loads_with_the_retired_token(one_process: bool) -> None:
    """Promises 8 and 14: what comes after a login with the old token reads nothing and sets no cookie."""
    seen: list[dict[str, object]] = []

    async def look(session: Session) -> None:
        await session.load()
        seen.append(dict(session))
        session["late"] = 1

    for run in await explore({"in": LOGIN_BY_ROTATION, "late": look}, one_process):
        with run:
            await check_answers(run)
            assert [name for name, _ in run.arrived] == ["in"]
            if run.before("in save", "late load"):
                assert seen[-1] in ({}, {"old": 1})
                assert "late" in run.dropped()
    assert {} in seen
    assert {"old": 1} in seen
    assert not any("user" in values for values in seen)


@PROCESSES
@pytest.mark.parametrize("login", [LOGIN_BY_ROTATION, LOGIN_BY_CLEAR], ids=["rotate", "clear"])
async def test_a_planted_token(login: Handler, one_process: bool) -> None:
    """Promise 8: who planted a token reads and writes nothing of the victim's, before or after its login."""
    seen: list[dict[str, object]] = []

    async def attack(session: Session) -> None:
        await session.load()
        session["planted"] = 1
        await commit(manager_of(session), session, explicit=False)
        if record_of(session) is not None:
            try:
                await session.refresh()
            except Exception:
                seen.append({})
        seen.append(dict(session))
        session["again"] = 1

    explorer = Explorer(prepare, {"victim": login, "attacker": attack}, one_process=one_process, coarse=True)
    for run in await explorer.runs():
        with run:
            assert run.status["victim"] == 200
            found = await run.found()
            assert found is not None
            assert found["user"] == "bob"
            if login is LOGIN_BY_CLEAR:
                assert found == {"user": "bob"}
            assert await run.world.read(run.first) is None
            assert [name for name, _ in run.arrived] == ["victim"]
    assert not any("user" in values for values in seen)


async def test_a_token_that_the_store_does_not_know_is_never_adopted() -> None:
    """Promise 8: a planted id that has no record gets a new one, in parallel requests too."""
    planted = "A" * 44

    async def nothing(world: World) -> str:
        assert await world.read(planted) is None
        return planted

    for run in await Explorer(
        nothing, {"a": write("a"), "b": write("b")}, one_process=True, coarse=True
    ).runs():
        with run:
            assert [name for name, _, _ in run.world.events].count("unknown") == 2
            assert await run.world.record(planted) is None
            assert len(run.arrived) == 2
            assert not any(token.startswith(planted[:22]) for _, token in run.arrived)


@PROCESSES
async def test_an_ended_token_does_not_begin_anew(one_process: bool) -> None:
    """Promises 5 and 14: what comes with a token just ended is dropped; a login with it begins anew."""

    async def prepare_ended(world: World) -> str:
        token = await prepare(world)
        session = await world.load(token)
        session.destroy()
        await session.commit()
        return token

    explorer = Explorer(prepare_ended, {"late": write("late"), "in": LOGIN_BY_CLEAR}, one_process=one_process)
    for run in await explorer.runs():
        with run:
            await check_answers(run)
            assert await run.found() == {"user": "bob"}
            assert run.jar is not None
            assert run.jar[:22] != run.first[:22]
            assert run.dropped() == {"late"}


@PROCESSES
async def test_a_flash_message_popped_while_another_is_added(one_process: bool) -> None:
    """Promise 4: the last key is popped, another one added: the session stays, with the other alone."""

    async def prepare_flash(world: World) -> str:
        return await world.new(flash="saved")

    requests = {"pop": handler(lambda session: session.pop("flash")), "add": write("other")}
    for run in await Explorer(prepare_flash, requests, one_process=one_process).runs():
        with run:
            await check_answers(run)
            assert run.arrived == []
            assert await run.found() == {"other": "other"}


@PROCESSES
async def test_three_writers(one_process: bool) -> None:
    """Promise 4: acknowledged writes to different keys all survive, in every order."""
    requests = {name: write(name) for name in "abc"}
    for run in await explore(requests, one_process, coarse=True):
        with run:
            await check_answers(run)
            assert await run.found() == {"old": 1, "a": "a", "b": "b", "c": "c"}
            assert run.dropped() == set()


async def _revoke(world: World, token: str, manager: SessionManager) -> None:
    await manager.revoke(token[:22])


@PROCESSES
@pytest.mark.parametrize("change", ["save", "rotate", "grace", "touch", "login"])
async def test_revoke_beside(change: str, one_process: bool) -> None:
    """Promise 5: a revoked session's record is gone for good; only a login begins anew, under a new id."""
    work: dict[str, Handler] = {
        "save": write("slow"),
        "rotate": PLAIN,
        "grace": GRACE,
        "touch": handler(lambda session: None),
        "login": LOGIN_BY_CLEAR,
    }

    async def prepare_due(world: World) -> str:
        token = await prepare(world)
        world.clock.advance(timedelta(days=5))  # a touch is due
        return token

    explorer = Explorer(
        prepare_due, {"slow": work[change]}, one_process=one_process, outside={"admin": _revoke}
    )
    runs = await explorer.runs()
    assert len(runs) > 10
    for run in runs:
        with run:
            assert set(run.status.values()) == {200}
            assert await run.world.record(run.first) is None
            # What begins anew has its own keys only; a save that was on its way begins nothing.
            own = {"login": {"user"}, "grace": {"seen"}, "save": {"slow"}}.get(change)
            begun = "slow create" in run.steps.trace
            assert not begun or change == "login" or run.before("admin delete", "slow load")
            assert [set(entries) for entries in await run.records()] == ([own] if begun else [])
            assert len(await run.living()) == int(begun)


async def _time_passes(world: World, token: str, manager: SessionManager) -> None:
    await manager.store.load("A" * 22, deadline=0)  # a step of its own
    world.clock.advance(timedelta(days=14))


@PROCESSES
async def test_expiry_at_every_moment(one_process: bool) -> None:
    """Promise 5: a session that expires between load and save does not come back."""
    explorer = Explorer(
        prepare, {"slow": write("slow")}, one_process=one_process, outside={"clock": _time_passes}
    )
    for run in await explorer.runs():
        with run:
            assert set(run.status.values()) == {200}
            if "slow create" in run.steps.trace:  # found expired when loaded: begun anew
                assert "slow save" not in run.steps.trace
                assert [set(entries) for entries in await run.records()] == [{"slow"}]
                assert await run.found() == {"slow": "slow"}
            elif run.before("clock load reply", "slow save"):
                assert await run.records() == []
                assert run.arrived == []
                assert run.dropped() == {"slow"}


@PROCESSES
@pytest.mark.parametrize("login", [LOGIN_BY_ROTATION, LOGIN_BY_CLEAR], ids=["rotate", "clear"])
async def test_a_logout_beside_a_login(login: Handler, one_process: bool) -> None:
    """Promise 14: beyond reach is only a logout saved before the login whose response arrives after it."""
    beyond = 0
    runs = await explore({"out": handler(lambda session: session.destroy()), "in": login}, one_process)
    for run in runs:
        with run:
            assert set(run.status.values()) == {200}
            assert await run.world.read(run.first) is None
            (living,) = await run.living()
            found = await run.world.read(living)
            if [name for name, _ in run.arrived] == ["in"]:  # the login came first and is what counts
                assert found in ({"user": "bob"}, {"old": 1, "user": "bob"})
            else:  # what was logged out does not come back
                assert found == {"user": "bob"}
            if run.jar != living:
                beyond += 1
                assert run.jar is None
                assert run.before("out save", "in respond")
                assert run.before("in respond", "out respond")
    assert 0 < beyond < len(runs) / 2


@PROCESSES
async def test_two_logins_of_different_people(one_process: bool) -> None:
    """Promise 8: logins that race each other end in a session each, and nobody's data in the other's."""

    def eve(session: Session) -> None:
        session.clear()
        session["user"] = "eve"
        session["eve"] = 1

    def bob(session: Session) -> None:
        session.rotate()
        session["user"] = "bob"
        session["bob"] = 1

    for run in await explore({"eve": handler(eve), "bob": handler(bob)}, one_process):
        with run:
            assert set(run.status.values()) == {200}
            found = [await run.world.read(token) for token in await run.living()]
            assert len(found) == 2
            for one in found:
                assert one is not None
                assert one.keys() - {"old"} == {"user", one["user"]}
            assert {"user": "eve", "eve": 1} in found
            assert await run.found() in found


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
