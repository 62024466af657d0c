"""No session layer: the FastAPI app alone."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI

from benchmarks.actions import Action
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "bare FastAPI app"
STORE: Final = None
BARE: Final = "fastapi_bare"


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    return fastapi_app(action)
