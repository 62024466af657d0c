"""The apps that are compared: one Starlette app, under different session layers.

Each has four routes: ``/bare`` never touches a session, ``/read`` reads one key, ``/write`` counts
one key up, ``/seed`` stores a realistic session of about 700 bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

REALISTIC: dict[str, Any] = {
    "user_id": 4711,
    "email": "someone.with.a.name@example.org",
    "roles": ["editor", "reviewer", "billing"],
    "csrf": "8f14e45fceea167a5a36dedd4bea2543",
    "locale": "de-CH",
    "cart": [
        {"sku": f"SKU-{n:05}", "quantity": n, "price": 1990 + n, "name": "A thing to buy"} for n in range(5)
    ],
    "flash": [{"level": "info", "text": "Welcome back, it has been a while."}],
    "last_seen": "2026-11-23T12:00:00+00:00",
    "count": 0,
}

Load = Callable[[Request], Awaitable[Any]]


def make_app(middleware: list[Middleware], load: Load) -> Starlette:
    """Return the app; `load` gets a request's session in the way that the layer recommends."""

    async def bare(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def read(request: Request) -> Response:
        session = await load(request)
        return PlainTextResponse(str(session["user_id"]))

    async def write(request: Request) -> Response:
        session = await load(request)
        session["count"] = session["count"] + 1
        return PlainTextResponse("ok")

    async def seed(request: Request) -> Response:
        session = await load(request)
        session.update(REALISTIC)
        return PlainTextResponse("ok")

    handlers = {"bare": bare, "read": read, "write": write, "seed": seed}
    return Starlette(
        routes=[Route(f"/{name}", handler) for name, handler in handlers.items()], middleware=middleware
    )


async def _scope_session(request: Request) -> Any:
    return request.session


def bare(redis_url: str) -> Starlette:
    """No session layer."""
    return make_app([], _scope_session)


def signed_cookie(redis_url: str) -> Starlette:
    """Starlette's SessionMiddleware: the session itself in a signed cookie."""
    from starlette.middleware.sessions import SessionMiddleware

    return make_app(
        [Middleware(SessionMiddleware, secret_key="0123456789abcdef0123456789abcdef")], _scope_session
    )


def starsessions(redis_url: str) -> Starlette:
    """starsessions on Redis, as its documentation sets it up, loading on use."""
    from starsessions import SessionMiddleware, load_session
    from starsessions.stores.redis import RedisStore

    async def load(request: Request) -> Any:
        await load_session(request)
        return request.session

    store = RedisStore(redis_url)
    return make_app(
        [Middleware(SessionMiddleware, store=store, lifetime=3600, cookie_https_only=False)], load
    )


def asgi_session_redis(redis_url: str) -> Starlette:
    """This library on Redis."""
    from asgi_session import SessionMiddleware, load_session

    return make_app([Middleware(SessionMiddleware, store=redis_url)], load_session)


def asgi_session_memory(redis_url: str) -> Starlette:
    """This library on its memory store."""
    from asgi_session import SessionMiddleware, load_session

    return make_app([Middleware(SessionMiddleware, store="memory://")], load_session)


APPS: dict[str, Callable[[str], Starlette]] = {
    "bare": bare,
    "signed cookie": signed_cookie,
    "starsessions": starsessions,
    "asgi-session, redis": asgi_session_redis,
    "asgi-session, memory": asgi_session_memory,
}
