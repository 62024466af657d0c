"""Session fixation: what a cookie that was planted before a login is worth after it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.app.kit import Browser, World


async def hello(request: Request) -> Response:
    """Begin an anonymous session."""
    request.session["seen"] = True
    return Response()


async def login(request: Request) -> Response:
    """Log in as code written for Starlette's middleware does."""
    request.session["user"] = "victim"
    return Response()


async def login_that_rotates(request: Request) -> Response:
    """Log in with a new credential; what the visitor had stays."""
    request.session.rotate()  # type: ignore[attr-defined]
    request.session["user"] = "victim"
    return Response()


async def login_that_clears(request: Request) -> Response:
    """Log in with a new credential and an empty session."""
    request.session.clear()
    request.session["user"] = "victim"
    return Response()


async def me(request: Request) -> Response:
    """Show what the session holds."""
    return JSONResponse(dict(request.session))


def routes(login: Any) -> list[Route]:
    return [Route("/hello", hello), Route("/login", login, methods=["POST"]), Route("/me", me)]


async def plant_and_log_in(app: Starlette, *, name: str | None = None) -> tuple[bytes, bytes]:
    """Plant the attacker's cookie in the victim's browser and let the victim log in.

    Returns what /me then answers to the attacker and to the victim.
    """
    attacker = Browser(app, name=name)
    await attacker.get("/hello")
    assert attacker.cookie is not None
    victim = attacker.twin()
    await victim.post("/login")
    return (await attacker.get("/me")).body, (await victim.get("/me")).body


async def test_starlettes_signed_cookie() -> None:
    """The control: a planted signed cookie is a copy of old data, and shows nothing of the login."""
    stack = [Middleware(SignedCookieMiddleware, secret_key="not really a secret")]
    app = Starlette(routes=routes(login), middleware=stack)
    attacker, victim = await plant_and_log_in(app, name="session")
    assert attacker == b'{"seen":true}'
    assert victim == b'{"seen":true,"user":"victim"}'


async def test_a_login_that_does_not_rotate(world: World) -> None:
    """The same login code on a server-side session shares the logged-in session with the attacker."""
    attacker, victim = await plant_and_log_in(world.starlette(routes(login), autoload=True))
    assert attacker == victim == b'{"seen":true,"user":"victim"}'


@pytest.mark.parametrize(
    ("login", "left"),
    [
        (login_that_rotates, b'{"seen":true,"user":"victim"}'),
        (login_that_clears, b'{"user":"victim"}'),
    ],
)
async def test_a_login_that_rotates(world: World, login: Any, left: bytes) -> None:
    """Promise 8: after rotate(), or clear(), the planted cookie opens nothing of the victim's session."""
    attacker, victim = await plant_and_log_in(world.starlette(routes(login), autoload=True))
    assert (attacker, victim) == (b"{}", left)


async def test_a_planted_cookie_that_the_store_does_not_know(world: World) -> None:
    """Promise 8: an invented id is never adopted, so such a cookie opens nothing even without rotate()."""
    app = world.starlette(routes(login), autoload=True)
    attacker = Browser(app)
    attacker.cookie = "A" * 44
    victim = attacker.twin()
    await victim.post("/login")
    assert victim.cookie != attacker.cookie
    assert (await attacker.get("/me")).body == b"{}"
