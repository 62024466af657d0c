"""`SessionClient`, with which users test their apps."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import (
    ConfigurationError,
    SessionMiddleware,
    SessionSerializationError,
    StoreUnavailable,
    load_session,
)
from asgi_session.testing import SessionClient
from tests.app.kit import World
from tests.inside import manager_of


async def handler(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def socket(ws: WebSocket) -> None:
    session = await load_session(ws)
    await ws.accept()
    await ws.send_json(dict(session))
    session["seen"] = True
    await ws.close()


ROUTES = [Route("/", handler), WebSocketRoute("/ws", socket)]


def test_the_secure_cookie_comes_back(world: World) -> None:
    """The default __Host- cookie is kept from request to request."""
    client = SessionClient(world.starlette(ROUTES))
    assert [client.get("/").json() for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"autoload": True}, {"path": "/app"}, {"session_cookie": "sid"}])
@pytest.mark.parametrize("within", [False, True], ids=["a loop per request", "one loop"])
def test_seed_and_read(world: World, options: dict[str, Any], within: bool) -> None:
    """What the test sets the app sees, and the other way round, with and without `with client`."""
    app = world.starlette([*ROUTES, Route("/app", handler)], **options)
    client = SessionClient(app)
    path = options.get("path", "/")

    def use() -> None:
        with client.session() as session:
            assert session == {}
            session.update(n=41, day=date(2026, 1, 1), old=True)
        assert client.get(path).json() == 42
        with client.session() as session:
            assert session == {"n": 42, "day": date(2026, 1, 1), "old": True}
            del session["old"]
        with client.session() as session:
            assert session == {"n": 42, "day": date(2026, 1, 1)}

    if within:
        with client:
            use()
    else:
        use()


def test_reading_creates_and_writes_nothing(world: World) -> None:
    """Looking at the session of a new client makes no session, looking at an old one writes nothing."""
    client = SessionClient(world.starlette(ROUTES))
    with client.session() as session:
        assert session == {}
    assert world.calls() == {}
    client.get("/")
    world.calls()
    with client.session():
        pass
    assert "save" not in world.calls()


def test_only_what_the_test_changed_is_written(world: World) -> None:
    """A request made inside the block keeps its own change; a type is a change even where equal."""
    client = SessionClient(world.starlette(ROUTES))
    client.get("/")
    with client.session() as session:
        session["mine"] = 1
        client.get("/")
    with client.session() as session:
        assert session == {"n": 2, "mine": 1}
        session["mine"] = True
    with client.session() as session:
        assert session["mine"] is True


def test_what_is_stored_alike_is_no_change(world: World) -> None:
    """Equal values of other types, signs, zones or orders of keys are changes; the same ones are none."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    pairs: list[tuple[Any, Any]] = [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1, [2]], [1, [2.0]]),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, {1.0, 2}),
        (noon, noon.astimezone(timezone(timedelta(hours=1)))),
        (Decimal("1.0"), Decimal("1.00")),
    ]
    client = SessionClient(world.starlette(ROUTES))
    for one, other in pairs:
        with client.session() as session:
            session["value"] = one
        world.calls()
        for value, saves in ((deepcopy(one), 0), (other, 1)):
            with client.session() as session:
                session["value"] = value
            assert world.calls().get("save", 0) == saves, (one, value)
        with client.session() as session:
            assert repr(session["value"]) == repr(other)


def test_nested_values(world: World) -> None:
    """A change inside a list is saved."""
    client = SessionClient(world.starlette(ROUTES))
    with client.session() as session:
        session["list"] = [1]
    with client.session() as session:
        session["list"].append(2)
    with client.session() as session:
        assert session["list"] == [1, 2]


