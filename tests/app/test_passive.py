"""Requests that are no use of their session: they read it, and extend nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from asgi_session import ConfigurationError, Session, SessionMiddleware, load_session
from asgi_session.fastapi import LockedSessionDep, PassiveSessionDep, SessionDep
from asgi_session.stores.memory import MemoryStore
from tests.app.kit import Browser, World, find_middleware

DAY = 86_400_000
IDLE = 14 * DAY


def is_poll(connection: HTTPConnection) -> bool:
    return connection.url.path.startswith("/poll")


async def use(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request)))


async def look(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request, passive=True)))


async def write(request: Request) -> Response:
    session = await load_session(request, passive="use" not in request.query_params)
    session["n"] = session.get("n", 0) + 1
    return Response()


async def use_then_look(request: Request) -> Response:
    await load_session(request)
    return await look(request)


async def look_then_use(request: Request) -> Response:
    await load_session(request, passive=True)
    return await use(request)


async def use_then_write(request: Request) -> Response:
    await load_session(request)
    return await write(request)


async def commit(request: Request) -> Response:
    session = await load_session(request, passive=True)
    await session.commit()
    await session.refresh()
    return Response()


async def lock(request: Request) -> Response:
    session = await load_session(request, passive=True)
    async with session.lock():
        session["locked"] = 1
    return Response()


async def transact(request: Request) -> Response:
    session = await load_session(request, passive=True)
    await session.transact(lambda draft: draft.update(a=1))
    return Response()


async def rotate(request: Request) -> Response:
    (await load_session(request, passive=True)).rotate()
    return Response()


async def remember(request: Request) -> Response:
    session = await load_session(request, passive=True)
    session.set_lifetime(idle=timedelta(days=30))
    return Response()


HANDLERS = (
    use,
    look,
    write,
    use_then_look,
    look_then_use,
    use_then_write,
    commit,
    lock,
    transact,
    rotate,
    remember,
)
ROUTES = [
    *[Route(f"/{handler.__name__}", handler) for handler in HANDLERS],
    *[Route(f"/poll/{handler.__name__}", handler) for handler in HANDLERS],
]


async def expiry(world: World, browser: Browser) -> int:
    """Return when the browser's session expires, as the store has it."""
    assert browser.cookie is not None
    calls = list(world.store.calls)
    stored = await world.store.load(browser.cookie[:22], deadline=1e9)
    world.store.calls[:] = calls
    assert stored is not None
    return stored.expires_at


@pytest.fixture
async def browser(world: World) -> AsyncIterator[Browser]:
    """A browser that was last seen three days ago, so that a touch is due."""
    browser = await world.seed(world.starlette(ROUTES, passive=is_poll), user="ada")
    world.clock.advance(timedelta(days=3))
    yield browser
    await world.drain(browser.app)


async def visit(world: World, browser: Browser, path: str) -> tuple[dict[str, int], int]:
    """Make a request; return the commands that it cost, and by how much it has put off the expiry."""
    before = await expiry(world, browser)
    assert (await browser.get(path)).status == 200
    await world.drain(browser.app)
    return world.calls(), await expiry(world, browser) - before


@pytest.mark.parametrize(
    ("path", "commands", "later"),
    [
        ("/use", {"load": 1, "touch": 1}, 3 * DAY),
        ("/look", {"load": 1}, 0),
        ("/poll/use", {"load": 1}, 0),
        ("/poll/look", {"load": 1}, 0),
        ("/poll/look_then_use", {"load": 1}, 0),
        ("/use_then_look", {"load": 1, "touch": 1}, 3 * DAY),
        ("/look_then_use", {"load": 1, "touch": 1}, 3 * DAY),
        ("/write?use=1", {"load": 1, "touch": 1, "save": 1}, 3 * DAY),
        ("/write", {"load": 1, "save": 1}, 0),
        ("/poll/write?use=1", {"load": 1, "save": 1}, 0),
        ("/commit", {"load": 2}, 0),
        ("/lock", {"load": 1, "save": 2}, 0),
        ("/transact", {"load": 1, "save": 1}, 0),
        ("/rotate", {"load": 1, "save": 1}, 0),
        ("/remember", {"load": 1, "save": 1}, 0),
    ],
)
async def test_what_is_use(
    world: World, browser: Browser, path: str, commands: dict[str, int], later: int
) -> None:
    """Promise 2: a passive request costs its load, and what it writes; it never extends the session."""
    assert await visit(world, browser, path) == (commands, later)


