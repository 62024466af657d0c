"""This library on one Redis or Valkey server, in a FastAPI app: beside what else there is on FastAPI.

As our README sets it up; all options are the defaults (14 days idle, 90 days in all, Secure).
"""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from asgi_session import SessionMiddleware
from asgi_session.fastapi import SessionDep
from benchmarks.actions import Action
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "asgi-session, redis, FastAPI"
STORE: Final = "redis"
BARE: Final = "fastapi_bare"


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    app = fastapi_app(action, SessionDep, lambda session: session.destroy())
    app.add_middleware(SessionMiddleware, store=store_url)
    return app
