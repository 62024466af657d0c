"""No session layer: the Litestar app alone."""

from __future__ import annotations

from typing import Final

from litestar import Litestar

from benchmarks.actions import Action
from benchmarks.layers.litestar_app import litestar_app

TITLE: Final = "bare Litestar app"
STORE: Final = None
BARE: Final = "litestar_bare"


def build(action: Action, store_url: str) -> Litestar:
    """Return the app."""
    return litestar_app(action)
