"""This library on its memory store, in a FastAPI app: what `SessionDep` costs shows best without a server."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from asgi_session import SessionMiddleware
from asgi_session.fastapi import SessionDep
from asgi_session.stores import MemoryStore
from benchmarks.actions import Action
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "asgi-session, memory, FastAPI"
STORE: Final = None
BARE: Final = "fastapi_bare"


_STORE: Final = MemoryStore()


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    app = fastapi_app(action, SessionDep, lambda session: session.destroy())
    app.add_middleware(SessionMiddleware, store=_STORE)
    return app
