"""A session's own lifetime in its cookie, through the middleware."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import load_session
from tests.app.kit import Browser, World, find_middleware

YEAR = timedelta(days=365)


async def remember(request: Request) -> Response:
    (await load_session(request)).set_lifetime(idle=timedelta(days=60), absolute=YEAR, persistent=True)
    return Response()


async def share(request: Request) -> Response:
    (await load_session(request)).set_lifetime(persistent=False)
    return Response()


async def idle(request: Request) -> Response:
    (await load_session(request)).set_lifetime(idle=600)
    return Response()


async def shorten(request: Request) -> Response:
    (await load_session(request)).set_lifetime(absolute=timedelta(minutes=10))
    return Response()


async def too_long(request: Request) -> Response:
    (await load_session(request)).set_lifetime(absolute=timedelta(days=3000))
    return Response()


async def rotate(request: Request) -> Response:
    (await load_session(request)).rotate()
    return Response()


async def log_in(request: Request) -> Response:
    session = await load_session(request)
    session.clear()
    session["user"] = "ada"
    session.set_lifetime(absolute=timedelta(hours=8), persistent=False)
    return Response()


async def fail(request: Request) -> Response:
    (await load_session(request)).set_lifetime(absolute=YEAR)
    return PlainTextResponse("no", 500)


async def read(request: Request) -> Response:
    dict(await load_session(request))
    return Response()


async def late(request: Request) -> Response:
    session = await load_session(request)
    return Response(background=BackgroundTask(session.set_lifetime, absolute=YEAR))


HANDLERS = (remember, share, idle, shorten, too_long, rotate, log_in, fail, read, late)
ROUTES: list[Any] = [Route(f"/{handler.__name__}", handler) for handler in HANDLERS]


def max_age(cookie: str | None) -> int | None:
    """Return a Set-Cookie's Max-Age in seconds, None if it has none."""
    assert cookie is not None
    found = [part for part in cookie.split("; ") if part.startswith("Max-Age=")]
    return int(found[0].removeprefix("Max-Age=")) if found else None


@pytest.mark.parametrize("persistent", [True, False])
async def test_remembered(world: World, persistent: bool) -> None:
    """The cookie comes again: the same credential, Max-Age until the new end, whatever the option says."""
    app = world.starlette(ROUTES, persistent=persistent)
    browser = await world.seed(app, user="ada")
    before = browser.cookie
    answer = await browser.get("/remember")
    assert max_age(answer.cookie) == 365 * 86400
    assert browser.cookie == before
    assert answer.header("cache-control") == "private, no-store"
    assert world.calls() == {"load": 1, "save": 1}
    world.clock.advance(timedelta(days=40))
    assert (await browser.get("/read")).cookie is None
    assert max_age((await browser.get("/rotate")).cookie) == 325 * 86400


async def test_on_a_shared_computer(world: World) -> None:
    """Without Max-Age the cookie goes with the browser, and every later one does."""
    browser = await world.seed(world.starlette(ROUTES), user="ada")
    before = browser.cookie
    assert max_age((await browser.get("/share")).cookie) is None
    assert browser.cookie == before
    assert max_age((await browser.get("/rotate")).cookie) is None
    assert (await browser.get("/share")).cookie is None, "it is so already"
    assert await world.read(browser) == {"user": "ada"}


async def test_a_shorter_one(world: World) -> None:
    """The cookie goes with the session."""
    browser = await world.seed(world.starlette(ROUTES), user="ada")
    assert max_age((await browser.get("/shorten")).cookie) == 600
    world.clock.advance(600)
    assert await world.read(browser) == {}


async def test_only_what_shows_in_the_cookie_sends_it(world: World) -> None:
    """Promise 14: an idle timeout is the server's to judge, and sets no cookie."""
    browser = await world.seed(world.starlette(ROUTES), user="ada")
    assert (await browser.get("/idle")).cookie is None
    assert world.calls() == {"load": 1, "save": 1}


async def test_browsers_keep_no_cookie_for_longer(world: World) -> None:
    """The session may last longer than 400 days; Max-Age says what browsers do."""
    browser = await world.seed(world.starlette(ROUTES), user="ada")
    assert max_age((await browser.get("/too_long")).cookie) == 400 * 86400


async def test_at_a_login(world: World) -> None:
    """With `clear` the new session is created with it, and its first cookie says so."""
    browser = await world.seed(world.starlette(ROUTES), user="eve")
    assert max_age((await browser.get("/log_in")).cookie) is None
    assert max_age((await browser.get("/rotate")).cookie) is None
    world.clock.advance(timedelta(hours=8))
    assert await world.read(browser) == {}


async def test_a_failed_request_sends_no_cookie(world: World) -> None:
    """Nothing of it was saved."""
    browser = await world.seed(world.starlette(ROUTES), user="ada")
    assert (await browser.get("/fail")).cookie is None
    assert world.calls() == {"load": 1}


async def test_after_the_response(world: World) -> None:
    """The record has it; the cookie that the browser keeps is as it was."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, user="ada")
    assert (await browser.get("/late")).cookie is None
    assert world.calls() == {"load": 1, "save": 1}
    assert max_age((await browser.get("/rotate")).cookie) == 365 * 86400


@pytest.mark.parametrize("grace", [None, 30])
async def test_a_newer_cookie_is_not_undone(world: World, grace: int | None) -> None:
    """Promise 14: a request whose credential was rotated away while it ran does not send it again."""
    loaded, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: Request) -> Response:
        session = await load_session(request)
        loaded.set()
        await go_on.wait()
        session.set_lifetime(absolute=YEAR, persistent=True)
        return Response()

    async def renew(request: Request) -> Response:
        (await load_session(request)).rotate(grace=grace)
        return Response()

    browser = await world.seed(world.starlette([Route("/slowly", slowly), Route("/renew", renew)]), a=1)
    slow = browser.begin("GET", "/slowly")
    await loaded.wait()
    assert (await browser.get("/renew")).cookie is not None
    newer = browser.cookie
    go_on.set()
    answer = await slow.done()
    browser.keep(answer)
    assert (answer.status, answer.cookie) == (200, None)
    assert browser.cookie == newer
    assert await world.read(browser) == {"a": 1}


async def test_in_a_websockets_handshake(world: World) -> None:
    """The acceptance carries the cookie; what is asked after it goes to the record alone."""

    async def socket(websocket: WebSocket) -> None:
        session = await load_session(websocket)
        session.set_lifetime(absolute=timedelta(hours=8))
        await websocket.accept()
        await websocket.receive()
        session.set_lifetime(absolute=timedelta(hours=1))
        await session.commit()
        await websocket.send_text(f"{session.absolute_expires_at}")

    app = world.starlette([WebSocketRoute("/ws", socket)])
    browser = await world.seed(app, user="ada")
    exchange = browser.connect("/ws")
    await exchange.until(1)
    (value,) = [v for n, v in exchange.sent[0]["headers"] if n == b"set-cookie"]
    assert max_age(value.decode()) == 8 * 3600
    exchange.push({"type": "websocket.receive", "text": "go on"})
    await exchange.until(2)
    end = datetime.fromtimestamp(world.clock() / 1000, UTC) + timedelta(hours=1)
    assert exchange.sent[1]["text"] == f"{end}"
    exchange.disconnect()
    await exchange.done()
    await find_middleware(app).manager.drain()


async def test_beside_a_browser_that_has_none(world: World) -> None:
    """Without anything set in it there is no session to give a lifetime to, and no command."""
    browser = Browser(world.starlette(ROUTES))
    assert (await browser.get("/remember")).cookie is None
    assert world.calls() == {}