async def test_an_abandoned_tab_is_signed_out(world: World, browser: Browser) -> None:
    """Promise 5: polls, however many, keep nobody signed in."""
    for _ in range(11):
        assert b"ada" in (await browser.get("/poll/use")).body
        assert (await browser.get("/write")).status == 200  # merely because it has something to note
        world.clock.advance(timedelta(days=1))
    assert (await browser.get("/poll/use")).body == b"{}"


async def test_a_passive_request_confirms_nothing(world: World) -> None:
    """A crawler that does nothing but poll must not fill the store for two weeks."""
    browser = Browser(world.starlette(ROUTES, passive=is_poll))
    await browser.get("/poll/write")
    created = await expiry(world, browser)
    assert created == world.clock() + 3_600_000
    world.clock.advance(60)
    for path in ("/poll/use", "/poll/write", "/look", "/write"):
        assert (await visit(world, browser, path))[1] == 0
    assert (await visit(world, browser, "/use"))[1] > 0
    assert await expiry(world, browser) == world.clock() + IDLE


async def test_a_passive_request_sends_a_cookie_only_if_it_must(world: World, browser: Browser) -> None:
    """Promise 14: as any other: where it has created or rotated the session, and never to extend it."""
    assert (await browser.get("/poll/use")).cookie is None
    assert (await browser.get("/poll/write")).cookie is None
    assert (await browser.get("/poll/rotate")).cookie is not None
    assert (await browser.get("/use")).body == b'{"user":"ada","n":1}'
    stranger = Browser(browser.app)
    assert (await stranger.get("/poll/use")).cookie is None
    assert (await stranger.get("/poll/write")).cookie is not None


