"""same_origin: a request of another site is answered before the app or the store hears of it."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgi_session import ConfigurationError, SessionMiddleware, load_session
from asgi_session.fastapi import SessionDep
from asgi_session.testing import SessionClient
from tests.app.kit import Browser, World

EVIL = ("origin", "https://evil.example")
OWN = ("origin", "https://testserver")
CROSS = ("sec-fetch-site", "cross-site")

called: list[str] = []


async def act(request: Request) -> Response:
    called.append(request.method)
    (await load_session(request))["acted"] = True
    return PlainTextResponse("done")


async def talk(ws: WebSocket) -> None:
    called.append("websocket")
    (await load_session(ws))["acted"] = True
    await ws.accept()
    await ws.close()


ROUTES = [
    Route("/", act, methods=["GET", "POST", "DELETE"]),
    Route("/callback", act, methods=["POST"]),
    WebSocketRoute("/ws", talk),
]


@pytest.fixture(autouse=True)
def nobody_called() -> None:
    called.clear()


@pytest.mark.parametrize("headers", [[EVIL], [CROSS], [EVIL, CROSS], [("origin", "null")], [OWN, EVIL]])
@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
async def test_a_request_of_another_site(world: World, headers: Any, method: str) -> None:
    """403 with a text that helps; the app is not called, and the store gets no command."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True, autoload=True), n=1)
    got = await browser.request(method, "/", headers=headers)
    assert got.status == 403
    assert b"trusted_origins" in got.body
    assert got.header("content-type") == "text/plain; charset=utf-8"
    assert got.header("content-length") == str(len(got.body))
    assert got.cookie is None
    assert (called, world.calls()) == ([], {})
    assert world.names() == ["cross_site"]


@pytest.mark.parametrize(
    "headers", [[], [OWN], [("sec-fetch-site", "same-origin"), EVIL], [("sec-fetch-site", "none")]]
)
async def test_a_request_of_ones_own(world: World, headers: Any) -> None:
    """What browsers send from one's own pages, and what other programs send, passes."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True), n=1)
    assert (await browser.post("/", headers=headers)).status == 200
    assert called == ["POST"]
    assert world.names() == ["saved"]


async def test_links_from_elsewhere(world: World) -> None:
    """A GET passes, wherever the link was."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True), n=1)
    assert (await browser.get("/", headers=[EVIL, CROSS])).status == 200


async def test_only_where_our_cookie_is(world: World) -> None:
    """Without our cookie there is nothing to abuse: logins from elsewhere, APIs with tokens pass."""
    stranger = Browser(world.starlette(ROUTES, same_origin=True))
    sent = [EVIL, CROSS, ("cookie", f"x{stranger.name}=1; theme=dark")]
    assert (await stranger.post("/", headers=sent)).status == 200


@pytest.mark.parametrize("hide_cookie", [True, False])
async def test_it_is_off_unless_asked_for(world: World, hide_cookie: bool) -> None:
    """The default checks nothing; what is done about the cookie's sight does not matter."""
    browser = await world.seed(world.starlette(ROUTES, hide_cookie=hide_cookie), n=1)
    assert (await browser.post("/", headers=[EVIL, CROSS])).status == 200
    checked = await world.seed(world.starlette(ROUTES, hide_cookie=hide_cookie, same_origin=True), n=1)
    assert (await checked.post("/", headers=[EVIL, CROSS])).status == 403


async def test_trusted_origins(world: World) -> None:
    """An origin that is listed passes; its siblings do not."""
    app = world.starlette(ROUTES, same_origin=True, trusted_origins=["https://app.example.com"])
    browser = await world.seed(app, n=1)
    for origin, status in (("https://app.example.com", 200), ("https://app2.example.com", 403)):
        headers = [("origin", origin), ("sec-fetch-site", "same-site")]
        assert (await browser.post("/", headers=headers)).status == status


async def test_a_predicate_says_what_is_checked(world: World) -> None:
    """A path for call-backs is exempt, and everything else is checked."""
    asked: list[str] = []

    def checked(connection: HTTPConnection) -> bool:
        asked.append(connection.url.path)
        return connection.url.path != "/callback"

    browser = await world.seed(world.starlette(ROUTES, same_origin=checked), n=1)
    assert (await browser.post("/", headers=[EVIL])).status == 403
    assert (await browser.post("/callback", headers=[EVIL])).status == 200
    assert asked == ["/", "/callback"]
    assert (await browser.post("/", headers=[OWN])).status == 200
    assert len(asked) == 2, "it is asked only about what would be refused"


async def test_a_predicate_that_fails(world: World) -> None:
    """Its error is the app's to see, and nothing passes."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=lambda connection: 1 / 0), n=1)
    exchange = browser.begin("POST", "/", headers=[EVIL])
    with pytest.raises(ZeroDivisionError):
        await exchange.done()
    assert called == []
    assert browser.cookie is not None and browser.cookie not in repr(exchange.scope)


@pytest.mark.parametrize("forwarded", ["evil.example", "testserver"])
async def test_a_forwarded_host_counts_for_nothing(world: World, forwarded: str) -> None:
    """Host as it came decides."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True), n=1)
    sent = [EVIL, ("x-forwarded-host", forwarded)]
    assert (await browser.post("/", headers=sent)).status == 403