@pytest.mark.parametrize(
    ("base_url", "options", "url"),
    [
        ("https://testserver", {}, "/ws"),
        ("https://testserver", {}, "ws"),
        ("https://testserver", {}, "wss://testserver/ws"),
        ("https://testserver", {}, "https://testserver/ws"),
        ("https://www.example.org:8443", {"domain": "example.org"}, "/ws"),
        ("https://example.org/v1", {}, "/ws"),
        ("http://testserver", {"https_only": False}, "/ws"),
    ],
)
def test_websockets(world: World, base_url: str, options: dict[str, Any], url: str) -> None:
    """The client's WebSockets carry the same session, wherever the client's requests go."""
    routes = [*ROUTES, WebSocketRoute("/v1/ws", socket)]
    client = SessionClient(world.starlette(routes, **options), base_url=base_url)
    with client.session() as session:
        session["n"] = 7
    with client.websocket_connect(url) as ws:
        assert ws.receive_json() == {"n": 7}
    with client.session() as session:
        assert session == {"n": 7, "seen": True}


def test_websockets_go_where_requests_go(world: World) -> None:
    """A WebSocket has the client's host, scheme, query and subprotocol."""
    seen: list[tuple[str, list[str]]] = []

    async def look(ws: WebSocket) -> None:
        seen.append((str(ws.url), ws.scope["subprotocols"]))
        await ws.accept()
        await ws.close()

    client = SessionClient(
        world.starlette([WebSocketRoute("/look", look)]), base_url="https://www.example.org:8443"
    )
    with client.websocket_connect("/look?a=1", subprotocols=["chat"]):
        pass
    assert seen == [("wss://www.example.org:8443/look?a=1", ["chat"])]


def test_errors_reach_the_test(world: World) -> None:
    """What loading or saving raises is raised in the test."""
    client = SessionClient(world.starlette(ROUTES, autoload=True), raise_server_exceptions=False)
    with pytest.raises(SessionSerializationError, match="thing"), client.session() as session:
        session["thing"] = object()
    client.get("/")
    world.store.fail("load")
    with pytest.raises(StoreUnavailable), client.session():
        raise AssertionError("entered")


def test_an_error_in_the_block_saves_nothing(world: World) -> None:
    """When the test fails inside the block nothing is written."""
    client = SessionClient(world.starlette(ROUTES))
    with pytest.raises(KeyError), client.session() as session:
        session["n"] = 1
        raise KeyError
    assert world.calls() == {}


def test_without_a_middleware_it_says_so() -> None:
    """An app without our middleware is named as what it is."""
    with pytest.raises(ConfigurationError, match="SessionMiddleware"), SessionClient(Starlette()).session():
        raise AssertionError("entered")


def test_the_app_stays_the_clients_app(world: World) -> None:
    """`client.app` is the app that was given, for dependency_overrides and the lifespan."""
    app = world.starlette(ROUTES)
    assert SessionClient(app).app is app


def test_testing_needs_no_http_client() -> None:
    """`import asgi_session.testing`, for tests of stores, imports no TestClient."""
    code = "import sys, asgi_session.testing; sys.exit('starlette.testclient' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_middleware_answers_with_5xx_is_raised() -> None:
    """As `TestClient` does with what an app raises; it can be turned off, and 4xx are answers."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        if request.url.path == "/bad":
            session["bad"] = object()
        if request.url.path == "/gone":
            session["n"] = 1
            await session.commit()
            await manager_of(session).revoke(session.id or "")
            await session.refresh()
        return Response()

    app = Starlette(routes=[Route(path, handler) for path in ("/", "/bad", "/gone")])
    app.add_middleware(SessionMiddleware, store="memory://")
    with pytest.raises(SessionSerializationError, match="bad"):
        SessionClient(app).get("/bad")
    client = SessionClient(app, raise_server_exceptions=False)
    assert client.get("/bad").status_code == 500
    assert SessionClient(app).get("/gone").status_code == 409
    assert SessionClient(app).get("/").status_code == 200


def test_a_websocket_that_was_refused_with_5xx_is_raised() -> None:
    """Also where the handshake is refused."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        session["bad"] = object()
        await ws.accept()

    app = Starlette(routes=[WebSocketRoute("/", handler)])
    app.add_middleware(SessionMiddleware, store="memory://")
    with pytest.raises(SessionSerializationError, match="bad"), SessionClient(app).websocket_connect("/"):
        pass
