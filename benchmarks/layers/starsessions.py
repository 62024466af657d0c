"""starsessions on Redis, set up as its documentation does, loading on use."""

from __future__ import annotations

from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starsessions import SessionMiddleware, load_session
from starsessions.stores.redis import RedisStore

from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "starsessions"
STORE: Final = "redis"
BARE: Final = "bare"


async def _load(request: Request) -> Any:
    await load_session(request)
    return request.session


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    store = RedisStore(store_url)
    return starlette_app(action, [Middleware(SessionMiddleware, store=store, lifetime=14 * 24 * 3600)], _load)
