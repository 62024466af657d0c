"""The app never sees our cookie; what stands outside of the middleware notices nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import load_session
from tests.app.kit import Browser, Exchange, World, answer, find_middleware

Headers = list[tuple[bytes, bytes]]
ECHO = "accept", "text/*"


async def echo(request: Request) -> Response:
    """Answer with all that a request's headers and cookies hold."""
    headers = [(name.decode(), value.decode()) for name, value in request.scope["headers"]]
    return JSONResponse({"headers": headers, "cookies": request.cookies})


async def count(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse({"n": session["n"], "cookies": request.cookies})


ROUTES = [
    Route("/echo", echo),
    Route("/count", count, methods=["GET", "POST"]),
    Mount("/mounted", routes=[Route("/echo", echo), Route("/count", count)]),
]


class Outside:
    """Stands outside and notes the headers: before the app, with each message, and after it."""

    def __init__(self, app: Any, seen: list[Headers], scopes: list[Any]) -> None:
        self.app, self.seen, self.scopes = app, seen, scopes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = scope["headers"]
        self.scopes.append(scope)

        async def send_on(message: Any) -> None:
            self.seen.append(scope["headers"])
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            self.seen.append(scope["headers"])
        assert scope["headers"] is given


@pytest.mark.parametrize("path", ["/echo", "/mounted/echo"])
async def test_an_echo_of_the_headers_has_no_secret(world: World, path: str) -> None:
    """Other headers and other cookies are there, in their order; ours is not."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    own = f"{browser.name}={browser.cookie}"
    for line, left in (
        (own, None),
        (f"theme=dark; {own}; x{browser.name}=1", f"theme=dark; x{browser.name}=1"),
    ):
        sent = [("x-one", "1"), ("cookie", line), ECHO]
        stranger = Browser(browser.app)
        got = await stranger.get(path, headers=sent)
        assert browser.cookie is not None and browser.cookie not in got.body.decode()
        expected = [["host", "testserver"], ["x-one", "1"], ["cookie", left], list(ECHO)]
        seen = JSONResponse({"headers": [each for each in expected if each[1] is not None]}).body[:-1]
        assert got.body.startswith(bytes(seen))
    assert world.calls() == {}


@pytest.mark.parametrize("path", ["/count", "/mounted/count"])
async def test_the_session_finds_its_cookie(world: World, path: str) -> None:
    """The session opens although the app sees no cookie, also when it is split from others as in HTTP/2."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    got = await browser.get(path, headers=[("cookie", "theme=dark"), ("cookie", "lang=en")])
    assert b'"n":2' in got.body
    assert browser.cookie is not None and browser.cookie not in got.body.decode()


async def test_leaving_it_visible(world: World) -> None:
    """hide_cookie=False shows the app all headers, the server's own list."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await answer(send)

    browser = await world.seed(world.wrap(app, hide_cookie=False), n=1)
    exchange = browser.begin("GET", "/")
    given = exchange.scope["headers"]
    await exchange.done()
    assert seen[0] is given


async def test_without_our_cookie_the_headers_are_the_servers_own(world: World) -> None:
    """A request that has nothing of ours is passed on with the very list that the server made."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await answer(send)

    exchange = Browser(world.wrap(app)).begin("GET", "/", headers=[("cookie", "theme=dark")])
    given = exchange.scope["headers"]
    await exchange.done()
    assert seen[0] is given


@pytest.mark.parametrize("path", ["/echo", "/count"])
async def test_outside_the_headers_are_as_they_came(world: World, path: str) -> None:
    """After the app, and while a response that used the session passes, the scope has the server's list."""
    seen: list[Headers] = []
    scopes: list[Any] = []
    app = world.starlette(ROUTES, outside=[Middleware(Outside, seen=seen, scopes=scopes)])
    browser = await world.seed(app, n=1)
    exchange = browser.begin("GET", path)
    given = exchange.scope["headers"]
    copied = list(given)
    await exchange.done()
    assert given == copied, "nothing was changed in place"
    assert seen[-1] is given
    assert len(seen) == 3
    if path == "/count":
        assert all(each is given for each in seen)
    assert "endpoint" in scopes[-1], "what the app puts into the scope is seen outside"


class Cache:
    """A page cache as they are: the key has what Vary names, and is made when the body passes."""

    def __init__(self, app: Any, pages: dict[Any, Any]) -> None:
        self.app, self.pages = app, pages

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        def key() -> Any:
            cookies = [value for name, value in scope["headers"] if name == b"cookie"]
            return scope["path"], tuple(cookies)

        if self.pages and key() in self.pages:
            for message in self.pages[key()]:
                await send(message)
            return
        messages: list[Any] = []

        async def send_on(message: Any) -> None:
            messages.append(message)
            if message["type"] == "http.response.body":
                self.pages[key()] = messages
            await send(message)

        await self.app(scope, receive, send_on)


async def test_a_cache_outside_keeps_users_apart(world: World) -> None:
    """A page made for one user is not kept under what a visitor without a cookie asks for."""
    app = world.starlette(ROUTES, outside=[Middleware(Cache, pages={})])
    browser = await world.seed(app, n=1)
    assert b'"n":2' in (await browser.get("/count")).body
    assert b'"n":2' in (await browser.get("/count")).body, "kept for this user"
    assert b'"n":1' in (await Browser(app).get("/count")).body


async def test_two_of_ours(world: World) -> None:
    """Nested, each hides its own cookie and opens its own session."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        seen.append((dict(session), [each for each in scope["headers"] if each[0] == b"cookie"]))
        await answer(send)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        seen.append((dict(session), [each for each in scope["headers"] if each[0] == b"cookie"]))
        await inner(scope, receive, send)
        seen.append([value for name, value in scope["headers"] if name == b"cookie"])

    inner = world.wrap(app, session_cookie="inner")
    outer = world.wrap(between, session_cookie="outer")
    one, other = await world.seed(inner, who="inner"), await world.seed(outer, who="outer")
    line = f"a=1; inner={one.cookie}; b=2; outer={other.cookie}; c=3"
    exchange = Browser(outer).begin("GET", "/", headers=[("cookie", line)])
    given = exchange.scope["headers"]
    await exchange.done()
    half = f"a=1; inner={one.cookie}; b=2; c=3".encode()
    assert seen == [
        ({"who": "outer"}, [(b"cookie", half)]),
        ({"who": "inner"}, [(b"cookie", b"a=1; b=2; c=3")]),
        [half],
    ]
    assert exchange.scope["headers"] is given


@pytest.mark.parametrize("nested", [False, True])
async def test_an_error_leaves_it_hidden_and_another_try_finds_it(world: World, nested: bool) -> None:
    """Error trackers see the scope in the app's frames; whoever tries again gets the session nonetheless."""
    tries: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tries.append(dict(await scope["session"].load()))
        if len(tries) < 3:
            raise ZeroDivisionError
        await answer(send)

    async def again(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await stack(scope, receive, send)
            assert browser.cookie is not None
            assert browser.cookie not in repr(scope)
            assert browser.cookie not in repr([*scope["headers"]])
        await stack(scope, receive, send)

    inner = world.wrap(app)
    stack = world.wrap(inner, session_cookie="other") if nested else inner
    browser = await world.seed(inner, n=1)
    other = Browser(again, name=browser.name)
    other.cookie = f"{browser.cookie}; other={browser.cookie}" if nested else browser.cookie
    exchange = other.begin("GET", "/")
    given = exchange.scope["headers"]
    await exchange.done()
    assert tries == [{"n": 1}] * 3
    assert exchange.scope["headers"] is given


async def test_a_cancelled_request_leaves_it_hidden(world: World) -> None:
    """When the server cancels a request, what records it has no secret."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    browser = await world.seed(world.wrap(app), n=1)
    exchange = browser.begin("GET", "/")
    await asyncio.sleep(0)
    await exchange.cancel()
    assert browser.cookie is not None and browser.cookie not in repr(exchange.scope)


async def test_a_websocket_sees_none(world: World) -> None:
    """From the handshake to the end."""
    seen: list[str] = []

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        seen.append(repr(ws.scope["headers"]))
        await ws.send_json({"n": session["n"], "cookies": ws.cookies})
        await ws.close()
        seen.append(repr(ws.scope["headers"]))

    browser = await world.seed(world.starlette([WebSocketRoute("/", handler)]), n=1)
    exchange: Exchange = browser.connect("/", headers=[("cookie", "a=1")])
    given = exchange.scope["headers"]
    await exchange.done()
    assert exchange.sent[1]["text"] == '{"n":1,"cookies":{"a":"1"}}'
    assert browser.cookie is not None and browser.cookie not in "".join(seen)
    assert exchange.scope["headers"] is given


async def test_events_and_predicates_see_none(world: World) -> None:
    """The connection that events and the options' functions get shows what the app sees."""
    seen: list[str] = []

    def wanted(connection: HTTPConnection) -> bool:
        seen.append(f"autoload {connection.headers}")
        return True

    def on_event(name: str, session_id: Any, *, connection: HTTPConnection, **info: Any) -> None:
        seen.append(f"{name} {connection.headers}")

    browser = Browser(world.starlette(ROUTES, autoload=wanted, on_event=on_event))
    browser.cookie = "junk"
    await browser.get("/count")
    assert [text.partition(" ")[0] for text in seen] == ["autoload", "malformed", "created"]
    assert "junk" not in "".join(seen)


async def test_the_session_middleware_of_a_base_http_middleware(world: World) -> None:
    """Starlette's BaseHTTPMiddleware inside sees none, outside it reads what the app left in the scope."""
    cookies: dict[str, Any] = {}

    class Reads(BaseHTTPMiddleware):
        def __init__(self, app: Any, name: str) -> None:
            super().__init__(app)
            self.name = name

        async def dispatch(self, request: Request, call_next: Any) -> Any:
            cookies[self.name] = dict(request.cookies)
            response = await call_next(request)
            assert request.scope["session"].loaded
            return response

    around = {name: [Middleware(Reads, name=name)] for name in ("outside", "inside")}
    app = world.starlette(ROUTES, outside=around["outside"], inside=around["inside"])
    browser = await world.seed(app, n=1)
    await browser.get("/count")
    assert cookies == {"outside": {find_middleware(app).cookie.name: browser.cookie}, "inside": {}}
