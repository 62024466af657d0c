"""This library on a Redis or Valkey cluster."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from asgi_session import SessionMiddleware, load_session
from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "asgi-session, cluster"
STORE: Final = "cluster"
BARE: Final = "bare"


def _destroy(request: Request) -> None:
    request.session.destroy()


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    return starlette_app(action, [Middleware(SessionMiddleware, store=store_url)], load_session, _destroy)
