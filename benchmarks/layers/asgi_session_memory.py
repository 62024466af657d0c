"""This library on its memory store, which all apps of one process share."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from asgi_session import SessionMiddleware, load_session
from asgi_session.stores import MemoryStore
from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "asgi-session, memory"
STORE: Final = None
BARE: Final = "bare"


_STORE: Final = MemoryStore()


def _destroy(request: Request) -> None:
    request.session.destroy()


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    return starlette_app(action, [Middleware(SessionMiddleware, store=_STORE)], load_session, _destroy)
