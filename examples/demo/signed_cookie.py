"""The other panel's app: the same writes on Starlette's own sessions, which live in a signed cookie."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

COOKIE = "starlette_demo"  # not the other's name, and no other app's on this machine


async def show(request: Request) -> Response:
    """Show the session: what the cookie says."""
    return JSONResponse(request.session)


async def count(request: Request) -> Response:
    """Change one key."""
    request.session["count"] = request.session.get("count", 0) + 1
    return Response(status_code=204)


async def write(request: Request) -> Response:
    """Change a key of its own, after the same work as in the app beside this one."""
    await asyncio.sleep(0.05)
    request.session[f"key {request.path_params['number']}"] = request.app.state.worker
    return Response(status_code=204)


async def forget(request: Request) -> Response:
    """Remove the keys that `write` has set."""
    for key in [key for key in request.session if key.startswith("key ")]:
        del request.session[key]
    return Response(status_code=204)


def make_app(worker: str, secret: str) -> Starlette:
    """Return the app of one worker; all workers have the same secret."""
    app = Starlette(
        routes=[
            Route("/session", show),
            Route("/count", count, methods=["POST"]),
            Route("/keys/{number:int}", write, methods=["POST"]),
            Route("/keys", forget, methods=["DELETE"]),
        ],
        middleware=[Middleware(SessionMiddleware, secret_key=secret, session_cookie=COOKIE)],
    )
    app.state.worker = worker
    return app
