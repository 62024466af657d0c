"""Changing secret_key while a fleet serves: at every step some processes have the old setting."""

from __future__ import annotations

from datetime import timedelta

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import SessionMiddleware, load_session
from tests.app.kit import Browser, World

OLD, NEW = "the old key " * 3, "the new key " * 3


async def add(request: Request) -> Response:
    """Count this visit."""
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def read(request: Request) -> Response:
    return JSONResponse((await load_session(request)).get("n", 0))


async def rotate(request: Request) -> Response:
    """Ask for a new cookie, as a login does."""
    (await load_session(request)).rotate()
    return Response()


ROUTES = [Route("/add", add, methods=["POST"]), Route("/read", read), Route("/rotate", rotate, methods=["POST"])]


class Fleet:
    """Processes with different settings on one store, and browsers that a load balancer sends to any."""

    def __init__(self, world: World) -> None:
        self._world = world

    def process(self, *keys: str) -> SessionMiddleware:
        return self._world.wrap(self._world.starlette_routes(ROUTES), secret_key=list(keys))
