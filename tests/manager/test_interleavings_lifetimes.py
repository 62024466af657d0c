"""Lifetimes that are set beside rotations, logins, logouts and writes, in every order of their steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from asgi_session import Session
from tests.manager.explorer import Explorer, Handler, Run
from tests.manager.kit import World
from tests.manager.races import (
    GRACE,
    LOGIN_BY_CLEAR,
    LOGIN_BY_ROTATION,
    LOGOUTS,
    PROCESSES,
    explore,
    prepare,
    write,
)

pytestmark = pytest.mark.usefixtures("no_jitter")

HOUR = 3_600_000


async def longer(session: Session) -> None:
    """Be remembered for a year."""
    await session.load()
    session.set_lifetime(idle=timedelta(days=60), absolute=timedelta(days=365), persistent=True)


async def shorter(session: Session) -> None:
    await session.load()
    session.set_lifetime(idle=timedelta(hours=1), absolute=timedelta(hours=2))


async def other(session: Session) -> None:
    await session.load()
    session.set_lifetime(absolute=timedelta(hours=3), persistent=False)


async def prepare_due(world: World) -> str:
    """Make a session of which a touch is due."""
    token = await prepare(world)
    world.clock.advance(timedelta(days=3))
    return token


def cross(run: Run, newer: str) -> bool:
    """Whether the responses cross: the lifetime was saved first, and its response arrives last."""
    return run.before("set save", f"{newer} save") and run.before(f"{newer} respond", "set respond")


@PROCESSES
@pytest.mark.parametrize("newer", [LOGIN_BY_ROTATION, GRACE, LOGIN_BY_CLEAR, LOGOUTS["destroy"]])
async def test_beside_a_newer_cookie(one_process: bool, newer: Handler) -> None:
    """Promise 14: the browser has the newest cookie, unless the two responses cross."""
    crossed = orders = 0
    async for run in explore({"set": longer, "new": newer}, one_process):
        orders += 1
        with run:
            assert set(run.status.values()) == {200}
            last = next((token for name, token in reversed(run.arrived) if name == "new"), None)
            assert last is not None
            if run.jar != (last or None):
                crossed += 1
                assert cross(run, "new")
            # In the same save, or after it, the credential is known not to be the newest.
            if not run.before("set save", "new save"):
                assert [name for name, _ in run.arrived] == ["new"]
    assert crossed < orders / 2


@PROCESSES
async def test_two_at_once(one_process: bool) -> None:
    """Promises 4 and 14: both are saved, the later counts where they differ, and the credential is one."""
    async for run in explore({"a": longer, "b": other}, one_process):
        with run:
            record = await run.world.record(run.first)
            assert record is not None
            assert record.idle == 60 * 24 * HOUR
            assert record.deadline - run.world.clock() in (3 * HOUR, 365 * 24 * HOUR)
            assert {token for _, token in run.arrived} == {run.first}
            assert await run.found() == {"old": 1}


@PROCESSES
async def test_a_shortening_beside_a_write_and_a_touch(one_process: bool) -> None:
    """Promise 5: whatever was in flight, the session ends when the shorter lifetime says."""
    explorer = Explorer(prepare_due, {"set": shorter, "w": write("w")}, one_process=one_process, coarse=True)
    async for run in explorer.runs():
        with run:
            assert await run.found() == {"old": 1, "w": "w"}
            assert await run.world.expiry(run.first) <= run.world.clock() + HOUR
            run.world.clock.advance(timedelta(hours=1))
            assert len(run.world.memory) == 0


@PROCESSES
async def test_a_lost_reply_beside_another(one_process: bool) -> None:
    """Promises 7 and 14: it is applied once, and the cookie is sent as if the reply had come."""
    explorer = Explorer(
        prepare, {"set": longer, "in": LOGIN_BY_ROTATION}, one_process=one_process, coarse=True, lost={"set"}
    )
    async for run in explorer.runs():
        with run:
            assert set(run.status.values()) == {200}
            if not run.before("set save", "in save"):
                assert [name for name, _ in run.arrived] == ["in"]
            (living,) = await run.living()
            assert await run.world.read(living) == {"old": 1, "user": "bob"}
            if run.jar != living:
                assert cross(run, "in")
