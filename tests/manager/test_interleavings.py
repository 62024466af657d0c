"""Logins and logouts beside each other and beside writes, in every order of their steps."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import Session
from tests.inside import commit, manager_of
from tests.manager.explorer import Handler
from tests.manager.races import (
    LOGIN_BY_CLEAR,
    LOGIN_BY_ROTATION,
    LOGIN_UNLOADED,
    LOGOUTS,
    PROCESSES,
    check_answers,
    explore,
    handler,
    write,
)

pytestmark = pytest.mark.usefixtures("no_jitter")


@PROCESSES
@pytest.mark.parametrize("logout", LOGOUTS)
async def test_logout_during_a_slow_write(logout: str, one_process: bool) -> None:
    """Promises 5 and 14: the write is in before the logout or nowhere, and the session stays ended."""
    async for run in explore({"out": LOGOUTS[logout], "slow": write("slow")}, one_process):
        with run:
            await check_answers(run)
            assert run.jar is None
            assert await run.living() == []
            assert all(entries == {} for entries in await run.records())
            assert [name for name, _ in run.arrived] == ["out"]


@PROCESSES
async def test_two_logouts_and_a_slow_write(one_process: bool) -> None:
    """Promises 5 and 14: ended once, and no order of three requests brings it back."""
    requests = {"out": LOGOUTS["destroy"], "off": LOGOUTS["clear unloaded"], "slow": write("slow")}
    async for run in explore(requests, one_process, coarse=True):
        with run:
            await check_answers(run)
            assert run.jar is None
            assert await run.living() == []
            assert all(entries == {} for entries in await run.records())


@PROCESSES
async def test_login_by_rotation_during_a_slow_write(one_process: bool) -> None:
    """Promises 5, 8 and 14: the login's cookie stays; a write that came too late is reported."""
    async for run in explore({"in": LOGIN_BY_ROTATION, "slow": write("slow")}, one_process):
        with run:
            await check_answers(run)
            found = await run.found()
            assert found is not None
            assert found | {"slow": "slow"} == {"old": 1, "user": "bob", "slow": "slow"}
            assert ("slow" in found) != ("slow" in run.dropped())
            assert [name for name, _ in run.arrived] == ["in"]
            assert len(await run.records()) == 1


@PROCESSES
@pytest.mark.parametrize("login", [LOGIN_BY_CLEAR, LOGIN_UNLOADED], ids=["loaded", "unloaded"])
async def test_login_by_clear_during_a_slow_write(login: Handler, one_process: bool) -> None:
    """Promise 8: `clear()` and what follows keep out what was before, and what comes too late."""
    async for run in explore({"in": login, "slow": write("slow")}, one_process):
        with run:
            await check_answers(run)
            assert await run.found() == {"user": "bob"}
            assert await run.records() == [{}, {"user": b"\xa3bob"}]  # the one that it came with has ended


@PROCESSES
async def test_login_during_two_slow_writes(one_process: bool) -> None:
    """Promises 4, 8 and 14: of two slow writes each is there or reported; the cookie is the login's."""
    requests = {"in": LOGIN_BY_ROTATION, "slow": write("slow"), "late": write("late")}
    async for run in explore(requests, one_process, coarse=True):
        with run:
            await check_answers(run)
            found = await run.found()
            assert found is not None
            for key in ("slow", "late"):
                assert (key in found) != (key in run.dropped())
            assert [name for name, _ in run.arrived] == ["in"]


@PROCESSES
@pytest.mark.parametrize("move", [LOGIN_BY_CLEAR, LOGIN_BY_ROTATION, LOGOUTS["destroy"]])
async def test_what_a_handler_sees_and_does_after_its_commit(move: Handler, one_process: bool) -> None:
    """Promise 8: a handler that commits, reads and writes on sees and changes no other identity."""
    seen: list[dict[str, Any]] = []

    async def slow(session: Session) -> None:
        await session.load()
        session["slow"] = "slow"
        await commit(manager_of(session), session, explicit=False)
        seen.append(dict(session))
        session["late"] = "late"

    requests = {"in": move, "slow": slow}
    if one_process:
        requests["first"] = write("first")  # while it is on the wire the other two join
    async for run in explore(requests, one_process, coarse=True):
        with run:
            await check_answers(run)
            found = await run.found()
            if move is LOGIN_BY_CLEAR:
                assert found == {"user": "bob"}
            elif found is not None and run.before("in save", "slow save"):
                assert "late" not in found
    assert not any("user" in values for values in seen)
    assert any("slow" in values for values in seen)


@PROCESSES
@pytest.mark.parametrize("lost", [{"slow"}, {"in"}, {"slow", "in"}], ids=["slow", "in", "slow-in"])
@pytest.mark.parametrize("login", [LOGIN_BY_CLEAR, LOGIN_BY_ROTATION], ids=["clear", "rotate"])
async def test_lost_replies_beside_a_login(login: Handler, lost: set[str], one_process: bool) -> None:
    """Promises 7, 8 and 14: saves whose replies are lost are carried out once, each under its identity."""
    seen: list[dict[str, Any]] = []

    async def slow(session: Session) -> None:
        await session.load()
        session["slow"] = "slow"
        await commit(manager_of(session), session, explicit=False)
        seen.append(dict(session))
        session["late"] = "late"

    async for run in explore({"in": login, "slow": slow}, one_process, coarse=True, lost=lost):
        with run:
            await check_answers(run)
            assert [name for name, _ in run.arrived] == ["in"]
            found = await run.found()
            assert found is not None
            if login is LOGIN_BY_CLEAR:
                assert found == {"user": "bob"}
            else:
                for key in ("slow", "late"):
                    assert (key in found) != (key in run.dropped()) or "slow" in run.dropped()
            record = await run.world.record(run.first)
            assert record is not None
            assert int.from_bytes(record.epoch[:4], "big") == 2, "one login"
    assert not any("user" in values for values in seen)


@PROCESSES
@pytest.mark.parametrize("login", [LOGIN_BY_ROTATION, LOGIN_BY_CLEAR], ids=["rotate", "clear"])
async def test_a_logout_beside_a_login(login: Handler, one_process: bool) -> None:
    """Promise 14: beyond reach is only a logout saved before the login whose response arrives after it."""
    beyond = orders = 0
    async for run in explore({"out": handler(lambda session: session.destroy()), "in": login}, one_process):
        orders += 1
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
    assert 0 < beyond < orders / 2


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

    async for run in explore({"eve": handler(eve), "bob": handler(bob)}, one_process):
        with run:
            assert set(run.status.values()) == {200}
            found = [await run.world.read(token) for token in await run.living()]
            assert len(found) == 2
            for one in found:
                assert one is not None
                assert one.keys() - {"old"} == {"user", one["user"]}
            assert {"user": "eve", "eve": 1} in found
            assert await run.found() in found
