"""This library on one Redis or Valkey server. A request that uses its session loads it (``GET``). If
something changed, one ``SET ... IFEQ`` saves it (on servers before Valkey 8.1 and Redis 8.4 one script,
``EVALSHA``), unless another request has saved first: then both changes are merged and saved again.
"""

from __future__ import annotations

import functools
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from asgi_session import SessionMiddleware, load_session
from asgi_session.stores import RedisStore
from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "asgi-session, redis"
STORE: Final = "redis"
BARE: Final = "bare"


_store: Final = functools.cache(RedisStore.from_url)  # one for all apps of a process, as a site has it


def _destroy(request: Request) -> None:
    request.session.destroy()


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    return starlette_app(
        action, [Middleware(SessionMiddleware, store=_store(store_url))], load_session, _destroy
    )
