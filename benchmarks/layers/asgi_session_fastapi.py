"""This library on one Redis or Valkey server, in a FastAPI app: beside what else there is on FastAPI.

As our README sets it up; all options are the defaults (14 days idle, 90 days in all, Secure).
"""

from __future__ import annotations

import functools
from typing import Final

from fastapi import FastAPI

from asgi_session import SessionMiddleware
from asgi_session.fastapi import SessionDep
from asgi_session.stores import RedisStore
from benchmarks.actions import Action
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "asgi-session, redis, FastAPI"
STORE: Final = "redis"
BARE: Final = "fastapi_bare"


_store: Final = functools.cache(RedisStore.from_url)  # one for all apps of a process, as a site has it


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    app = fastapi_app(action, SessionDep, lambda session: session.destroy())
    app.add_middleware(SessionMiddleware, store=_store(store_url))
    return app
