"""Every event, with its name, its session and its info."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asgi_session import SessionError, SessionManager, StoreUnavailable
from asgi_session.errors import SessionTooLarge
from asgi_session.store import Back, Lost, Reconnected, Report
from asgi_session.stores.memory import MemoryStore
from tests.inside import commit, credential, has_token, owed_by, seal
from tests.manager.kit import World, soon


async def change(world: World, token: str | None = None, **values: Any) -> str:
    """Have a request set `values`; return its token."""
    session = await world.session(token).load()
    session.update(values)
    await commit(world.manager, session, explicit=False)
    return credential(session) if has_token(session) else ""


async def created(world: World) -> None:
    await change(world, a=1)


async def saved(world: World) -> None:
    token = await world.new()
    await change(world, token, a=1, b=2)


async def merged(world: World) -> None:
    token = await world.new()
    session = await world.load(token)
    await change(world, token, a=1)
    world.events.clear()
    session["b"] = 1
    await session.commit()


async def rotated(world: World) -> None:
    session = await world.load(await world.new())
    session.rotate()
    await session.commit()


async def ended(world: World) -> None:
    session = await world.load(await world.new())
    session.destroy()
    await session.commit()


async def revoked(world: World) -> None:
    token = await world.new()
    assert await world.manager.revoke(token[:22]) is True
    assert await world.manager.revoke(token[:22]) is False


async def touched(world: World) -> None:
    token = await world.new()
    world.clock.advance(5 * 86400)
    await world.load(token)


async def touch_failed(world: World) -> None:
    token = await world.new()
    world.clock.advance(5 * 86400)
    world.store.fail("touch")
    await world.load(token)


async def gone(world: World) -> None:
    token = await world.new()
    session = await world.load(token)
    await world.memory.delete(token[:22], deadline=soon())
    session["a"] = 1
    await commit(world.manager, session, explicit=False)


async def overtaken(world: World) -> None:
    token = await world.new()
    session, other = await world.load(token), await world.load(token)
    other.rotate()
    await other.commit()
    world.events.clear()
    session["a"] = 1
    await commit(world.manager, session, explicit=False)


async def _rotated_token(world: World, grace: float | None) -> str:
    token = await world.new()
    session = await world.load(token)
    session.rotate(grace=grace)
    await session.commit()
    world.events.clear()
    return token


async def detached(world: World) -> None:
    await change(world, await _rotated_token(world, None), a=1)


async def rotated_already(world: World) -> None:
    token = await _rotated_token(world, 15)
    session = await world.load(token)
    session.rotate(grace=15)
    await session.commit()


async def late(world: World) -> None:
    session = await world.session().load()
    session["a"] = 1
    seal(session)
    await commit(world.manager, session, explicit=False)


async def error(world: World) -> None:
    session = await world.load(await world.new())
    session["a"] = 1
    await commit(world.manager, session, explicit=False, only_destroy=True)


async def stale_value(world: World) -> None:
    token = await world.new(cart=[1])
    session = await world.load(token)
    cart = session["cart"]
    await change(world, token, cart=[2])
    await session.refresh()
    world.events.clear()
    cart.append(3)
    await session.commit()


async def failed(world: World) -> None:
    session = await world.load(await world.new())
    session["a"] = 1
    world.store.fail("save")
    with contextlib.suppress(StoreUnavailable):
        await session.commit()


async def too_large(world: World) -> None:
    session = await world.load(await world.new())
    session["a"] = "x" * 70_000
    with contextlib.suppress(SessionTooLarge):
        await session.commit()


async def unavailable(world: World) -> None:
    token = await world.new()
    world.store.fail("load")
    with contextlib.suppress(StoreUnavailable):
        await world.load(token)


async def unknown(world: World) -> None:
    await world.load("A" * 44)


async def wrong_verifier(world: World) -> None:
    token = await world.new()
    await world.load(token[:22] + "A" * 22)


async def malformed(world: World) -> None:
    await world.load("nonsense")


async def corrupt(world: World) -> None:
    token = await world.new()
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], b"x" * 80, world.clock() + 1000, deadline=soon())
    with contextlib.suppress(SessionError):
        await world.load(token)


Shape = list[tuple[str, dict[str, Any]]]
CASES: list[tuple[Callable[[World], Awaitable[None]], Shape]] = [
    (created, [("created", {})]),
    (saved, [("saved", {"keys": ["a", "b"], "tries": 1})]),
    (merged, [("saved", {"keys": ["b"], "tries": 2}), ("merged", {"tries": 2})]),
    (rotated, [("saved", {"keys": [], "tries": 1}), ("rotated", {})]),
    (ended, [("ended", {})]),
    (revoked, [("revoked", {})]),
    (touched, [("touched", {"expires_at": int})]),
    (touch_failed, [("touch_failed", {"error": StoreUnavailable})]),
    (gone, [("dropped", {"reason": "gone", "keys": ["a"]})]),
    (overtaken, [("dropped", {"reason": "overtaken", "keys": ["a"]})]),
    (detached, [("retired", {"opens": False}), ("dropped", {"reason": "detached", "keys": ["a"]})]),
    (
        rotated_already,
        [
            ("retired", {"opens": True}),
            ("saved", {"keys": [], "tries": 1}),
            ("dropped", {"reason": "rotated already", "keys": []}),
        ],
    ),
    (late, [("dropped", {"reason": "late", "keys": ["a"]})]),
    (error, [("dropped", {"reason": "error", "keys": ["a"]})]),
    (stale_value, [("stale_value", {"key": "cart"})]),
    (failed, [("failed", {"error": StoreUnavailable})]),
    (too_large, [("failed", {"error": SessionTooLarge})]),
    (unavailable, [("unavailable", {"error": StoreUnavailable})]),
    (unknown, [("unknown", {})]),
    (wrong_verifier, [("unknown", {})]),
    (malformed, [("malformed", {"count": 1})]),
    (corrupt, [("corrupt", {})]),
]
WITHOUT_SESSION = {"unavailable", "malformed"}
NO_RECORD = {late, detached}


@pytest.mark.parametrize(("what", "expected"), CASES, ids=[case[0].__name__ for case in CASES])
async def test_events(what: Callable[[World], Awaitable[None]], expected: Shape) -> None:
    """Each event comes once, with the info that the documentation names and the session's public id."""
    world = World()
    await what(world)
    await world.manager.drain()
    assert [name for name, _, _ in world.events] == [name for name, _ in expected]
    for (name, session_id, info), (_, shape) in zip(world.events, expected, strict=True):
        assert info.keys() == shape.keys()
        for key, value in shape.items():
            assert isinstance(info[key], value) if isinstance(value, type) else info[key] == value
        if name in WITHOUT_SESSION or (what in NO_RECORD and name == "dropped"):
            assert session_id is None
        else:
            assert session_id is not None
            assert len(session_id) == 22, "the public id, no credential"


