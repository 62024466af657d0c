"""An unloaded session: loads by itself in a worker thread, elsewhere says what to do."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest
from starlette.responses import JSONResponse

from asgi_session import Session, SessionNotLoaded, StoreUnavailable
from tests.unit.world import World

USES: dict[str, Callable[[Session], Any]] = {
    "getitem": lambda s: s["a"],
    "get": lambda s: s.get("a"),
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": iter,
    "reversed": reversed,
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "copy": lambda s: s.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "==": lambda s: s == {},
    "== reflected": lambda s: {} == s,  # noqa: SIM300
    "!=": lambda s: s != {},
    "|": lambda s: s | {},
    "| reflected": lambda s: {} | s,
    "dict": dict,
    "**": lambda s: {**s},
    "dict.update": lambda s: dict[str, Any]().update(s),
    "json": json.dumps,
    "json indented": lambda s: json.dumps(s, indent=1),
    "JSONResponse": JSONResponse,
    "set": lambda s: s.__setitem__("z", 1),
    "del": lambda s: s.__delitem__("a"),
    "pop": lambda s: s.pop("a"),
    "pop default": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("z", 1),
    "update": lambda s: s.update(z=1),
    "update nothing": lambda s: s.update(),
    "|=": lambda s: s.__ior__({"z": 1}),
    "is_new": lambda s: s.is_new,
    "rotate": lambda s: s.rotate(),
}


@pytest.fixture
async def world() -> World:
    return World()


def assert_helpful(error: SessionNotLoaded) -> None:
    for way in ("SessionDep", "await load_session(request)", "autoload=True"):
        assert way in str(error)


@pytest.mark.parametrize("cookie", [True, False])
@pytest.mark.parametrize("name", USES)
async def test_on_the_loop(name: str, cookie: bool, world: World) -> None:
    """Promise 1: every use raises, with or without a cookie, names three ways out, and asks no store."""
    session = world.request(await world.create(a=1) if cookie else None)
    with pytest.raises(SessionNotLoaded) as caught:
        USES[name](session)
    assert_helpful(caught.value)
    assert world.store.calls == []
    assert not session.loaded
    assert not session.modified


@pytest.mark.parametrize("cookie", [True, False])
@pytest.mark.parametrize("name", USES)
async def test_in_a_thread_of_the_app(name: str, cookie: bool, world: World) -> None:
    """A thread that no event loop waits for cannot load; it gets the same advice."""
    session = world.request(await world.create(a=1) if cookie else None)
    caught: list[BaseException] = []

    def use() -> None:
        try:
            USES[name](session)
        except SessionNotLoaded as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(10)
    assert len(caught) == 1
    assert isinstance(caught[0], SessionNotLoaded)
    assert_helpful(caught[0])


@pytest.mark.parametrize("name", sorted(USES.keys() - {"| reflected", "dict.update", "== reflected"}))
async def test_in_a_worker_thread(name: str, world: World) -> None:
    """In a `def` handler's thread every use loads by itself, once, and works as on a loaded session."""
    cookie = await world.create(a=1)
    session = world.request(cookie)
    result = await anyio.to_thread.run_sync(USES[name], session)
    assert session.loaded
    assert session.accessed
    assert world.store.counts() == {"load": 1}
    expected = USES[name](await world.load(cookie))
    if name not in ("iter", "reversed", "keys", "values", "items", "JSONResponse"):
        assert result == expected


async def test_without_a_cookie_a_thread_gets_a_new_session(world: World) -> None:
    """Promise 1: without a cookie even that asks no store."""
    session = world.request()
    assert await anyio.to_thread.run_sync(dict, session) == {}
    assert session.is_new
    assert world.store.calls == []


async def test_a_failing_load_surfaces_in_the_thread(world: World) -> None:
    """A store that is away is an error where the session is used, and the next use tries again."""
    session = world.request(await world.create(a=1))
    world.store.fail("load")
    with pytest.raises(StoreUnavailable):
        await anyio.to_thread.run_sync(lambda: session["a"])
    assert not session.loaded
    assert await anyio.to_thread.run_sync(lambda: session["a"]) == 1


async def test_what_needs_no_load(world: World) -> None:
    """Promise 1: what can be told without the store is told without it."""
    session = world.request(await world.create(a=1))
    assert (session.loaded, session.accessed, session.modified) == (False, False, False)
    assert (session.id, session.created_at, session.expires_at) == (None, None, None)
    assert "unloaded" in repr(session)
    assert session != 5
    await world.respond(session)
    await session.commit()
    assert world.store.calls == []


async def test_load_is_shared_and_done_once(world: World) -> None:
    """Promise 2: concurrent loads are one command, later ones none, and each returns the session."""
    session = world.request(await world.create(a=1))
    gate = world.store.pause("load")
    loads = [asyncio.create_task(session.load()) for _ in range(5)]
    await gate.reached()
    gate.release()
    assert all(loaded is session for loaded in await asyncio.gather(*loads))
    assert await session.load() is session
    assert world.store.counts() == {"load": 1}
    assert session["a"] == 1


async def test_a_cancelled_load_leaves_the_others_waiting(world: World) -> None:
    """Who waits for somebody else's load tries itself when that one is cancelled."""
    session = world.request(await world.create(a=1))
    gate = world.store.pause("load")
    first = asyncio.create_task(session.load())
    await gate.reached()
    second = asyncio.create_task(session.load())
    await asyncio.sleep(0)
    first.cancel()
    gate.release()
    assert await second == {"a": 1}
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_failed_load_is_tried_again(world: World) -> None:
    """After a failure the session is as unloaded as before."""
    session = world.request(await world.create(a=1))
    world.store.fail("load")
    with pytest.raises(StoreUnavailable):
        await session.load()
    with pytest.raises(SessionNotLoaded):
        session["a"]
    assert await session.load() == {"a": 1}