# ---------------------------------------------------------------- WebSockets


@pytest.mark.parametrize("denial", [True, False])
@pytest.mark.parametrize("headers", [[EVIL], [CROSS], [("origin", "null")]])
async def test_a_websocket_of_another_site(world: World, headers: Any, denial: bool) -> None:
    """It is denied before it is accepted, after the server's `connect`, although its method is GET."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True), n=1)
    exchange = browser.connect("/ws", headers=headers, denial=denial)
    await exchange.done()
    exchange.disconnect()
    assert (await exchange.receive())["type"] == "websocket.disconnect", "`connect` was taken"
    if denial:
        assert exchange.answer.status == 403
        assert b"trusted_origins" in exchange.answer.body
    else:
        assert exchange.sent == [{"type": "websocket.close", "code": 1008}]
    assert (called, world.calls(), world.names()) == ([], {}, ["cross_site"])


async def test_a_websocket_of_ones_own(world: World) -> None:
    """One's own pages connect; other programs, too, unless the option says no."""
    for needs, headers, accepted in (
        (False, [OWN], True),
        (True, [OWN], True),
        (False, [], True),
        (True, [], False),
        (True, [("sec-fetch-site", "same-origin")], True),
    ):
        app = world.starlette(ROUTES, same_origin=True, websocket_needs_origin=needs)
        browser = await world.seed(app, n=1)
        exchange = browser.connect("/ws", headers=headers)
        await exchange.done()
        first = exchange.sent[0]
        assert (first["type"] == "websocket.accept") == accepted
        if not accepted:
            assert first["status"] == 403
            assert world.events[-1].info == {"origin": None, "path": "/ws", "reason": "no origin"}


# ---------------------------------------------------------------- the event


async def test_the_event(world: World) -> None:
    """It names origin, path and reason, without the query string, and its connection shows no cookie."""
    seen: list[Any] = []

    def on_event(name: str, session_id: str | None, *, connection: HTTPConnection, **info: Any) -> None:
        seen.append((name, session_id, info, dict(connection.cookies)))

    browser = await world.seed(world.starlette(ROUTES, same_origin=True, on_event=on_event), n=1)
    seen.clear()
    for origin, shown, reason in (
        ("https://evil.example", "https://evil.example", "origin"),
        ("null", "null", "null origin"),
        ("https://\xff\n", "https://\\xff\n", "origin"),
        ("x" * 5000, "x" * 300, "origin"),
    ):
        await browser.post("/?token=1", headers=[("origin", origin)])
        info = {"origin": shown, "path": "/", "reason": reason}
        assert seen.pop() == ("cross_site", None, info, {})
    assert seen == []


async def test_nothing_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can cause such requests, so they are events and no log lines."""
    browser = await world.seed(world.starlette(ROUTES, same_origin=True), n=1)
    with caplog.at_level(logging.DEBUG, "asgi_session"):
        await browser.post("/", headers=[EVIL])
    assert caplog.records == []


# ---------------------------------------------------------------- the whole of it


def audited() -> None:
    called.append("dependency")


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, store="memory://", **options)

    @app.post("/transfer")
    async def transfer(session: SessionDep, _: Annotated[None, Depends(audited)]) -> str:
        session["transferred"] = True
        return "done"

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        await websocket.send_json(dict(session))
        await websocket.close()

    return app


def test_fastapi() -> None:
    """No dependency runs, and the session is as it was; one's own pages go on working."""
    with SessionClient(fastapi_app(same_origin=True)) as client:
        with client.session() as session:
            session["user"] = 7
        refused = client.post("/transfer", headers={"Origin": "https://evil.example"})
        assert refused.status_code == 403
        assert called == []
        with client.session() as session:
            assert session == {"user": 7}
        assert client.post("/transfer", headers={"Origin": "https://testserver"}).status_code == 200
        evil = client.websocket_connect("/ws", headers={"Origin": "https://evil.example"})
        with pytest.raises(WebSocketDisconnect), evil:
            pytest.fail("was accepted")
        with client.websocket_connect("/ws", headers={"Origin": "https://testserver"}) as websocket:
            assert websocket.receive_json() == {"user": 7, "transferred": True}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"same_origin": "true"}, "give True, False or a function"),
        ({"same_origin": None}, "give True, False or a function"),
        ({"trusted_origins": ["https://a.example"]}, "add same_origin=True"),
        ({"same_origin": True, "trusted_origins": "https://a.example"}, "give a list"),
        ({"same_origin": True, "trusted_origins": ["a.example"]}, "give the scheme"),
        ({"same_origin": True, "websocket_needs_origin": 1}, "True or False"),
    ],
)
def test_wrong_options(options: Any, says: str) -> None:
    """They are refused when the app is built."""
    with pytest.raises(ConfigurationError, match=says):
        SessionMiddleware(PlainTextResponse(""), store="memory://", **options)


def test_a_predicate_is_no_coroutine_function() -> None:
    """Its result would always count as true."""

    async def checked(connection: HTTPConnection) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="a plain `def`"):
        SessionMiddleware(PlainTextResponse(""), store="memory://", same_origin=checked)  # type: ignore[arg-type]