async def test_what_on_event_raises_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """A broken `on_event` fails no request and loses no result."""

    def broken(name: str, session_id: str | None, **info: Any) -> None:
        raise RuntimeError("broken hook")

    world = World(on_event=broken)
    with caplog.at_level(logging.ERROR, "asgi_session"):
        session = await world.session().load()
        session["a"] = 1
        await session.commit()
        token = credential(session)
        session = await world.load(token)
        session.rotate()
        await session.commit()
        assert owed_by(session) == "cookie"
        await world.load(token)
        await world.manager.drain()
    assert await world.read(credential(session)) == {"a": 1}
    logged = [record for record in caplog.records if "on_event" in record.getMessage()]
    assert len(logged) >= 4
    assert all(record.exc_info is not None for record in logged)


async def test_an_event_hook_may_raise_what_it_likes() -> None:
    """Even a CancelledError, from a future that the hook looks at."""

    def on_event(name: str, session_id: str | None, **info: Any) -> None:
        raise asyncio.CancelledError

    world = World(on_event=on_event)
    session = await world.session().load()
    for number in range(3):
        session["n"] = number
        await session.commit()
    assert await world.read(credential(session)) == {"n": 2}


class Reporting(MemoryStore):
    """A store that tells what its servers do."""

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        self.tell = tell
        return lambda: None


def test_what_a_store_reports_of_its_servers() -> None:
    """Promise 18: events of no session and no request; nothing once nobody has the manager."""
    told: list[tuple[str, str | None, dict[str, Any]]] = []

    def on_event(name: str, session_id: str | None, *, connection: object, **info: Any) -> None:
        assert connection is None
        told.append((name, session_id, info))

    store = Reporting()
    manager = SessionManager(store, on_event=on_event)
    for report in (Lost("one:6379", "no answer"), Back("one:6379", 2.0, 3), Reconnected("one:6379")):
        store.tell(report)
    assert told == [
        ("store_lost", None, {"server": "one:6379", "error": "no answer"}),
        ("store_back", None, {"server": "one:6379", "seconds": 2.0, "failed": 3}),
        ("store_reconnected", None, {"server": "one:6379"}),
    ]
    del manager
    gc.collect()
    store.tell(Reconnected("one:6379"))
    assert len(told) == 3
