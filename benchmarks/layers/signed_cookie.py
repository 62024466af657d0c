"""Starlette's own `SessionMiddleware`: the whole session in a signed cookie. It checks and decodes the
cookie in every request. A write sends the whole session to the browser; the last answer to arrive
overwrites the others.

https://starlette.dev/middleware/#sessionmiddleware: a ``secret_key``, and ``https_only=True``, which a
production site sets; a session lasts 14 days by default, and ends when it is empty. It has no store
and cannot be revoked, its content is readable by the client, and browsers refuse cookies of more than
4 KB.
"""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "Starlette signed cookie"
STORE: Final = None
BARE: Final = "bare"


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    secret = "0123456789abcdef0123456789abcdef"
    return starlette_app(action, [Middleware(SessionMiddleware, secret_key=secret, https_only=True)])
