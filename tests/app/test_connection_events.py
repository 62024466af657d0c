"""Events know the request in which they happened, and hold on to nothing of it afterwards."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import Session, load_session
from tests.app.kit import Browser, World
from tests.inside import has_connection


async def work(request: Request) -> Response:
    session = await load_session(request)
    if request.url.path == "/read":
        return Response()
    session["n"] = session.get("n", 0) + 1
    if request.url.path == "/lock":
        async with session.lock():
            session["n"] = 5
    if request.url.path == "/login":
        session.rotate()
    if request.url.path == "/logout":
        session.destroy()
    return Response()


async def socket(ws: WebSocket) -> None:
    await load_session(ws)
    await ws.accept()
    await ws.close()


PATHS = ["/", "/read", "/lock", "/login", "/logout"]
ROUTES = [*(Route(path, work) for path in PATHS), WebSocketRoute("/ws", socket)]


async def test_path_and_client(world: World) -> None:
    """Each event of a request has its connection: loads, saves, locks, touches, rotations, endings."""
    seen: list[tuple[str, str, str]] = []

    def on_event(name: str, session_id: str | None, *, connection: HTTPConnection, **info: Any) -> None:
        assert connection.client is not None
        seen.append((name, connection.url.path, connection.client.host))

    app = world.starlette(ROUTES, on_event=on_event, idle_timeout=timedelta(hours=1))
    browser = Browser(app)
    for path in PATHS:
        await browser.get(path)
        world.clock.advance(timedelta(minutes=10))
    await browser.get("/")
    exchange = browser.connect("/ws")
    await exchange.done()
    names = {name for name, _, _ in seen}
    assert {"created", "loaded", "saved", "locked", "released", "rotated", "ended", "touched"} <= names
    assert {(path, host) for _, path, host in seen} == {(path, "127.0.0.1") for path in [*PATHS, "/ws"]}


async def test_outside_of_a_request_there_is_none(world: World) -> None:
    """`manager.revoke` and `manager.lock` tell None."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    assert browser.cookie is not None
    manager = world.manager()
    async with manager.lock(browser.cookie[:22]) as session:
        session["n"] = 2
    await manager.revoke(browser.cookie[:22])
    assert {event.name for event in world.events} == {"locked", "saved", "released", "revoked"}
    assert {event.connection for event in world.events} == {None}


async def test_a_request_leaves_nothing_to_the_garbage_collector(world: World) -> None:
    """Session and scope don't keep each other alive, with `on_event` or without."""
    for options in ({}, {"on_event": None}):
        app = world.starlette(ROUTES, **options)
        browser = await world.seed(app, n=1)
        gc.collect()
        gc.disable()
        try:
            await browser.get("/")
            left = [each for each in gc.get_objects() if isinstance(each, Session)]
            refs = [weakref.ref(each) for each in left]
            del left
            assert not any(has_connection(each) for ref in refs if (each := ref()) is not None)
        finally:
            gc.enable()