async def test_it_shows_when_it_will_end_and_moves_that_no_further(world: World) -> None:
    """`idle_expires_at` is when to warn: a poll sees it come nearer, and a visit puts it off."""
    seen: list[tuple[float, float]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        assert isinstance(session, Session)
        assert session.idle_expires_at is not None
        assert session.absolute_expires_at is not None
        ends = [
            round(at.timestamp() * 1000) - world.clock()
            for at in (session.idle_expires_at, session.absolute_expires_at)
        ]
        seen.append((ends[0], ends[1]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    browser = await world.seed(world.starlette([], passive=is_poll), user="ada")
    browser.app = SessionMiddleware(app, find_middleware(browser.app).manager, passive=is_poll)
    for path in ("/poll", "/poll", "/visit", "/poll"):
        world.clock.advance(timedelta(days=4))
        await browser.get(path)
    await world.drain(browser.app)
    idle, absolute = zip(*seen, strict=True)
    assert idle == (10 * DAY, 6 * DAY, 14 * DAY, 10 * DAY)
    assert absolute == (86 * DAY, 82 * DAY, 78 * DAY, 74 * DAY)


async def test_loads_side_by_side(world: World, browser: Browser) -> None:
    """Who uses the session wins over who only looks, whichever of their loads is on its way."""

    async def both(first: bool, request: Request) -> None:
        await asyncio.gather(load_session(request, passive=first), load_session(request, passive=not first))

    def app_of(first: bool) -> ASGIApp:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await both(first, Request(scope))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        return SessionMiddleware(app, find_middleware(browser.app).manager)

    for first in (True, False):
        browser.app = app_of(first)
        before = await expiry(world, browser)
        gate = world.store.pause("load")
        exchange = browser.begin("GET", "/")
        await gate.reached()
        gate.release()
        assert (await exchange.done()).status == 200
        await world.drain(browser.app)
        assert world.calls() == {"load": 1, "touch": 1}
        assert await expiry(world, browser) == before + 3 * DAY
        world.clock.advance(timedelta(days=3))


async def test_who_has_used_it_goes_on_using_it(world: World, browser: Browser) -> None:
    """Promise 2: loaded passively after that, the session is extended by what is saved all the same."""
    await visit(world, browser, "/use")
    world.clock.advance(timedelta(hours=1))  # no touch is due
    assert await visit(world, browser, "/use_then_write") == ({"load": 1, "save": 1}, 3_600_000)


async def test_autoload_of_a_passive_request(world: World) -> None:
    """The predicate counts for what the middleware loads, too."""
    browser = await world.seed(world.starlette(ROUTES, passive=is_poll, autoload=True), user="ada")
    world.clock.advance(timedelta(days=3))
    assert await visit(world, browser, "/poll/use") == ({"load": 1}, 0)
    assert await visit(world, browser, "/look") == ({"load": 1, "touch": 1}, 3 * DAY)


@pytest.mark.parametrize("path", ["/look", "/poll/use"])
async def test_a_passive_websocket(world: World, path: str) -> None:
    """What a WebSocket does, a refresh or a commit, counts as use only where it uses the session."""

    async def socket(websocket: Any) -> None:
        session = await load_session(websocket, passive=websocket.url.path == "/look")
        await websocket.accept()
        while (await websocket.receive())["type"] == "websocket.receive":
            await session.refresh()
            session["n"] = session.get("n", 0) + 1
            await session.commit()
            await websocket.send_text("saved")

    app = world.starlette(
        [WebSocketRoute("/look", socket), WebSocketRoute("/poll/use", socket)], passive=is_poll
    )
    browser = await world.seed(app, user="ada")
    before = await expiry(world, browser)
    exchange = browser.connect(path)
    for number in range(3):
        world.clock.advance(timedelta(days=3))
        exchange.push({"type": "websocket.receive", "text": "go on"})
        await exchange.until(number + 2)
    exchange.disconnect()
    await exchange.done()
    await world.drain(app)
    assert world.calls() == {"load": 4, "save": 3}
    assert await expiry(world, browser) == before


async def test_the_dependencies(world: World) -> None:
    """`PassiveSessionDep` looks; with `SessionDep` in any dependency of the request, that is use."""
    app = FastAPI()

    def user(session: SessionDep) -> Any:
        return session.get("user")

    @app.get("/look")
    async def look(session: PassiveSessionDep) -> Any:
        return dict(session)

    @app.get("/use")
    async def use(session: SessionDep) -> Any:
        return dict(session)

    @app.get("/both")
    async def both(one: PassiveSessionDep, other: SessionDep) -> Any:
        assert one is other
        return dict(one)

    @app.get("/locked")
    async def locked(one: PassiveSessionDep, other: LockedSessionDep) -> Any:
        return dict(one)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, session: PassiveSessionDep) -> None:
        await websocket.accept()
        await websocket.send_text(session["user"])

    app.add_middleware(SessionMiddleware, store=world.store, clock=world.clock, on_event=world.on_event)
    middleware = app.build_middleware_stack()
    while not isinstance(middleware, SessionMiddleware):
        middleware = middleware.app  # type: ignore[attr-defined]
    browser = await world.seed(middleware, user="ada")
    world.clock.advance(timedelta(days=3))
    assert await visit(world, browser, "/look") == ({"load": 1}, 0)
    exchange = browser.connect("/ws")
    await exchange.done()
    assert exchange.sent[1]["text"] == "ada"
    assert world.calls() == {"load": 1}
    for path, commands in (("/use", {"load": 1, "touch": 1}), ("/both", {"load": 1, "touch": 1})):
        assert await visit(world, browser, path) == (commands, 3 * DAY)
        world.clock.advance(timedelta(days=3))
    assert await visit(world, browser, "/locked") == ({"load": 1, "save": 2, "touch": 1}, 3 * DAY)


@pytest.mark.parametrize("passive", [True, "/poll", 7, "async"])
def test_the_option_is_checked(passive: Any) -> None:
    """It is a plain function of the connection, and the error says so."""

    async def coroutine_function(connection: HTTPConnection) -> bool:
        return True

    wrong = coroutine_function if passive == "async" else passive
    with pytest.raises(ConfigurationError, match=r"passive=.*give a function"):
        SessionMiddleware(lambda *_: None, store=MemoryStore(), passive=wrong)  # type: ignore[arg-type]
