"""Moving in under every order: parallel first requests, kills, lost replies, logouts and revocations."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, get_args

import pytest

from asgi_session import Session, SessionManager
from asgi_session.testing.faults import Fault
from tests.app.moving import Jar, Seen, moved, signed
from tests.inside import everybody_is_impatient, fail_no_more, forget_claims, keys_in
from tests.manager.kit import World
from tests.manager.moving import Run, Work, drawn, every_order, explored, request
from tests.servers import ServerProcess

MANY_ORDERS = pytest.mark.no_cover
"""Hundreds of orders of the same steps: to measure them shows nothing that the other tests here do not."""


@pytest.fixture
async def old() -> Jar:
    return await signed({"user_id": 7})


def sessions_in(world: World) -> list[str]:
    """Return the keys of the sessions in the store: claims and indexes have others."""
    return [key for key in keys_in(world.memory) if key[-1] in "AQgw"]


async def logs_out(session: Session) -> None:
    await session.load()
    session.clear()


@MANY_ORDERS
async def test_parallel_first_requests(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, every order: both get the same session and credential, and nothing else is created."""
    runs = await every_order(old, {"a": request("a"), "b": request("b")}, monkeypatch)
    assert len(runs) > 300
    for each in runs:
        with each as run:
            assert len(run.tokens()) == 1
            assert run.found == {"a": {"user_id": 7}, "b": {"user_id": 7}}
            assert len(sessions_in(run.world)) == 1
            assert await run.later() == {"user_id": 7}
            assert await run.later(run.jars["a"]) == {"user_id": 7}


