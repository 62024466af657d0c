"""What an error response or an escaped exception commits, and the cookie it still carries."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from asgi_session import SessionGone, load_session
from tests.app.kit import Browser, World, answer
from tests.app.test_commit_errors import Pass
from tests.inside import manager_of


class Broken(Exception):
    """What the handlers below raise."""


async def set_and(request: Request) -> Response:
    """Change the session, then fail as the query says."""
    session = await load_session(request)
    query = request.query_params
    if "rotate" in query:
        session.rotate()
    if "destroy" in query:
        session.destroy()
    else:
        session["n"] = 2
    if "commit" in query:
        await session.commit()
    if "raise" in query:
        raise Broken("on purpose")
    if "http" in query:
        raise HTTPException(int(query["http"]), "on purpose")
    return PlainTextResponse("answered", int(query["status"]))


ROUTES = [Route("/", set_and)]


async def apology(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the app's page", 500)


SHAPES: dict[str, dict[str, Any]] = {
    "bare": {},
    "500 handler": {"handlers": {Exception: apology}},
    "HTTPException handler": {"handlers": {HTTPException: apology}},
    "BaseHTTPMiddleware around": {"outside": [Middleware(Pass)], "inside": [Middleware(Pass)]},
    "debug": {"debug": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


async def ask(browser: Browser, path: str) -> Any:
    """Make the request; a handler that raises must still raise at the server."""
    if "raise" not in path:
        return await browser.get(path)
    exchange = browser.begin("GET", path)
    with pytest.raises(Broken):
        await exchange.done()
    browser.keep(exchange.answer)
    return exchange.answer


@shapes
@pytest.mark.parametrize("how", ["status=500", "status=503", "raise", "http=502"])
async def test_a_failed_request_commits_no_data(world: World, shape: dict[str, Any], how: str) -> None:
    """A response >= 500 and an escaped exception drop what the handler had set, with an event."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    got = await ask(browser, f"/?{how}")
    assert got.status >= 500
    assert got.cookie is None
    assert world.calls() == {"load": 1}
    if "raise" not in how:
        assert "dropped" in world.names()


@shapes
@pytest.mark.parametrize("how", ["status=500", "raise", "http=502"])
async def test_a_failed_request_creates_nothing(world: World, shape: dict[str, Any], how: str) -> None:
    """A new visitor who meets an error gets no session."""
    browser = Browser(world.starlette(ROUTES, **shape))
    got = await ask(browser, f"/?{how}")
    assert (got.cookie, world.calls()) == (None, {})


@shapes
@pytest.mark.parametrize("how", ["status=500", "raise", "http=502"])
async def test_destroy_is_carried_out_whatever_happens(world: World, shape: dict[str, Any], how: str) -> None:
    """A logout whose page fails is still a logout: the session is dead and the cookie deleted."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    before = browser.twin()
    got = await ask(browser, f"/?destroy&{how}")
    assert got.status >= 500
    assert browser.cookie is None
    assert await world.read(before) == {}


@pytest.mark.parametrize("status", [400, 404, 499])
async def test_a_client_error_commits(world: World, status: int) -> None:
    """4xx responses are ordinary responses: a flash message or a failed login's counter is kept."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    assert (await ask(browser, f"/?http={status}")).status == status
    assert await world.read(browser) == {"n": 2}


@shapes
@pytest.mark.parametrize("how", ["status=500", "raise", "http=502"])
async def test_save_on_error(world: World, shape: dict[str, Any], how: str) -> None:
    """save_on_error=True commits all the same, for old sessions and new ones."""
    app = world.starlette(ROUTES, save_on_error=True, **shape)
    browser = await world.seed(app, n=1)
    await ask(browser, f"/?{how}")
    assert await world.read(browser) == {"n": 2}
    fresh = Browser(app)
    await ask(fresh, f"/?{how}")
    assert await world.read(fresh) == {"n": 2}


