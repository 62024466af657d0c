"""The session layers that are compared, each in a file of its own.

A layer's module has:

* ``TITLE``: its name in tables and plots
* ``STORE``: the server it needs: ``"redis"``, ``"cluster"`` or ``None``
* ``BARE``: the module name of the bare app of its framework; layers with the same one can be compared
* ``build(action, store_url)``: an ASGI app with one route, ``/``, that carries out the action
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal, Protocol, cast

from benchmarks.actions import Action

LAYERS = (
    "bare",
    "signed_cookie",
    "starsessions",
    "asgi_session_memory",
    "asgi_session_redis",
    "asgi_session_cluster",
    "fastapi_bare",
    "fastapi_redis_sdk",
    "asgi_session_fastapi",
    "litestar_bare",
    "litestar_sessions",
)
BY_THE_WAY: Final = ("fastapi_dependency", "asgi_session_fastapi_memory")
"""Two more, for a single comparison in "cost of a request"."""

CONNECTIONS: Final = 1200
"""The most that redis-py's pool may open, for the layers that use one. With its default of 100 the
101st command at a time fails instead of waiting. A busy site would raise that, and the suite makes up
to 1,024 requests at a time."""


class Layer(Protocol):
    """What a layer's module has."""

    TITLE: str
    STORE: Literal["redis", "cluster"] | None
    BARE: str
    build: Callable[[Action, str], Any]


def layer(name: str) -> Layer:
    """Return a layer's module."""
    return cast(Layer, import_module(f"benchmarks.layers.{name}"))


FRAMEWORKS: Final = {"bare": "Starlette", "fastapi_bare": "FastAPI", "litestar_bare": "Litestar"}
"""The framework of each bare app."""


def framework(name: str) -> str:
    """Return the name of the framework that a layer runs on."""
    return FRAMEWORKS[layer(name).BARE]


def like_for_like(mine: str, theirs: str) -> tuple[Layer, Layer]:
    """Return two layers that may be compared; ValueError if a difference could be their frameworks'."""
    if framework(mine) != framework(theirs):
        raise ValueError(f"{mine} runs on {framework(mine)}, {theirs} on {framework(theirs)}")
    return layer(mine), layer(theirs)
