"""A real OAuth login with authlib, which uses request.session synchronously, against a local provider."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from authlib.integrations.base_client.errors import MismatchingStateError  # type: ignore[import-untyped]
from authlib.integrations.starlette_client import OAuth  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.app.kit import Answer, Browser, World
from tests.app.provider import CLIENT_ID, CLIENT_SECRET, ISSUER, make_provider


def routes(provider: Starlette) -> list[Route]:
    """Return an app's login, callback and a page that says who one is."""
    oauth = OAuth()
    oauth.register(
        "local",
        server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        client_kwargs={
            "scope": "openid",
            "code_challenge_method": "S256",
            "transport": httpx2.ASGITransport(app=provider),
        },
    )

    async def login(request: Request) -> Any:
        hint = request.query_params["as"]
        return await oauth.local.authorize_redirect(request, "https://testserver/callback", login_hint=hint)

    async def callback(request: Request) -> Response:
        token = await oauth.local.authorize_access_token(request)
        user = token["userinfo"]["sub"]
        request.session["user"] = user
        request.session[f"logged in as {user}"] = True
        return JSONResponse(user)

    async def me(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    return [Route("/login", login), Route("/callback", callback), Route("/me", me)]


async def at_provider(provider: Starlette, started: Answer) -> str:
    """Follow the redirect to the provider, as the browser does; return where it leads back to."""
    location = started.header("location")
    assert started.status == 302
    assert location is not None
    transport = httpx2.ASGITransport(app=provider)
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.get(location)
    back = urlsplit(response.headers["location"])
    assert parse_qs(back.query)["state"] == parse_qs(urlsplit(location).query)["state"]
    return f"{back.path}?{back.query}"


async def test_login(world: World) -> None:
    """authlib's login works with autoload=True and nothing else, for a browser without a cookie."""
    provider = make_provider()
    app = world.starlette(routes(provider), autoload=True)
    browser = Browser(app)
    started = await browser.get("/login?as=ann")
    assert started.cookie is not None
    got = await browser.get(await at_provider(provider, started))
    assert (got.status, got.body) == (200, b'"ann"')
    assert (await browser.get("/me")).body == b'{"user":"ann","logged in as ann":true}'


async def test_a_callback_out_of_nowhere_is_refused(world: World) -> None:
    """A callback whose state is in another browser's session logs nobody in."""
    provider = make_provider()
    app = world.starlette(routes(provider), autoload=True)
    mine, victim = Browser(app), Browser(app)
    back = await at_provider(provider, await mine.get("/login?as=mallory"))
    with pytest.raises(MismatchingStateError):
        await victim.get(back)
    assert (await victim.get("/me")).body == b"{}"


@pytest.mark.parametrize("finish", ["in turn", "at once"])
@pytest.mark.parametrize("processes", [1, 2])
async def test_two_logins_in_parallel_tabs_both_finish(world: World, processes: int, finish: str) -> None:
    """Promise 4: two tabs start a login at the same time, and both come back to an app that knows them.

    Both requests read the session before either has saved its state, in one process or in two.
    """
    provider = make_provider()
    apps = [world.starlette(routes(provider), autoload=True) for _ in range(processes)]
    browser = await world.seed(apps[0], cart=["tea"])
    tabs = [browser.twin(), browser.twin()]
    tabs[1].app = apps[-1]
    loaded = world.store.pause("load", when="after", times=2)
    exchanges = [
        tab.begin("GET", f"/login?as={name}") for tab, name in zip(tabs, ("ann", "bob"), strict=True)
    ]
    await loaded.reached(2)
    loaded.release()
    started = [await exchange.done() for exchange in exchanges]
    assert [answer.cookie for answer in started] == [None, None]

    backs = [await at_provider(provider, answer) for answer in started]
    if finish == "at once":
        loaded = world.store.pause("load", when="after", times=2)
        exchanges = [tab.begin("GET", back) for tab, back in zip(tabs, backs, strict=True)]
        await loaded.reached(2)
        loaded.release()
        ended = [await exchange.done() for exchange in exchanges]
    else:
        ended = [await tab.get(back) for tab, back in zip(tabs, backs, strict=True)]
    assert [answer.body for answer in ended] == [b'"ann"', b'"bob"']

    left = await world.read(browser)
    assert left.pop("user") in ("ann", "bob")
    assert left == {"cart": ["tea"], "logged in as ann": True, "logged in as bob": True}


async def test_a_session_in_which_the_last_write_wins_loses_one() -> None:
    """The same two tabs on Starlette's signed cookie: the first login fails (this test's own control)."""
    provider = make_provider()
    app = Starlette(
        routes=routes(provider),
        middleware=[Middleware(SignedCookieMiddleware, secret_key="x", https_only=True)],
    )
    browser = Browser(app, name="session")
    exchanges = [browser.begin("GET", f"/login?as={name}") for name in ("ann", "bob")]
    started = await asyncio.gather(*(exchange.done() for exchange in exchanges))
    for answer in started:
        browser.keep(answer)
    backs = [await at_provider(provider, answer) for answer in started]
    with pytest.raises(MismatchingStateError):
        await browser.get(backs[0])