@shapes
async def test_a_rotation_committed_before_the_error_keeps_its_cookie(
    world: World, shape: dict[str, Any]
) -> None:
    """`rotate(); await commit(); raise` gives a plain 500 with the new cookie, and raises at the server."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    before = browser.twin()
    got = await ask(browser, "/?rotate&commit&raise")
    assert (got.status, got.body) == (500, b"Internal Server Error")
    assert browser.cookie != before.cookie
    assert got.header("cache-control") == "private, no-store"
    assert await world.read(browser) == {"n": 2}
    assert await world.read(before) == {}


@shapes
@pytest.mark.parametrize("how", ["http=502", "http=404", "status=500"])
async def test_an_error_page_of_the_app_carries_the_cookie_owed(
    world: World, shape: dict[str, Any], how: str
) -> None:
    """Where the app answers an error itself, its page goes out and the cookie with it."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    before = browser.cookie
    got = await ask(browser, f"/?rotate&commit&{how}")
    assert got.body in (b"on purpose", b"the app's page", b"answered")
    assert browser.cookie != before
    assert await world.read(browser) == {"n": 2}


@shapes
async def test_a_rotation_not_committed_is_dropped_with_the_error(
    world: World, shape: dict[str, Any]
) -> None:
    """A rotate() whose request fails did not happen: the old cookie is good, no new one is sent."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    got = await ask(browser, "/?rotate&raise")
    assert (got.cookie, world.calls()) == (None, {"load": 1})
    assert await world.read(browser) == {"n": 1}


async def test_destroy_fails_with_the_store(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A destroy() that the store did not take is a 503, not a deletion: the session still lives."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    world.store.fail("save", times=None)
    got = await ask(browser, "/?destroy&status=200")
    assert (got.status, got.cookie) == (503, None)
    got = await ask(browser, "/?destroy&raise")
    assert (got.status, got.cookie) == (500, None)
    assert world.names().count("failed") == 2
    assert caplog.text.count("the session store failed") == 1, "one outage, one line"
    world.store.heal()
    assert await world.read(browser) == {"n": 1}


async def test_an_explicit_commit_of_a_session_that_is_gone_is_409(world: World) -> None:
    """SessionGone escaping from an explicit commit is answered 409, by the middleware."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        assert session.id is not None
        await manager_of(session).revoke(session.id)
        session["n"] = 2
        await session.commit()
        raise AssertionError("commit() of a revoked session returned")

    browser = await world.seed(world.starlette([Route("/", handler)]), n=1)
    got = await browser.get("/")
    assert (got.status, got.cookie) == (409, None)


async def test_writing_after_destroy_is_an_error(world: World) -> None:
    """Writing after destroy() raises SessionGone; the session is ended all the same."""
    raised: list[Exception] = []

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        session.destroy()
        try:
            session["n"] = 2
        except SessionGone as error:
            raised.append(error)
            raise
        return PlainTextResponse("not reached")

    browser = await world.seed(world.starlette([Route("/", handler)]), n=1)
    before = browser.twin()
    got = await browser.get("/")
    assert (got.status, len(raised), browser.cookie) == (409, 1, None)
    assert await world.read(before) == {}


async def test_an_app_that_answers_nothing_commits_nothing(world: World) -> None:
    """An app that returns without a response has failed: nothing of its session is saved."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2

    wrapped = world.wrap(app)
    for browser in (Browser(wrapped), await world.seed(wrapped, n=1)):
        exchange = browser.begin("GET", "/")
        await exchange.done()
        assert exchange.sent == []
    assert world.calls() == {"load": 1}


async def test_the_client_left_while_it_sent_its_body(world: World) -> None:
    """A client that leaves before the response starts: the handler has failed and commits no data."""

    async def handler(request: Request) -> Response:
        (await load_session(request))["n"] = 2
        await request.body()
        return PlainTextResponse("not reached")

    app = world.starlette([Route("/", handler, methods=["POST"])])
    browser = await world.seed(app, n=1)
    exchange = browser.begin("POST", "/")
    exchange.hold_back()
    exchange.disconnect()
    with pytest.raises(ClientDisconnect):
        await exchange.done()
    assert await world.read(browser) == {"n": 1}


async def test_the_same_exception_may_be_raised_again(world: World) -> None:
    """One exception object raised by request after request does no harm."""
    error = Broken("reused")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2
        if scope["path"] == "/":
            raise error
        await answer(send)

    browser = await world.seed(world.wrap(app), n=1)
    for _ in range(3):
        with pytest.raises(Broken):
            await browser.get("/")
    assert (await browser.get("/ok")).status == 200
