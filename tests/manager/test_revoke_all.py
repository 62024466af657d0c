"""The end of all sessions: who knows of it when, and what it costs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from asgi_session import SessionCorrupt, SessionGone
from tests.inside import credential, stop_looking_clock
from tests.manager.kit import World


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the clock by which processes look, and return where it stands."""
    now = [time.monotonic()]
    stop_looking_clock(monkeypatch, lambda: now[0])
    return now


async def test_this_process_knows_at_once() -> None:
    """Nothing opens that was created up to now, by cookie, by id or by user; what comes later does."""
    of = World(identity="user")
    old = await of.new(user="ada", x=1)
    await of.manager.revoke_all()
    session = await of.load(old)
    assert dict(session) == {}
    assert session.is_new
    assert await of.manager.get(old[:22]) is None
    assert [_ async for _ in of.manager.sessions_of("ada")] == []
    with pytest.raises(SessionGone):
        async with of.manager.lock(old[:22]):
            pass
    of.clock.advance(1)
    session = await of.session().load()
    session["user"] = "ada"
    await session.commit()
    assert dict(await of.load(credential(session))) == {"user": "ada"}


async def test_a_process_that_is_opened_knows() -> None:
    """It looks when it is opened."""
    of = World()
    old = await of.new(x=1)
    await of.manager.revoke_all()
    other = of.process()
    await other.open()
    assert dict(await of.load(old, other)) == {}


async def test_the_others_know_within_seconds(seconds: list[float]) -> None:
    """Each looks some seconds after its last look, in a task; until then it does not know."""
    of = World()
    other = of.process()
    await other.open()
    old = await of.new(x=1)
    of.store.calls.clear()
    await of.manager.revoke_all()
    assert dict(await of.load(old, other)) == {"x": 1}
    seconds[0] += 5.0
    assert dict(await of.load(old, other)) == {"x": 1}  # no request waits for it
    await other.drain()
    assert dict(await of.load(old, other)) == {}


async def test_a_process_that_nobody_opens_knows_within_seconds(seconds: list[float]) -> None:
    """It looks for the first time some seconds after its first use: that itself costs what it did."""
    of = World()
    old = await of.new(x=1)
    other = of.process()
    of.store.calls.clear()
    await of.load(old, other)
    assert [call.verb for call in of.store.calls] == ["load"]
    await of.manager.revoke_all()
    seconds[0] += 10.0
    await of.load(old, other)
    await other.drain()
    assert dict(await of.load(old, other)) == {}


async def test_it_costs_one_load_every_five_seconds(seconds: list[float]) -> None:
    """Promise 2: however many requests there are."""
    of = World()
    token = await of.new(x=1)
    await of.manager.open()
    of.store.calls.clear()
    for _ in range(100):
        await of.load(token)
        seconds[0] += 0.2
    await of.manager.drain()
    assert len(of.store.calls) == 100 + 3  # 20 seconds, and the look at the opening


async def test_another_namespace_stays() -> None:
    """Promise 17: another namespace's sessions are not touched."""
    of = World()
    other = of.process(namespace="other")
    session = await of.session(manager=other).load()
    session["x"] = 1
    await session.commit()
    await of.manager.revoke_all()
    await other.open()
    assert dict(await of.load(credential(session), other)) == {"x": 1}


async def test_a_failed_look_is_an_event(seconds: list[float]) -> None:
    """The request goes on."""
    of = World()
    token = await of.new(x=1)
    await of.manager.open()
    seconds[0] += 5.0
    session = await of.load(token)  # the look has not begun yet
    of.store.fail("load", times=1)
    await of.manager.drain()
    assert dict(session) == {"x": 1}
    assert len(of.named("failed")) == 1


async def test_it_outlives_the_keys_that_it_was_sealed_with() -> None:
    """Keys are changed step by step, seals are left and come back: each step's processes start, and know."""
    old, new = "the old key, which has at least 32 bytes", "the new key, which has at least 32 bytes"
    of = World(encryption_key=old)
    await of.manager.revoke_all()
    steps: list[dict[str, Any]] = [
        {"encryption_key": [old, new]},
        {"encryption_key": [new, old]},
        {"encryption_key": new},
        {"encryption_key": new, "unsealed": "accept"},
        {"encryption_key": new, "unsealed": "write"},
        {"encryption_key": new, "unsealed": "accept"},
        {"encryption_key": new},
    ]
    for step in steps:
        for _ in range(2):
            process = of.process(**step)
            of.store.calls.clear()
            await process.open()
            calls = [call.verb for call in of.store.calls]
            session = await of.session(manager=process).load()
            session["x"] = 1
            await session.commit()
            assert await process.get(session.id or "") is None, "the clock stands still"
        assert calls == ["load"], "the second finds it as it should be"
    with pytest.raises(SessionCorrupt, match="has only"):
        await of.process(encryption_key=old).open()
