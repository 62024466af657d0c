"""Tokens that somebody has planted, or that have ended, in every order of the steps."""

from __future__ import annotations

import pytest

from asgi_session import Session
from tests.inside import commit, manager_of, record_of
from tests.manager.explorer import Explorer, Handler
from tests.manager.kit import World
from tests.manager.races import LOGIN_BY_CLEAR, LOGIN_BY_ROTATION, PROCESSES, check_answers, prepare, write

pytestmark = pytest.mark.usefixtures("no_jitter")


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
    async for run in explorer.runs():
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

    async for run in Explorer(
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
    async for run in explorer.runs():
        with run:
            await check_answers(run)
            assert await run.found() == {"user": "bob"}
            assert run.jar is not None
            assert run.jar[:22] != run.first[:22]
            assert run.dropped() == {"late"}