@MANY_ORDERS
async def test_no_clock_decides(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everybody takes everybody else's claim over at once, all of it holds."""
    everybody_is_impatient(monkeypatch)
    handed_out = 0
    for seed in range(600):
        work = {"a": request("a", then=logs_out if seed % 2 else None), "b": request("b"), "c": request("c")}
        with await explored(old, work, drawn(seed), monkeypatch) as run:
            assert len(run.tokens() - {None}) <= 1
            assert len(sessions_in(run.world)) <= 1
            assert await run.later() == ({} if seed % 2 else {"user_id": 7})
            handed_out += len(run.jars)
    assert handed_out > 600


async def test_no_clock_decides_with_identity(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the session is entered into its user's index, as long as that is not full."""
    everybody_is_impatient(monkeypatch)
    for seed in range(200):
        work = {name: request(name) for name in "abc"}
        with await explored(old, work, drawn(seed), monkeypatch, identity="user_id") as run:
            assert len(run.tokens() - {None}) <= 1
            assert await run.later() == {"user_id": 7}
            manager = run.world.process()
            assert len([info async for info in manager.sessions_of(7)]) == 1


async def test_without_claims_these_tests_fail(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where each request has a claim of its own, two sessions come of one cookie."""
    forget_claims(monkeypatch)
    run = await explored(old, {"a": request("a"), "b": request("b")}, drawn(1), monkeypatch)
    assert len(run.tokens()) == 2
    run = await explored(old, {"a": request("a", then=logs_out)}, drawn(1), monkeypatch)
    assert await run.later() == {"user_id": 7}


@pytest.mark.parametrize("step", range(1, 7))
async def test_a_killed_first_request(old: Jar, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Killed before any of its steps, beside another one in every order: that one is served, and only it.

    What is left of the killed one is at most a session that nobody can open, for an hour.
    """
    work = {"a": request("a"), "b": request("b")}
    for each in await every_order(old, work, monkeypatch, kills={"a": step - 1}):
        with each as run:
            assert run.found["b"] == {"user_id": 7}
            assert len(run.tokens()) == 1
            assert len(sessions_in(run.world)) <= 2
            later = run.old.copy()
            assert await run.later(later) == {"user_id": 7}
            assert {later.new} == run.tokens()
            run.world.clock.advance(3601)
            assert await run.later() == {"user_id": 7}


async def test_all_first_requests_are_killed(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever two that were killed have left, the next request with the old cookie is served."""
    work = {"a": request("a"), "b": request("b")}
    for first in range(7):
        for second in range(7):
            for seed in range(6):
                kills = {"a": first, "b": second}
                with await explored(old, work, drawn(seed), monkeypatch, kills) as run:
                    run.world.clock.advance(60)
                    jar = run.old.copy()
                    assert await run.later(jar) == {"user_id": 7}
                    assert run.tokens() <= {jar.new}
                    assert await run.later(jar) == {"user_id": 7}


@MANY_ORDERS
async def test_a_logout_beside(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: once a logout of the session is answered, no request with the old cookie brings it back."""
    runs = [
        await explored(old, {"a": request("a", then=logs_out), "b": request("b")}, drawn(seed), monkeypatch)
        for seed in range(800)
    ]
    seen = Counter(len(run.found["b"]) for run in runs)
    assert seen[0] > 50  # it came after the logout
    assert seen[1] > 50  # or before
    for each in runs:
        with each as run:
            assert sessions_in(run.world) == [] or await run.later() == {}
            assert await run.later() == {}
            for jar in run.jars.values():
                assert await run.later(jar.copy()) == {}


@MANY_ORDERS
async def test_a_logout_beside_a_request_that_is_killed(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is killed on its way leave something to bring it back with."""
    for step in range(9):
        for seed in range(60):
            work = {"a": request("a", then=logs_out), "b": request("b"), "c": request("c")}
            with await explored(old, work, drawn(seed), monkeypatch, {"b": step}) as run:
                run.world.clock.advance(60)
                assert await run.later() == {}
                for jar in run.jars.values():
                    assert await run.later(jar.copy()) == {}


@MANY_ORDERS
@pytest.mark.parametrize("cap", [1, 100])
async def test_many_with_identity(old: Jar, monkeypatch: pytest.MonkeyPatch, cap: int) -> None:
    """With an index, three at once are one session, whatever the cap; a killed one ends none."""
    work = {name: request(name) for name in "abc"}
    for seed in range(300):
        kills = {"a": seed % 15} if seed % 3 else {}
        run = await explored(
            old, work, drawn(seed), monkeypatch, kills, identity="user_id", max_sessions_per_user=cap
        )
        with run:
            assert {name: run.found[name] for name in "bc"} == {"b": {"user_id": 7}, "c": {"user_id": 7}}
            assert len(run.tokens()) == 1
            assert await run.later() == {"user_id": 7}
            manager = run.world.process()
            run.world.clock.advance(3601)
            assert len([info async for info in manager.sessions_of(7)]) == 1


async def test_a_revocation_beside(old: Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a session that was answered before `revoke_user` was called does not survive its return."""

    def revoke_after(stops: int) -> Work:
        async def revoke(run: Run, manager: SessionManager) -> None:
            for _ in range(stops):
                await run.steps.stop("call")
            run.begun["revoke"] = len(run.steps.trace)
            await manager.revoke_user(7)

        return revoke

    before = 0
    for seed in range(600):
        work = {"a": request("a"), "b": request("b"), "revoke": revoke_after(seed % 12)}
        with await explored(old, work, drawn(seed), monkeypatch, identity="user_id") as run:
            answered = [name for name, jar in run.jars.items() if jar.new]
            if any(run.done[name] < run.begun["revoke"] for name in answered):
                before += 1
                assert await run.later() == {}
                for jar in run.jars.values():
                    assert await run.later(jar.copy()) == {}
            else:  # it counts as one that has not come yet; but nobody is left with what is dead
                found = await run.later()
                manager = run.world.process()
                assert len([info async for info in manager.sessions_of(7)]) == len(found)
    assert 20 < before < 580


# ---------------------------------------------------------------- lost replies


@pytest.mark.parametrize("fault", get_args(Fault))
@pytest.mark.parametrize("identity", [None, "user_id"])
async def test_a_fault_at_every_verb(old: Jar, fault: Fault, identity: str | None) -> None:
    """Served, or told of a failure, as which no lost write counts; the next request is in the session."""
    told: list[str] = []
    for nth in range(1, 14):
        world = World(identity=identity)
        world.store.fail(None, fault, nth=nth)
        jar, kept, seen = old.copy(), old.copy(), Seen()
        await jar.get(moved(world.manager, seen))
        await world.manager.drain()
        if jar.status == 200:
            assert seen == [{"user_id": 7}]
        else:
            assert jar.status == 503
            told.append(world.store.calls[-1].verb)
        fail_no_more(world.store)
        world.clock.advance(10)
        again = Seen()
        await kept.get(moved(world.process(), again))
        assert again == [{"user_id": 7}]
        assert jar.new in (None, kept.new)
    if fault.startswith("lost"):
        assert set(told) == {"load"}
    else:
        assert len(told) >= 3


async def test_a_store_that_is_away(old: Jar) -> None:
    """An error, or with ``on_unavailable="anonymous"`` an empty session; the old cookie stays either way."""
    world = World()
    world.store.fail("load", times=None)
    jar = old.copy()
    await jar.get(moved(world.manager))
    assert jar.status == 503
    assert jar.cookies == old.cookies
    seen = Seen()
    await jar.get(moved(world.process(on_unavailable="anonymous"), seen))
    assert (jar.status, seen) == (200, [{}])
    assert jar.cookies == old.cookies


async def test_a_cancelled_first_request(old: Jar) -> None:
    """What one that is cancelled has begun goes on without it, so that others wait for it in no vain."""
    world = World()
    gate = world.store.pause("create", nth=2)
    jar, other = old.copy(), old.copy()

    task = asyncio.create_task(jar.get(moved(world.manager)))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.release()
    await world.manager.drain()
    await other.get(moved(world.process()))
    assert other.new is not None
    assert world.store.counts()["create"] == 2


async def test_many_browsers_on_a_real_server(valkey: ServerProcess) -> None:
    """30 browsers, each with 8 requests at once to two managers: one session each, and each of its user's."""
    options: dict[str, Any] = {"identity": "user_id", "namespace": "moving in"}
    async with SessionManager(valkey.url, **options) as one, SessionManager(valkey.url, **options) as other:
        browsers = [await signed({"user_id": user}) for user in range(30)]
        jars = [[browser.copy() for _ in range(8)] for browser in browsers]
        pairs = [(jar, (one, other)[at % 2]) for mine in jars for at, jar in enumerate(mine)]
        await asyncio.gather(*(jar.get(moved(manager)) for jar, manager in pairs))
        for user, mine in enumerate(jars):
            assert len({jar.new for jar in mine}) == 1
            assert mine[0].new is not None
            assert len([info async for info in one.sessions_of(user)]) == 1
