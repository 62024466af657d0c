"""What an app puts in the place of scope["session"], and what it calls that it need not."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar, get
from litestar.connection import ASGIConnection
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookie
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from asgi_session import SessionMiddleware, load_session
from asgi_session.stores.memory import MemoryStore
from tests.app.kit import Browser, World, answer


@pytest.mark.parametrize(
    "value", [{}, {"user": "eve"}, None, object()], ids=["empty", "dict", "None", "object"]
)
@pytest.mark.parametrize("loaded", [True, False])
async def test_a_replacement_is_an_error(
    world: World, value: object, loaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would save it, so the request fails with a text that names what to call; nothing is lost."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if loaded:
            await scope["session"].load()
        scope["session"] = value
        await answer(send)

    browser = await world.seed(world.wrap(app), user="ada")
    got = await browser.get("/")
    assert got.status == 500
    assert "session.destroy()" in caplog.text
    assert "session.clear()" in caplog.text
    assert await world.read(browser) == {"user": "ada"}


async def test_a_replacement_after_the_headers_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It is too late for a status, and not for the log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        scope["session"] = {}

    browser = await world.seed(world.wrap(app), user="ada")
    assert (await browser.get("/")).status == 200
    assert "was replaced by a dict" in caplog.text


async def test_litestars_clear_session(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Under our middleware it would log nobody out: it is not answered 200."""

    @get("/logout", sync_to_thread=False)
    def logout(request: ASGIConnection[Any, Any, Any, Any]) -> None:
        request.clear_session()

    @get("/set", sync_to_thread=False)
    def set_(request: ASGIConnection[Any, Any, Any, Any]) -> None:
        request.set_session({"user": "eve"})

    for path in ("/logout", "/set"):
        app = world.wrap(Litestar([logout, set_], logging_config=None))  # type: ignore[arg-type]
        browser = await world.seed(app, user="ada")
        assert (await browser.get(path)).status == 500
        assert "Litestar's clear_session()" in caplog.text
        assert await world.read(browser) == {"user": "ada"}


async def test_another_session_middleware_further_in(world: World) -> None:
    """A mounted app's own is allowed: each keeps its own cookie and its own data."""

    async def inner(request: Request) -> Response:
        request.session["inner"] = request.session.get("inner", 0) + 1
        return JSONResponse(dict(request.session))

    async def outer(request: Request) -> Response:
        session = await load_session(request)
        session["outer"] = session.get("outer", 0) + 1
        return JSONResponse(dict(session))

    mounted = Starlette(
        routes=[Route("/in", inner)], middleware=[Middleware(SignedCookie, secret_key="k" * 16)]
    )
    browser = Browser(world.starlette([Route("/out", outer), Mount("/m", mounted)]))
    for _ in range(2):
        got = await browser.get("/m/in")
        assert (got.status, got.body) == (200, b'{"inner":1}')
        assert (got.header("set-cookie") or "").startswith("session=")
    assert (await browser.get("/out")).body == b'{"outer":1}'
    assert (await browser.get("/out")).body == b'{"outer":2}'


async def test_one_of_ours_with_another_cookie_further_in(world: World) -> None:
    """Two of ours with two names stand inside each other."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        session["n"] = 1
        return Response()

    inner = SessionMiddleware(
        Starlette(routes=[Route("/", handler)]), store=MemoryStore(), session_cookie="inner"
    )
    got = await Browser(world.wrap(inner)).get("/")
    assert got.status == 200
    assert (got.cookie or "").startswith("inner=")


async def test_marks_that_are_not_needed(world: World) -> None:
    """`mark_modified()` and ``modified = True`` are taken, and no write follows unless bytes differ."""

    async def handler(request: Request) -> Response:
        session: Any = await load_session(request)
        if request.url.path == "/nested":
            session["cart"].append(1)
        session.mark_modified()
        session.modified = True
        assert session.modified is (request.url.path == "/nested")
        with pytest.raises(ValueError, match="discard"):
            session.modified = False
        return Response()

    browser = await world.seed(world.starlette([Route("/", handler), Route("/nested", handler)]), cart=[])
    assert (await browser.get("/")).status == 200
    assert world.calls() == {"load": 1}
    assert (await browser.get("/nested")).status == 200
    assert world.calls() == {"load": 1, "save": 1}
