"""Writers beside each other, beside a revocation and beside the expiry, in every order of their steps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from asgi_session import SessionManager
from tests.manager.explorer import Explorer, Handler
from tests.manager.kit import World
from tests.manager.races import (
    GRACE,
    LOGIN_BY_CLEAR,
    PLAIN,
    PROCESSES,
    check_answers,
    explore,
    handler,
    prepare,
    write,
)

pytestmark = pytest.mark.usefixtures("no_jitter")


@PROCESSES
async def test_a_flash_message_popped_while_another_is_added(one_process: bool) -> None:
    """Promise 4: the last key is popped, another one added: the session stays, with the other alone."""

    async def prepare_flash(world: World) -> str:
        return await world.new(flash="saved")

    requests = {"pop": handler(lambda session: session.pop("flash")), "add": write("other")}
    async for run in Explorer(prepare_flash, requests, one_process=one_process).runs():
        with run:
            await check_answers(run)
            assert run.arrived == []
            assert await run.found() == {"other": "other"}


@PROCESSES
async def test_three_writers(one_process: bool) -> None:
    """Promise 4: acknowledged writes to different keys all survive, in every order."""
    requests = {name: write(name) for name in "abc"}
    async for run in explore(requests, one_process, coarse=True):
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
    orders = 0
    async for run in explorer.runs():
        orders += 1
        with run:
            assert set(run.status.values()) == {200}
            assert await run.world.record(run.first) is None
            # What begins anew has its own keys only; a save that was on its way begins nothing.
            own = {"login": {"user"}, "grace": {"seen"}, "save": {"slow"}}.get(change)
            begun = "slow create" in run.steps.trace
            assert not begun or change == "login" or run.before("admin delete", "slow load")
            assert [set(entries) for entries in await run.records()] == ([own] if begun else [])
            assert len(await run.living()) == int(begun)
    assert orders > 10


async def _time_passes(world: World, token: str, manager: SessionManager) -> None:
    await manager.store.load("A" * 22, deadline=0)  # a step of its own
    world.clock.advance(timedelta(days=14))


@PROCESSES
async def test_expiry_at_every_moment(one_process: bool) -> None:
    """Promise 5: a session that expires between load and save does not come back."""
    explorer = Explorer(
        prepare, {"slow": write("slow")}, one_process=one_process, outside={"clock": _time_passes}
    )
    async for run in explorer.runs():
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
async def test_lost_replies_of_parallel_writers(one_process: bool) -> None:
    """Promises 4 and 7: two writers whose replies are lost are both saved, in every order."""
    requests = {"a": write("a"), "b": write("b")}
    async for run in explore(requests, one_process, lost={"a", "b"}):
        with run:
            await check_answers(run)
            assert await run.found() == {"old": 1, "a": "a", "b": "b"}
            assert len(run.world.named("saved")) == 2
