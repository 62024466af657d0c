"""Shared caches: no cookie is stored by one, and nothing that was made for one user."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from asgi_session import load_session
from tests.app.kit import Browser, World


async def handler(request: Request) -> Response:
    headers = dict(request.query_params)
    action = headers.pop("do")
    if action == "mark":
        request.session  # noqa: B018
    elif action != "nothing":
        session = await load_session(request)
        if action == "write":
            session["n"] = 1
        elif action == "rotate":
            session.rotate()
        elif action == "destroy":
            session.destroy()
    return PlainTextResponse("x", headers=headers)


ROUTES = [Route("/", handler)]


@pytest.mark.parametrize("action", ["write", "rotate", "destroy"])
async def test_a_cookie_is_kept_out(world: World, action: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the app lets caches do: the fields are replaced or removed, and one warning says so."""
    app = world.starlette(ROUTES)
    for query in ("cache-control=public", "cache-control=s-maxage%3D60", "cdn-cache-control=max-age%3D60"):
        browser = Browser(app) if action == "write" else await world.seed(app, n=1)
        got = await browser.get(f"/?do={action}&{query}")
        assert got.cookie is not None
        assert got.header("cache-control") == "private, no-store"
        assert got.header("cdn-cache-control") is None
    assert len([record for record in caplog.records if "shared caches" in record.getMessage()]) == 1


async def test_what_was_made_for_one_user_is_private(world: World) -> None:
    """Where the app says nothing, and only where a stored session was read."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    assert (await browser.get("/?do=read")).header("cache-control") == "private"
    assert (await browser.get("/?do=mark")).header("cache-control") is None
    assert (await browser.get("/?do=nothing")).header("cache-control") is None
    assert (await browser.get("/?do=read&expires=0")).header("cache-control") is None
    assert (await browser.get("/?do=read&cache-control=public")).header("cache-control") == "public"
    assert (await Browser(browser.app).get("/?do=read")).header("cache-control") is None


async def test_max_age_is_rounded_up(world: World) -> None:
    """A cookie that goes before its session would sign the user out; one of Max-Age=0 goes at once."""
    for timeout, expected in ((1209600, 1209600), (1, 1), (1.5, 2), (0.001, 1)):
        app = world.starlette(ROUTES, absolute_timeout=timeout, idle_timeout=timeout)

        async def slow(message: object) -> None:
            world.clock.advance(0.0004)

        got = await Browser(app).get("/?do=write", hook=slow)
        assert f"Max-Age={expected};" in (got.cookie or "")
