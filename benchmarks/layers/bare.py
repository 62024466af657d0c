"""No session layer: the app alone."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette

from benchmarks.actions import Action
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "bare Starlette app"
STORE: Final = None
BARE: Final = "bare"


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    return starlette_app(action, [])
