"""Other middleware that uses the session, and autoload for some requests only."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import load_session
from tests.app.kit import Browser, World


async def count(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return PlainTextResponse("x" * 2000)


async def at_once(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(dict(websocket.session))
    await websocket.close()


ROUTES = [Route("/count", count), Route("/at_once", at_once), WebSocketRoute("/ws", ws)]


class Around(BaseHTTPMiddleware):
    """Sets keys before and after the app has answered."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        session = await load_session(request)
        session["before"] = True
        response = await call_next(request)
        session["after"] = True
        return response


@pytest.mark.parametrize("new", [True, False])
async def test_middleware_inside_may_write_before_and_after(world: World, new: bool) -> None:
    """What BaseHTTPMiddleware sets after call_next still is in time, for a new session too: one command."""
    app = world.starlette(ROUTES, inside=[Middleware(Around)])
    browser = Browser(app) if new else await world.seed(app, n=0)
    got = await browser.get("/count")
    assert (got.cookie is not None) == new
    assert await world.read(browser) == {"before": True, "n": 1, "after": True}
    assert world.calls() == ({"create": 1} if new else {"load": 1, "save": 1})


class Looks(BaseHTTPMiddleware):
    """Notes what it sees of the session once the app has answered."""

    seen: list[Any]

    def __init__(self, app: Any, seen: list[Any]) -> None:
        super().__init__(app)
        self.seen = seen

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        assert "session" not in request.scope
        response = await call_next(request)
        session: Any = request.scope["session"]
        self.seen.append((session.loaded, session.id, dict(session) if session.loaded else None))
        return response


async def test_middleware_outside_sees_what_was_committed(world: World) -> None:
    """An access log outside may read the loaded session and its public id afterwards."""
    seen: list[Any] = []
    app = world.starlette(ROUTES, outside=[Middleware(Looks, seen=seen)])
    browser = Browser(app)
    await browser.get("/count")
    assert browser.cookie is not None
    assert seen == [(True, browser.cookie[:22], {"n": 1})]


@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_gzip(world: World, where: str) -> None:
    """Compression around or within changes neither the commit nor the headers."""
    shape: dict[str, Any] = {where: [Middleware(GZipMiddleware)]}
    browser = Browser(world.starlette(ROUTES, **shape))
    got = await browser.get("/count", headers=[("accept-encoding", "gzip")])
    assert got.header("content-encoding") == "gzip"
    vary = got.header("vary")
    assert vary is not None
    assert {name.strip().lower() for name in vary.split(",")} == {"accept-encoding", "cookie"}
    assert await world.read(browser) == {"n": 1}


# ---------------------------------------------------------------- autoload


@pytest.mark.parametrize("autoload", [True, lambda connection: True], ids=["True", "predicate"])
async def test_autoload(world: World, autoload: Any) -> None:
    """autoload lets code use request.session without an await; without a cookie it costs nothing."""
    app = world.starlette(ROUTES, autoload=autoload)
    assert (await Browser(app).get("/at_once")).body == b"{}"
    assert world.calls() == {}
    browser = await world.seed(app, n=1)
    assert (await browser.get("/at_once")).body == b'{"n":1}'
    exchange = browser.connect("/ws")
    await exchange.done()
    assert exchange.sent[1]["text"] == '{"n":1}'
    assert world.calls() == {"load": 2}


async def test_autoload_by_predicate(world: World) -> None:
    """A function of the connection chooses for which requests autoload pays."""

    def wanted(connection: HTTPConnection) -> bool:
        return connection.url.path.startswith("/at")

    browser = await world.seed(world.starlette(ROUTES, autoload=wanted), n=1)
    assert (await browser.get("/at_once")).body == b'{"n":1}'
    assert world.calls() == {"load": 1}
    await browser.get("/elsewhere")
    assert world.calls() == {}


async def test_autoload_then_await_is_one_load(world: World) -> None:
    """A handler that awaits the load under autoload costs no second command."""
    browser = await world.seed(world.starlette(ROUTES, autoload=True), n=1)
    await browser.get("/count")
    assert world.calls() == {"load": 1, "save": 1}
